"""`influencekit estimate`: scores of every training example of a recorded run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from influencekit.cli.bar import progress
from influencekit.cli.output import new_file, save_dataset
from influencekit.cli.parameters import shared
from influencekit.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["estimate"]

FORMATS = (".zarr", ".nc", ".csv")


@click.command(short_help="Which examples mattered in a recorded run?")
@click.argument("store")
@click.option(
    "--estimator",
    default="dit",
    show_default=True,
    metavar="SPEC",
    help="dit, sgd-influence, if, loo, ... with options if you like: if:damping=0.1, loo:examples=32.",
)
@shared("query", "window", "removal")
@click.option(
    "--out",
    metavar="FILE",
    help="A new file for the scores: .zarr, .nc (netCDF) or .csv (most harmful first).",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="How many harmful and helpful examples are printed.",
)
@shared("device", "data-dir", "threads")
def estimate(
    store: str, estimator: str, query: str, window: str, removal: Any, out: str | None, top: int, device: str,
    data_dir: str | None, threads: int,
) -> None:  # fmt: skip
    """Score every training example of the run in STORE, and print the most harmful and most helpful ones.

    A score is the query without the example minus the query with it: for a loss, negative means harmful.
    Examples:

    \b
      influencekit estimate run.zarr
      influencekit estimate run.zarr --query prediction:example=3 --window step:10-40 --out scores.csv
    """
    if out and Path(out).suffix not in FORMATS:
        raise InputError(f"--out {out}: expected a name that ends in {', '.join(FORMATS)}")
    with new_file(out) as path:
        with progress():
            from influencekit import pipeline
            from influencekit.cli.examples import classes
            from influencekit.cli.problems import reopen, use_device

            trajectory = reopen(store, data_dir, use_device(device, threads))
            scores = pipeline.estimate(trajectory, query, estimator, window, removal)
            result = _labelled(scores, classes(trajectory.workload), dict(trajectory.workload.info))
        if path and path.suffix == ".csv":
            from influencekit.cli.saving import write_ranking

            write_ranking(result, path)
        elif path:
            save_dataset(result, path)
    from influencekit.cli.ranking import report
    from influencekit.cli.table import width_of

    click.echo(report(result, top, width_of(sys.stdout)))
    if out:
        click.echo(f"saved in {out}")


def _labelled(scores: xr.Dataset, labels: list[str] | None, info: dict[str, Any]) -> xr.Dataset:
    """The scores with the dims of a comparison, which has estimator and seed, too: one of each."""
    import numpy as np

    ids = [str(i) for i in scores.train.values.tolist()]
    seed = int(info["draw_seed"])
    result = scores.drop_vars("train").expand_dims(estimator=[scores.attrs["estimator"]], seed=[seed])
    result = result.assign_coords(example=(("seed", "train"), np.array([ids])))
    if labels is not None:
        result = result.assign_coords(label=(("seed", "train"), np.array([labels])))
    return result.assign_attrs({f"info_{k}": v for k, v in info.items()} | {"seed": seed})
