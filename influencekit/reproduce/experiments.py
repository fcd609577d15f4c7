"""What is done for one cell of a table: train one problem once, score its examples, keep a few numbers.

Every function takes a workload and gives plain numbers, lists and strings. The query is the mean test loss.
Scores are removal minus full, so that harmful examples are the most negative.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr

from influencekit import analysis
from influencekit.effects.retrain import Weighting
from influencekit.errors import InfluenceKitError, InputError
from influencekit.estimators.loo import retraining_effects
from influencekit.metrics import METRICS, border_ties, kendall
from influencekit.metrics import agreement as agree
from influencekit.registry import make
from influencekit.reproduce.baselines import gradient_norm, tracin
from influencekit.training.step import Step
from influencekit.training.workload import Workload
from influencekit.trajectory.trajectory import Trajectory
from influencekit.verbs.compare import last_digits
from influencekit.verbs.estimate import estimate
from influencekit.verbs.record import record
from influencekit.windows import REMOVALS, Removal, Window, parse_windows

__all__ = ["EXPERIMENTS", "Experiment", "problem_of"]

QUERY = "test-loss"
_LEAST = 4  # examples, of which a correlation says something
Found = dict[str, Any]
_STEPS: dict[str, Step] = {}  # the last of every workload


@dataclass(frozen=True)
class Experiment:
    """`run(workload, seed, **options)`; `revision` goes up with whatever changes its numbers."""

    run: Callable[..., Found]
    revision: int


def problem_of(spec: str, seed: int, device: str, again: str = "") -> Workload:
    """The problem of a seed, on a device.

    `again` trains on the same examples once more: "order" with another order of the batches, "start" with
    other initial parameters, "both" with both.
    """
    problem = make("workload", spec, seed=seed)
    if again:
        other = make("workload", spec, seed=seed + 1000)
        if again in ("start", "both"):
            problem = replace(problem, model=other.model)
        if again in ("order", "both"):
            problem = replace(problem, seed=other.seed)
    return problem.to(device)


def patterns(problem: Workload, seed: int) -> Found:
    """Table I: the pattern of every example, from an example's absence in one epoch alone (Sec. V-B), by our
    rule and by the paper's, which has no limit on the size of a trend.

    Also how early the final ranking is there: `settled`, Kendall's tau-b of the scores of [0, e) with those
    of the whole run, for every epoch e; both come from one sweep.
    """
    run = _run(problem)
    each = _epochs(run, "window")
    until = [Window(0, w.stop) for w in each]
    scores = _scores(run, "dit", [*each, *until])
    found = analysis.patterns(scores.isel(window=slice(0, len(each))))
    whole = torch.from_numpy(scores.values[len(each) :])
    return {
        "accuracy": run.attrs["accuracy"],
        **{
            name: dict(zip(found.kind.values.tolist(), found[name].values.tolist(), strict=True))
            for name in ("share", "share_by_p")
        },
        "settled": kendall(whole, whole[-1:].expand_as(whole)).tolist(),
        "ids": [str(i) for i in scores.train.values],
        "pattern": [str(kind)[0] for kind in found.pattern.values],
        "full": [float(f"{x:.6g}") for x in whole[-1].tolist()],
    }


def agreement(problem: Workload, seed: int) -> Found:
    """Table II: DIT and influence functions against leave-one-out, over the whole run."""
    run = _run(problem)
    truth = _scores(run, "loo").values
    found = {name: _agreement(_scores(run, name).values, truth) for name in ("dit", "if")}
    return {"accuracy": run.attrs["accuracy"], "agreement": found}


def by_pattern(problem: Workload, seed: int) -> Found:
    """Table III: the same within the examples of each pattern; nothing where there are fewer than four.

    `ties`: how many examples stand so near the border of either top 30 % that rounding decides who is in.
    """
    run = _run(problem)
    each = _scores(run, "dit", _epochs(run, "window"))
    kinds = analysis.patterns(each).pattern.values
    scores = {name: _scores(run, name).values for name in ("dit", "if", "loo")}
    digits = float(last_digits(run, make("query", QUERY), [Window(0, run.steps)]))
    found: Found = {"accuracy": run.attrs["accuracy"], "agreement": {}, "examples": {}, "ties": {}}
    for kind in analysis.PATTERNS:
        here = kinds == kind
        found["examples"][kind] = int(here.sum())
        if here.sum() >= _LEAST:
            found["agreement"][kind] = {
                name: _agreement(scores[name][:, here], scores["loo"][:, here]) for name in ("dit", "if")
            }
            truth = int(border_ties(torch.from_numpy(scores["loo"][:, here]), resolution=digits))
            found["ties"][kind] = {
                name: max(truth, int(border_ties(torch.from_numpy(scores[name][:, here]))))
                for name in ("dit", "if")
            }
    return found


def stages(problem: Workload, seed: int) -> Found:
    """Table IV: Kendall's tau-b between early, middle, late and the whole run, under each removal."""
    run = _run(problem)
    found: Found = {"accuracy": run.attrs["accuracy"]}
    try:
        parts = analysis.stages(analysis.epoch_loss(run))
    except InputError as error:  # a loss that does not fall has no stages
        return found | {"failed": str(error)}
    windows = [w for removal in REMOVALS for w in analysis.stage_windows(parts, run.plan, removal)]
    scores = _scores(run, "dit", windows)
    found["start"] = parts.start.values.tolist()
    found["tau"] = {}
    for k, removal in enumerate(REMOVALS):
        tau = analysis.stage_agreement(scores.isel(window=slice(4 * k, 4 * k + 4)))
        pairs = [(a, b) for j, b in enumerate(tau.stage.values) for a in tau.stage.values[:j]]
        found["tau"][removal] = {f"{a}-{b}": float(tau.sel(stage=a, other=b)) for a, b in pairs}
    return found


