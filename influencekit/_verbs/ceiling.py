"""How well leave-one-out agrees with itself: the ceiling of every agreement with it."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from influencekit._address import local
from influencekit._arguments import checked, real_number
from influencekit._bars import with_progress
from influencekit._direction import better_of, written
from influencekit._effects.repeated import Moved, check_moves
from influencekit._effects.retrain import Strategy
from influencekit._executors.session import Workers
from influencekit._repeatability import attainable, consistent, interval, intraclass, of_mean, of_one
from influencekit._training.workload import Workload
from influencekit._trajectory.fingerprint import digest
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import averaged
from influencekit._verbs.executor import with_executor
from influencekit._verbs.kept_effects import KeptEffects
from influencekit._verbs.kept_pieces import run_head
from influencekit._verbs.non_finite import zero_words
from influencekit._verbs.own_parts import labels_of
from influencekit._verbs.record import record
from influencekit._verbs.repeated_effects import Recorded, Repetition, effects_of_runs
from influencekit._verbs.reseeded import Reseeded, different, first_of, maker
from influencekit._verbs.results import (
    Windows,
    about,
    check_windows,
    example_coords,
    window_coords,
    windows_among,
)
from influencekit.errors import InputError
from influencekit.estimators.loo import LOO
from influencekit.interfaces import Average, Query, Recorder
from influencekit.metrics import METRICS, Top, agreement
from influencekit.registry import label, resolve
from influencekit.windows import Removal, Window

__all__ = ["agreements", "ceiling", "ceiling_of", "defined_agreement"]

_RUNS, _MOVED = 8, 0.001
_EACH = "query", "window", "train"


@with_progress
@with_executor
@checked
def ceiling(
    workload: Workload | str | Callable[[int], Workload] | Trajectory,
    query: Query | str = "test-loss",
    runs: int | None = None,
    moved: float | None = None,
    seeds: Sequence[int] | None = None,
    windows: Windows = None,
    removal: Removal = "global",
    recorder: Recorder | str | None = None,
    strategy: Strategy = "auto",
    average: Average | str | Any = None,
    examples: int | None = None,
    seed: int = 0,
    store: str | Path | None = None,
    level: float = 0.95,
    *,
    executor: Workers | str | Any = None,
) -> xr.Dataset:
    """Leave-one-out, repeated over several runs: how well it agrees with itself, and what it says on average.

    `workload`: a recorded run, taped or not, or what is recorded first: a `Workload`, a spec, a function seed
    -> `Workload`, which is called with 0. That is run 0. The others are its plan trained again from initial
    parameters of which each tensor is moved by the fraction `moved` of its RMS (0.001 unless you say), so
    that there are `runs` (8). With `seeds`, of a spec or a function, they are runs on the same examples with
    the start and the batch order of those seeds, and neither `runs` nor `moved` is taken.

    `effects` [run, query, window, train], `accuracy` [run], `seconds` [run] (NaN: taken from `store`).

    Agreement in the four metrics: `between` [metric, query, window, run, other]. `agreement` and
    `agreement_std` [metric, query, window]: mean and deviation over the pairs of runs. `loo_again`,
    `loo_again_std`: over the pairs of run 0 with another. `rest`: a run with the mean of the others.
    `ceiling` [target, metric, query, window]: what the expected effect itself would reach against one run
    (target "loo") and against the mean of these runs ("expected-loo"). Divide an estimate's agreement by it.
    With a for Pearson's agreement, they are sqrt(a) and sqrt(R a / (1 + (R - 1) a)); the other metrics get
    the same by way of the normal pair that agrees as well.

    Agreement in values, [query, window]: `icc` = (MSB - MSW) / (MSB + (R - 1) MSW); `ceiling_one` = sqrt(icc)
    and `ceiling_mean` = sqrt(R icc / (1 + (R - 1) icc)), 0 where icc is below 0. What a run adds to the
    effects of all examples alike counts as disagreement, although no ranking sees it; `icc_consistency` is
    the ICC without it. NaN where all effects are one number, as is all agreement.

    Of every example, [query, window, train]: `mean`, `deviation` over runs, `standard_error`, `low` and
    `high` (a t-interval at `level`), `sign_certainty` (that the expected effect has the sign of the mean) and
    `effect_size` = mean / deviation. `examples`: only so many are left out, drawn with `seed`; the others are
    NaN.

    `store`: a folder that keeps the effects of each run: a call that was killed continues, and more runs are
    added to those that are there. It is of one run, query and choice of windows; another is refused.

    `executor`: each run is trained, and retrained, there: see `ik.Workers`.

    Sign: removal minus full. Cost: `runs` times `loo`, and as many training runs. Errors: fewer than 2 runs,
    a fraction that is 0 or above 1, `runs` or `moved` beside seeds, seeds for what has no others, a folder of
    something else, and those of `estimate`.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> found = ik.ceiling(run, runs=3, moved=0.01)
        >>> found.ceiling.sel(target="loo", metric="spearman").item() > 0.99
        True
    """
    others: Sequence[Repetition]
    if seeds is None:
        others = check_moves("ceiling", _RUNS if runs is None else runs, _MOVED if moved is None else moved)
    else:
        for name, value in (("runs", runs), ("moved", moved)):
            if value is not None:
                raise InputError(
                    f"ceiling: {name}= is for moved starts, and seeds= says itself which runs there are; "
                    "leave one of the two out"
                )
        others = [Reseeded(maker(workload), each, recorder) for each in different(seeds)]
    if isinstance(workload, Trajectory) and recorder is not None:
        raise InputError(
            "ceiling: recorder= is for workloads, which are trained anew, and this run is recorded; leave it "
            "out"
        )
    run = workload if isinstance(workload, Trajectory) else record(first_of(workload), recorder)
    run = averaged(run, average)
    return ceiling_of(run, query, others, windows, removal, strategy, examples, seed, store, level)


def ceiling_of(
    trajectory: Trajectory,
    query: Query | str,
    others: Sequence[Repetition],
    windows: Windows = None,
    removal: Removal = "global",
    strategy: Strategy = "auto",
    examples: int | None = None,
    seed: int = 0,
    store: str | Path | None = None,
    level: float = 0.95,
) -> xr.Dataset:
    """`ceiling` of a recorded run and at least one other."""
    level = real_number("ceiling: level", level, above=0.0, below=1.0)
    query, single = resolve("query", query), LOO(examples, seed, strategy)
    trajectory.unchanged.check()
    chosen = windows_among(trajectory.plan.epoch.tolist(), windows, removal)
    check_windows(trajectory, single, chosen)
    labels, workload = labels_of(trajectory, query), trajectory.workload
    shape = len(labels), len(chosen), workload.n_train
    head = _head(trajectory, query, labels, chosen, single, others)
    with nullcontext() if store is None else KeptEffects(local(store), head) as kept:
        runs = effects_of_runs(trajectory, (Recorded(), *others), query, single, chosen, kept, shape)
    every, seconds = [run.found for run in runs], [run.seconds for run in runs]
    stacked = np.stack([each.effects for each in every])
    effects = torch.from_numpy(stacked).double()
    names = [str(other) for other in (Recorded(), *others)]
    attrs = about(trajectory, query, single)
    if zero := zero_words(trajectory, query, chosen, effects):
        attrs["caution"] = "; ".join(filter(None, (attrs.get("caution"), zero)))
    return xr.Dataset(
        {
            "effects": (("run", *_EACH), stacked, written(better_of(query))),
            "accuracy": (("run",), np.array([each.accuracy for each in every])),
            "seconds": (("run",), np.array(seconds)),
            **agreements(effects),
            **_examples(effects, level),
        },
        coords={
            "run": names, "other": names, "metric": list(METRICS), "target": ["loo", "expected-loo"],
            "query": labels, **example_coords(workload), **window_coords(chosen),
        },
        attrs={
            **attrs, "runs": len(every), "moved": _how(others), "level": level,
            "examples": int(effects[0, 0, 0].isfinite().sum()),
        },
    )  # fmt: skip


def agreements(effects: Tensor) -> dict[str, Any]:
    """How the runs of effects [run, query, window, train] agree, and what an estimate can then reach.

    {name: (dims, values)}, from `between` to `ceiling_mean` as `ceiling` has and explains them; NaN = not
    left out. For a part of the examples give their effects alone. At least 2 runs. Cost: R^2 agreements.

    Example:

        >>> import torch
        >>> from influencekit.extend import agreements
        >>> effects = torch.randn(24, generator=torch.Generator().manual_seed(0)).double()
        >>> dims, values = agreements(torch.stack([effects, effects + 1]).view(2, 1, 1, 24))["ceiling"]
        >>> dims, values.round(3).ravel().tolist()[:2]
        (('target', 'metric', 'query', 'window'), [1.0, 1.0])
    """
    known = effects[..., effects.isfinite().flatten(0, -2).all(0)]
    runs, total = len(known), known.sum(0)
    between = torch.stack([defined_agreement(known[r].expand_as(known), known) for r in range(runs)])
    between = between.permute(4, 2, 3, 0, 1)  # [metric, query, window, run, other]
    pairs = between[(..., *torch.triu_indices(runs, runs, 1))]
    again = between[..., 0, 1:]
    rest = (
        torch.stack([defined_agreement(each, (total - each) / (runs - 1)) for each in known])
        .mean(0)
        .movedim(-1, 0)
    )
    one, mean = (
        torch.stack([attainable(m, a, count) for m, a in zip(METRICS, pairs.mean(-1), strict=True)])
        for count in (1, runs)
    )
    icc = intraclass(known)
    dims = "metric", "query", "window"
    found: dict[str, tuple[tuple[str, ...], Tensor]] = {
        "between": ((*dims, "run", "other"), between),
        "agreement": (dims, pairs.mean(-1)),
        "agreement_std": (dims, pairs.std(-1, correction=0)),
        "loo_again": (dims, again.mean(-1)),
        "loo_again_std": (dims, again.std(-1, correction=0)),
        "rest": (dims, rest),
        "ceiling": (("target", *dims), torch.stack([one, mean])),
        "icc": (dims[1:], icc),
        "icc_consistency": (dims[1:], consistent(known)),
        "ceiling_one": (dims[1:], of_one(icc)),
        "ceiling_mean": (dims[1:], of_mean(icc, runs)),
    }
    return {name: (dims, values.numpy()) for name, (dims, values) in found.items()}


def defined_agreement(x: Tensor, y: Tensor, top: Top = "signed") -> Tensor:
    """`agreement`, in which jaccard, too, is NaN where either side is constant: of equal effects the top part
    is whoever comes first."""
    found = agreement(x, y, top)
    constant = found[..., list(METRICS).index("pearson")].isnan()
    return found.masked_fill(constant[..., None], torch.nan)


def _examples(effects: Tensor, level: float) -> dict[str, Any]:
    """What the runs say of every example."""
    found = interval(effects, level)._asdict()
    names = {"error": "standard_error", "certainty": "sign_certainty", "size": "effect_size"}
    return {names.get(name, name): (_EACH, values.numpy()) for name, values in found.items()}


def _how(others: Sequence[Repetition]) -> str:
    """How the other runs differ: the fraction by which they were moved, or "seeds"."""
    first = others[0]
    return f"{first.fraction:g}" if isinstance(first, Moved) else "seeds"


def _head(
    trajectory: Trajectory, query: Query, labels: Sequence[Any], windows: Sequence[Window], single: LOO,
    others: Sequence[Repetition],
) -> dict[str, Any]:  # fmt: skip
    """What a folder of effects is of."""
    ending = trajectory.ending
    return {
        "workload": trajectory.workload.name,
        **run_head(trajectory, query),
        "query": label(query),
        "labels": digest([str(each) for each in labels]),
        "windows": [[w.start, w.stop, w.removal] for w in windows],
        "average": None if ending is None else str(ending.average),
        "examples": [single.examples, single.seed if single.examples else 0],
        "other starts": _how(others),
    }
