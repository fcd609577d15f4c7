"""A comparison over several seeds on an executor: each seed is a slice, which trains, scores and retrains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from influencekit._address import local
from influencekit._executors.session import Session
from influencekit._executors.slices import Slice
from influencekit._training.step import Step
from influencekit._training.workload import Workload
from influencekit._trajectory.code_key import code_key
from influencekit._trajectory.fingerprint import contents, digest, fingerprint
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import asked, averaged
from influencekit._verbs.compare_ceiling import of_ceiling
from influencekit._verbs.cross_seed import SharedExamples
from influencekit._verbs.results import examples, run_of
from influencekit.errors import InputError
from influencekit.interfaces import Estimator, Query
from influencekit.metrics import Top, agreement
from influencekit.registry import label

__all__ = ["call_each", "compared_seeds", "whose_scores"]


def compared_seeds(
    session: Session, compare: Callable[..., xr.Dataset], workload: Any, problem: Callable[[int], Workload],
    methods: Sequence[Estimator], reference: Estimator, query: Query, seeds: Sequence[int],
    options: tuple[Any, ...], side: Top, shared: SharedExamples | None,
) -> xr.Dataset:  # fmt: skip
    """What `compare` gives of these seeds, each compared by a worker and joined here.

    `options`: those of `compare`, from `windows` on. Cost here: the first training step of every seed, by
    which a slice is known.
    """
    windows, removal, recorder, top, average, ceiling, runs, store = options
    store = None if store is None else local(store)
    words = [each if isinstance(each, str | int | float | None) else code_key(each) for each in options[:-1]]
    common = {
        "what": "seed", "estimators": [*map(label, [*methods, reference])],
        "query": label(query), "code": code_key([methods, reference, query]),
    }  # fmt: skip
    slices, step = list[Slice](), None
    for seed in seeds:
        one = problem(seed)
        step = Step(one, like=step)
        first = step.advance(step.start())[0].theta
        known = digest([fingerprint(one), contents(one), first])
        of = {**common, "workload": one.name, "seed": seed, "settings": known, "options": words}
        more = recorder, None, top, average, ceiling, runs, False, store
        given = workload, methods, reference, query, windows, removal, (seed,), *more
        slices.append(Slice(of, compare, given))
        if shared is not None:
            shared.add(seed, one)
    found = dict(session.alone("seeds", slices))
    return _joined([found[k] for k in range(len(seeds))], list(seeds), side)


def _joined(found: list[xr.Dataset], seeds: list[int], side: Top) -> xr.Dataset:
    known = [np.isfinite(one.influence.values).reshape(-1, one.sizes["train"]).all(0) for one in found]
    if any((each != known[0]).any() for each in known):
        raise InputError(
            "an estimator leaves out other examples for every seed, which is compared in one process only; "
            "leave out executor"
        )
    names = [one.train.values.tolist() for one in found]
    queries = [one["query"].values.tolist() for one in found]
    labels = [one.label.values[0] if "label" in one.coords else None for one in found]
    plain = [one.drop_vars([n for n in ("train", "query", "label") if n in one.coords]) for one in found]
    caution = [str(one.attrs["caution"]) for one in found if one.attrs.get("caution")]
    result = xr.concat(
        plain, "seed", data_vars="minimal", coords="minimal", compat="override", join="exact",
        combine_attrs="override",
    )  # fmt: skip
    result = result.assign_coords(seed=seeds)
    if all(each == names[0] for each in names):
        result = result.assign_coords(train=found[0].train.values)
    else:
        ids = np.array([[str(i) for i in each] for each in names])
        result = result.assign_coords(example=(("seed", "train"), ids))
    same = all(each == queries[0] for each in queries)
    count = np.arange(found[0].sizes["query"])
    result = result.assign_coords(query=found[0]["query"].values if same else count)
    if all(each is not None for each in labels):
        result = result.assign_coords(label=(("seed", "train"), np.stack(labels)))  # type: ignore[arg-type]
    scores = torch.from_numpy(result.influence.transpose("estimator", "seed", ...).values)[..., known[0]]
    truth = scores[result.estimator.values.tolist().index(result.attrs["reference"])]
    matched = agreement(scores, truth.expand_as(scores), side).movedim(-1, 1).numpy()
    result["agreement"] = ("estimator", "metric", "seed", "query", "window"), matched
    if "of_ceiling" in result:
        result["of_ceiling"] = of_ceiling(result)
    result.attrs = {k: v for k, v in found[-1].attrs.items() if not k.startswith("slice_") and k != "caution"}
    said = "; ".join(dict.fromkeys(caution))
    return result.assign_attrs({"caution": said} if said else {})


def call_each(
    each: Callable[[int, Trajectory, xr.Dataset], object], result: xr.Dataset,
    runs: Iterable[tuple[int, Trajectory, float]], average: Any, query: Query,
) -> None:  # fmt: skip
    """`each`, with the runs trained here and the scores that workers gave."""
    zero = xr.zeros_like(result.influence.isel(train=0, drop=True)).reset_coords(drop=True)
    both = xr.Dataset({"influence": result.influence, "intercept": result.get("intercept", zero)})
    for seed, recorded, _ in runs:
        trajectory = averaged(recorded, average)
        scores = both.sel(seed=seed, drop=True).drop_vars(["example", "run"], errors="ignore")
        scores = scores.assign_coords(train=examples(trajectory.workload))
        each(seed, trajectory, scores.assign_attrs(whose_scores(trajectory, query)))


def whose_scores(trajectory: Trajectory, query: Query) -> dict[str, Any]:
    """What the scores of one seed say of whose they are."""
    problem = trajectory.workload
    whose = {"query": label(query), "workload": problem.name, "seed": problem.seed}
    return whose | {"run": run_of(trajectory, query), **asked(trajectory)}
