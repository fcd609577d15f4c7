"""Record runs, score their examples by several estimators, and compare those with ground truth."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from influencekit import __version__
from influencekit._arguments import checked, short
from influencekit._bars import with_progress
from influencekit._direction import better_of, sign, written
from influencekit._executors import ambient
from influencekit._executors.session import Workers
from influencekit._training.step import Step
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import asked, averaged
from influencekit._verbs.compare_ceiling import Moves, of_ceiling, repeats_of
from influencekit._verbs.compare_seeds import call_each, compared_seeds, whose_scores
from influencekit._verbs.cross_seed import SharedExamples, with_cross_agreement
from influencekit._verbs.estimate import estimate
from influencekit._verbs.executor import with_executor
from influencekit._verbs.record import record
from influencekit._verbs.reseeded import different
from influencekit._verbs.results import (
    Windows,
    check_windows,
    class_labels,
    examples,
    intercept_of,
    require_run,
    run_of,
    windows_among,
)
from influencekit.errors import InputError
from influencekit.interfaces import Average, Claim, Estimator, Query, Recorder
from influencekit.metrics import METRICS, Top, agreement, border_ties, top_words
from influencekit.progress import track
from influencekit.registry import label, listed, make, resolve
from influencekit.windows import Removal, Window

__all__ = ["compare", "last_digits"]


@with_progress
@with_executor
@checked
def compare(
    workload: Workload | str | Callable[[int], Workload] | Trajectory,
    estimators: Sequence[Estimator | str] = ("dit", "if", "loo"),
    reference: Estimator | str = "loo",
    query: Query | str = "test-loss",
    windows: Windows = None,
    removal: Removal = "global",
    seeds: Sequence[int] | None = None,
    recorder: Recorder | str | None = None,
    each: Callable[[int, Trajectory, xr.Dataset], object] | None = None,
    top: Top = "signed",
    average: Average | str | Any = None,
    ceiling: Moves | None = None,
    runs: int = 8,
    cross_seed: bool = False,
    store: str | Path | None = None,
    *,
    executor: Workers | str | Any = None,
) -> xr.Dataset:
    """Score the examples of a run, or of a run per seed, with every estimator; compare with the reference.

    `workload` is a recorded run, taped or not: it is scored as it is. Or what is trained first: a `Workload`
    (then seeds change nothing but its batch order), a function seed -> Workload, or the spec of a registered
    one, such as "mnist-1v7-lr:setting=trained". `seeds` (0 unless you say) and `recorder` ("full") are for
    those.

    The result has `influence` [estimator, seed, query, window, train], `agreement` [estimator, metric, seed,
    query, window] over the examples that all have scored; `ties` [estimator, seed, query, window], how many
    examples stand so near the border of the top 30 % that Jaccard compares that rounding decides who is in
    (`metrics.border_ties`); `seconds` [estimator, seed], `training_seconds` [seed] (NaN for a recorded run),
    `accuracy` [seed] on the test set, and `label` [seed, train], the examples' classes, where they have some.
    Their ids are the coordinate `train`; where seeds draw different examples, `example` [seed, train]. The
    coordinate `run` [seed] tells the runs apart. `intercept` [estimator, seed, query, window] is added to
    sums of scores, where an estimator has one (`dit:centre=0.5`); it is 0 for the others.

    `top`: the Jaccard similarity is that of the highest 30 % by signed value, unless you ask for "abs", by
    absolute value, or "harmful", the most harmful ones.

    `each` is called with every seed, its run and its scores, `influence` [estimator, query, window, train],
    which is what `influencekit.evaluation` takes. `average`: as of `estimate`.

    `ceiling` repeats the retraining of every seed over `runs` runs, the recorded one among them, and says how
    well it agrees with itself (see `ik.ceiling`): from starts moved by this fraction of their size (0.001),
    or for "seeds" with other starts and batch orders on the same examples. `loo_again` [metric, seed, repeat,
    query, window] is what retraining itself reaches: with loo as the reference, the agreement of each further
    run's leave-one-out with this run's; with expected-loo, of one run with the mean of the others. `ceiling`
    [metric, seed, query, window] is what the expected effect would reach, were it known: against one run (for
    pearson sqrt(a), a the agreement of two runs) or against the mean of R runs (sqrt(R a / (1 + (R - 1) a)));
    see `ik.ceiling`. `of_ceiling` [estimator, metric, seed] is estimate /
    ceiling, of the means over queries and windows. It may be above 1, since an estimate follows this very
    run. `icc`, `ceiling_one`, `ceiling_mean` [seed, query, window] are those of `ik.ceiling`. `store`: a
    folder that keeps the effects, so that a call that was killed continues.

    `cross_seed` (and ceiling="seeds") add `cross_agreement` [estimator, metric, query, window], the mean over
    ordered pairs of different seeds of the agreement of one seed's estimate with another one's reference,
    where all seeds have the same examples; elsewhere the attr `cross_note` says why there is none. Bundled
    workloads have them with data_seed: "mnist-1v7-dnn:data_seed=0".

    `executor`: of several seeds each is trained and compared there; of one, and of a recorded run, its
    retraining is. `ik.Workers` says what that takes; the seeds of `each` are trained here, too.

    Cost: a training run a seed, and each estimator's own; of a ceiling `runs` - 1 times that of loo. Errors:
    those of `record` and `estimate`; seeds that are not different whole numbers; seeds or a recorder for a
    run; top="harmful" for a query of which neither way is better; a ceiling that is not above 0, of fewer
    than 2 runs, of a reference that is no retraining, or of seeds for a run.

    Example:

        >>> import influencekit as ik
        >>> found = ik.compare("mnist-1v7-lr:n_train=24:epochs=2", ["dit", "if"], seeds=(0, 1))
        >>> found.agreement.sel(estimator="dit", metric="pearson").mean().item() > 0.99
        True
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> found = ik.compare(run, ["dit"], ceiling=0.001, runs=3)
        >>> found.of_ceiling.sel(estimator="dit", metric="pearson").item() > 0.99
        True
    """
    if each is not None and not callable(each):
        raise InputError(f"each: expected a function of seed, run and scores, got {short(each)}")
    every = *listed("estimators", estimators), reference
    methods = {label(e): e for e in (resolve("estimator", e) for e in every)}
    truth = label(resolve("estimator", reference))
    query = resolve("query", query)
    words, side = top_words(top), _side(query, top)
    rows: list[list[xr.DataArray]] = []
    intercepts: list[list[xr.DataArray]] = []
    seconds, accuracy, names, labels, notes, digits, beware = [], [], [], [], {}, [], list[str]()
    names_of_runs: list[str] = []
    used, measured = list[int](), list[xr.Dataset]()
    repeats = repeats_of(ceiling, runs, methods[truth], workload, store)
    shared = SharedExamples() if cross_seed or ceiling == "seeds" else None
    several = [] if seeds is None or isinstance(workload, Trajectory) else different(seeds)
    if (session := ambient.session()) and len(several) > 1:
        options = windows, removal, recorder, top, average, ceiling, runs, store
        asked_for = [*methods.values()], methods[truth], query, several
        problem_of = partial(_problem, workload)  # type: ignore[arg-type]  # it is no run
        result = compared_seeds(session, compare, workload, problem_of, *asked_for, options, side, shared)
        if each is not None:
            call_each(each, result, _runs(workload, seeds, recorder), average, query)
        return result if shared is None else with_cross_agreement(result, shared, side)
    for seed, recorded, training in _runs(workload, seeds, recorder):
        trajectory = averaged(recorded, average)
        problem = trajectory.workload
        used.append(seed)
        chosen = windows_among(trajectory.plan.epoch.tolist(), windows, removal)
        for method in methods.values():  # whoever cannot do it says so before the others have worked
            check_windows(trajectory, method, chosen)
        accuracy.append(trajectory.attrs.get("accuracy", np.nan))
        names.append(examples(problem))
        labels.append(class_labels(problem))
        found, spent, added = [], [], []
        if shared is not None:
            shared.add(seed, problem)
        if repeats is not None:
            again = partial(_problem, workload)  # type: ignore[arg-type]  # of a run there are no seeds
            measured.append(repeats.measure(trajectory, query, chosen, seed, again))
        for name, method in track(methods.items(), "estimators", len(methods)):
            began = time.perf_counter()
            there = repeats and repeats.scores(measured[-1], trajectory, query, chosen, method)
            result = there[0] if there else estimate(trajectory, query, method, chosen)
            spent.append(there[1] if there else time.perf_counter() - began)
            found.append(result.influence)
            added.append(intercept_of(result))
            notes[name] = {k[5:]: v for k, v in result.attrs.items() if k.startswith("note_")}
            said = result.attrs.get("caution", "").removeprefix(trajectory.caution).removeprefix("; ")
            own = method.caution(trajectory)
            if own and f"{name}: {own}" not in beware:
                beware.append(f"{name}: {own}")
            if zero := said.removeprefix(own).removeprefix("; "):
                beware.append(f"{name}{_which(workload, seed)}: {zero}")
        rows.append(found)
        intercepts.append(added)
        names_of_runs.append(run_of(trajectory, query))
        seconds.append([*spent, training])
        digits.append(last_digits(trajectory, query, chosen))
        if each is not None:
            names_of = xr.DataArray(list(methods), dims="estimator", name="estimator")
            together = {"influence": xr.concat(found, names_of), "intercept": xr.concat(added, names_of)}
            each(seed, trajectory, xr.Dataset(together, attrs=whose_scores(trajectory, query)))
    result = _assemble(
        rows, list(methods), truth, used, seconds, accuracy, names, labels, notes, problem, query, side
    )
    exact = [Claim.EXACT in method.claims for method in methods.values()]
    result["ties"] = _ties(result, exact, torch.stack(digits), side)
    if any(one.values.any() for added in intercepts for one in added):
        values = np.stack([[one.values for one in added] for added in intercepts], 1)
        result["intercept"] = ("estimator", "seed", "query", "window"), values
    if repeats is not None:
        result = result.assign(repeats.variables(result, measured, side)).assign_attrs(repeats.attrs)
        result["of_ceiling"] = of_ceiling(result)
    if shared is not None:
        result = with_cross_agreement(result, shared, side)
    if trajectory.caution:
        beware.insert(0, trajectory.caution)
    result = result.assign_coords(run=("seed", names_of_runs)).assign_attrs(asked(trajectory))
    return result.assign_attrs(jaccard=words, **({"caution": "; ".join(beware)} if beware else {}))


def _assemble(
    rows: list[list[xr.DataArray]], names: list[str], truth: str, seeds: Sequence[int],
    seconds: list[list[float]], accuracy: list[float], ids: list[list[Any]],
    labels: list[list[str] | None], notes: Mapping[str, Any], workload: Workload, query: Query, top: Top,
) -> xr.Dataset:  # fmt: skip
    scores = torch.stack([torch.stack([torch.from_numpy(a.values) for a in row]) for row in rows], 1)
    scores = scores.to(workload.device)  # [estimator, seed, query, window, train]
    reference = scores[names.index(truth)]
    known = scores.isfinite().flatten(0, -2).all(0)  # the examples that nobody left out
    matched = agreement(scores[..., known], reference[..., known].expand_as(scores[..., known]), top)
    first = rows[0][0]
    same = all(row[0]["query"].values.tolist() == first["query"].values.tolist() for row in rows)
    return xr.Dataset(
        {
            "influence": (
                ("estimator", "seed", "query", "window", "train"),
                scores.cpu().numpy(),
                written(better_of(query)),
            ),
            "agreement": (
                ("estimator", "metric", "seed", "query", "window"),
                matched.movedim(-1, 1).cpu().numpy(),
            ),
            "seconds": (("estimator", "seed"), np.array(seconds).T[:-1]),
            "training_seconds": (("seed",), np.array(seconds).T[-1]),
            "accuracy": (("seed",), np.array(accuracy)),
        },
        coords={
            "estimator": names,
            "metric": list(METRICS),
            "seed": list(seeds),
            "query": first["query"].values if same else np.arange(first.sizes["query"]),
            **{k: first.coords[k] for k in ("start", "stop", "removal")},
            **_named(ids, labels),
        },
        attrs={
            "sign": sign(better_of(query)),
            **written(better_of(query)),
            "workload": workload.name,
            "setting": str(workload.info.get("setting", "custom")),
            "reference": truth,
            "query": label(query),
            "device": str(workload.device),
            "compared_examples": int(known.sum()),
            "notes": "; ".join(f"{k}: {v}" for k, v in notes.items()),
            "influencekit_version": __version__,
        },
    )


def last_digits(trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> torch.Tensor:
    """How well an effect can be known by retraining, [query, window]: the last digit of the query's values at
    the states between which it is a difference."""
    values = {}
    for t in {t for window in windows for t in window.evaluations(trajectory.steps)}:
        theta = trajectory.evaluated(t).theta
        with torch.no_grad():
            values[t] = query.at(trajectory.workload_at(t), theta)(theta).abs()
    sums = [sum(values[t] for t in window.evaluations(trajectory.steps)) for window in windows]
    return torch.finfo(theta.dtype).eps * torch.stack(sums, -1)  # type: ignore[arg-type]


def _ties(
    result: xr.Dataset, exact: Sequence[bool], digits: torch.Tensor, top: Top
) -> tuple[tuple[str, ...], np.ndarray]:
    """`ties` of `compare`; digits [seed, query, window] are of retraining."""
    scores = torch.from_numpy(result.influence.values)
    scores = scores[..., scores.isfinite().flatten(0, -2).all(0)]
    own = torch.finfo(scores.dtype).eps * scores.abs().amax(-1)
    known = torch.stack(
        [torch.maximum(o, digits.cpu().to(o)) if e else o for o, e in zip(own, exact, strict=True)]
    )
    return ("estimator", "seed", "query", "window"), border_ties(scores, top=top, resolution=known).numpy()


def _side(query: Query, top: Top) -> Top:
    """`top` by the sign of the scores: where more of the query is better, the highest ones are harmful."""
    better = better_of(query)
    if top == "harmful" and better is None:
        raise InputError(
            f"top: of {label(query)} neither way is better, so nobody is harmful; take signed or abs"
        )
    return "signed" if top == "harmful" and better == "higher" else top


def _runs(
    workload: Workload | str | Callable[[int], Workload] | Trajectory,
    seeds: Sequence[int] | None,
    recorder: Recorder | str | None,
) -> Iterator[tuple[int, Trajectory, float]]:
    """(seed, run, seconds of its training): runs recorded one after the other, or the one that is there."""
    if isinstance(workload, Trajectory):
        for name, given in (("seeds", seeds), ("recorder", recorder)):
            if given is not None:
                raise InputError(
                    f"compare: {name}= is for workloads, which are trained anew, and this run is recorded; "
                    "leave it out"
                )
        problem = workload.workload
        yield int(problem.info.get("draw_seed", problem.seed)), workload, np.nan
        return
    seeds, recorder = (0,) if seeds is None else seeds, "full" if recorder is None else recorder
    seeds, step = different(seeds), None
    for seed in track(seeds, "seeds", len(seeds)):
        problem = _problem(workload, seed)
        began = time.perf_counter()
        step = Step(problem, like=step)
        trajectory = record(problem, recorder, step=step)
        yield seed, trajectory, time.perf_counter() - began


def _which(workload: object, seed: int) -> str:
    return "" if isinstance(workload, Trajectory) else f", seed {seed}"


def _named(ids: list[list[Any]], labels: list[list[str] | None]) -> dict[str, Any]:
    """The examples' coordinates: ids, by seed where seeds differ, and classes."""
    same = all(each == ids[0] for each in ids)
    found: dict[str, Any] = {"train": ids[0]} if same else {}
    if not same:
        found["example"] = ("seed", "train"), np.array([[str(i) for i in each] for each in ids])
    if all(each is not None for each in labels):
        found["label"] = ("seed", "train"), np.array(labels)
    return found


def _problem(workload: Workload | str | Callable[[int], Workload], seed: int) -> Workload:
    if isinstance(workload, str):
        return make("workload", workload, seed=seed)
    if isinstance(workload, Workload):
        return replace(workload, seed=seed)
    made = workload(seed) if callable(workload) and not isinstance(workload, type | nn.Module) else None
    if not isinstance(made, Workload):
        wrong = require_run(workload) if made is None else f"and {short(workload)} gave {short(made)}"
        raise InputError(
            f"compare: expected a run, a Workload, the spec of one or a function that makes one, {wrong}"
        )
    return made
