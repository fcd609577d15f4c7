"""What `compare` gave, as a report takes it: one estimator's scores of one seed, and the reference."""

from __future__ import annotations

from typing import Any

import xarray as xr

from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.results import about, example_coords
from influencekit.registry import make, resolve

__all__ = ["of_comparison"]


def of_comparison(result: xr.Dataset, run: Trajectory) -> dict[str, Any]:
    """Arguments of `report`: `scores` of the first estimator for the first seed, whose `run` this is, and
    `retrained`, the reference's; the ceiling, where the reference is plain leave-one-out."""
    reference = result.attrs["reference"]
    names = [n for n in result.estimator.values.tolist() if n != reference] or [reference]
    first = result.isel(seed=0)
    query, estimator = make("query", result.attrs["query"]), resolve("estimator", names[0])
    attrs = about(run, query, estimator)
    attrs |= {n: result.attrs[n] for n in ("caution", "average", "average_states") if n in result.attrs}
    coords: dict[str, Any] = {n: (first[n].dims, first[n].values) for n in ("start", "stop", "removal")}
    coords |= {"query": first["query"].values, **example_coords(run.workload)}  # seeds have other examples

    def of(name: str, variable: str) -> xr.Dataset:
        values = first.influence.sel(estimator=name).transpose("query", "window", "train")
        return xr.Dataset({variable: (values.dims, values.values)}, coords=coords, attrs=attrs)

    found: dict[str, Any] = {"scores": of(names[0], "influence"), "retrained": [of(reference, "retrained")]}
    if "ceiling" in first and reference.split(":")[0] == "loo":
        found["ceiling"] = xr.Dataset(
            {"ceiling": first.ceiling.expand_dims(target=["loo"])},
            attrs=attrs | {"runs": result.attrs["ceiling_runs"]},
        )
    return found