def detection(
    problem: Workload, seed: int, *, flipped: float, every_epoch: bool = True, loo: bool = True
) -> Found:
    """Table V: how many of the flipped labels are among as many of the most negative scores.

    Of the epochs' windows, all or (every_epoch=False) the first, the middle and the last are scored.
    """
    wrong, mask = analysis.flipped(problem, flipped, seed)
    run = _run(wrong)
    every = _epochs(run)
    chosen = list(range(len(every))) if every_epoch else [0, len(every) // 2, len(every) - 1]
    spans = [Window(every[e].start, every[e].stop, removal) for removal in REMOVALS for e in chosen]
    dit = _scores(run, "dit", [Window(0, run.steps), *spans]).values
    rows = {"full": dit[0], "tracin": tracin(run, QUERY), "gradient-norm": gradient_norm(run)}
    failed = {}
    for name in ("if", "loo") if loo else ("if",):
        try:
            rows[name] = _scores(run, name).values[0]
        except InfluenceKitError as error:  # conjugate gradients may not converge
            failed[name] = str(error)
    judged = {name: _judged(row, mask) for name, row in rows.items()}
    each = {
        removal: [_judged(dit[1 + k * len(chosen) + i], mask) for i in range(len(chosen))]
        for k, removal in enumerate(REMOVALS)
    }
    return {
        "accuracy": run.attrs["accuracy"],
        "flipped": int(mask.sum()),
        "found": judged,
        "epochs": chosen,
        "each": each,
        **({"failed": failed} if failed else {}),
    }


def retraining(problem: Workload, seed: int, *, flipped: float, examples: int) -> Found:
    """Table V's leave-one-out where retraining without every example is too much: a part of them (0: all).

    Flipped and other examples are drawn in the proportion in which they are there, at least one flipped. Full
    DIT is judged on the same part, and compared with the truth there.
    """
    wrong, mask = analysis.flipped(problem, flipped, seed)
    run = _run(wrong)
    part = _part(mask, examples, seed)
    left_out = [Weighting(torch.tensor([i])) for i in part]
    window = Window(0, run.steps)
    truth = retraining_effects(run, make("query", QUERY), left_out, [window])[0, 0].cpu().numpy()
    dit = _scores(run, "dit", [window]).values[0, part]
    return {
        "accuracy": run.attrs["accuracy"],
        "flipped": int(mask.sum()),
        "examples": len(part),
        "flipped_here": int(mask[part].sum()),
        "found": {"loo": _judged(truth, mask[part]), "full": _judged(dit, mask[part])},
        "agreement": _agreement(dit[None], truth[None]),
    }


EXPERIMENTS: Mapping[str, Experiment] = {
    "patterns": Experiment(patterns, 2),
    "agreement": Experiment(agreement, 1),
    "by-pattern": Experiment(by_pattern, 2),
    "stages": Experiment(stages, 1),
    "detection": Experiment(detection, 1),
    "retraining": Experiment(retraining, 1),
}


def _run(problem: Workload) -> Trajectory:
    """The recorded run, traced once a process for all seeds of a workload."""
    step = _STEPS[problem.name] = Step(problem, like=_STEPS.get(problem.name))
    return record(problem, step=step)


def _scores(run: Trajectory, estimator: str, windows: Sequence[Window] | None = None) -> xr.DataArray:
    """Influence [window, train] on the mean test loss."""
    return estimate(run, QUERY, estimator, windows).influence.squeeze("query", drop=True)


def _epochs(run: Trajectory, removal: Removal = "global") -> list[Window]:
    """A window an epoch."""
    return parse_windows("each-epoch", run.plan.epoch.tolist(), removal)


def _agreement(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    values = agree(torch.from_numpy(scores), torch.from_numpy(truth)).reshape(-1).tolist()
    return dict(zip(METRICS, values, strict=True))


def _judged(scores: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    found = analysis.detection(xr.DataArray(scores, dims="train"), mask)
    return {"found": float(found.found), "auc": float(found.auc)}


def _part(mask: np.ndarray, examples: int, seed: int) -> np.ndarray:
    """Positions of `examples` of them (0: all), flipped ones in proportion."""
    n = len(mask)
    if not 0 < examples < n:
        return np.arange(n)
    generator = np.random.default_rng(seed)
    wrong = min(examples - 1, max(1, round(int(mask.sum()) * examples / n)))
    chosen = [
        generator.permutation(np.flatnonzero(here))[:count]
        for here, count in ((mask, wrong), (~mask, examples - wrong))
    ]
    return np.sort(np.concatenate(chosen))
