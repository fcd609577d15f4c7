"""What is done for one cell of a table: train one problem once, score its examples, keep a few numbers.

Every function takes a workload and gives plain numbers, lists and strings. The query is the mean test loss.
Scores are removal minus full, so that harmful examples are the most negative.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

import influencekit as ik
from influencekit.errors import InputError
from influencekit.extend import agreements
from influencekit.metrics import METRICS, border_ties, kendall
from influencekit.windows import REMOVALS, Window
from influencekit_paper.patterns import PATTERNS
from influencekit_paper.patterns import patterns as patterns_of
from influencekit_paper.reproduce.fine_tuning import fine_tuning
from influencekit_paper.reproduce.runs import QUERY, Found, agreement_of, epochs, problem_of, recorded, scores
from influencekit_paper.reproduce.wrong_labels import detection, retraining
from influencekit_paper.stages import epoch_loss, stage_agreement, stage_windows
from influencekit_paper.stages import stages as stages_of

__all__ = ["EXPERIMENTS", "Experiment", "problem_of"]

_LEAST = 4  # examples, of which a correlation says something


@dataclass(frozen=True)
class Experiment:
    """`run(workload, seed, **options)`; `revision` goes up with whatever changes its numbers.

    `own`: it makes its own problem, of the cell's sources: `run(sources, seed, device=..., **options)`.
    """

    run: Callable[..., Found]
    revision: int
    own: bool = False


def patterns(problem: ik.Workload, seed: int) -> Found:
    """Table I: the pattern of every example, from an example's absence in one epoch alone (Sec. V-B), by our
    rule and by the paper's, which has no limit on the size of a trend.

    Also how early the final ranking is there: `settled`, Kendall's tau-b of the scores of [0, e) with those
    of the whole run, for every epoch e; both come from one sweep.
    """
    run = recorded(problem)
    each = epochs(run, "window")
    until = [Window(0, w.stop) for w in each]
    influence = scores(run, "dit", [*each, *until])
    found = patterns_of(influence.isel(window=slice(0, len(each))))
    whole = torch.from_numpy(influence.values[len(each) :])
    return {
        "accuracy": run.attrs["accuracy"],
        **{
            name: dict(zip(found.kind.values.tolist(), found[name].values.tolist(), strict=True))
            for name in ("share", "share_by_p")
        },
        "settled": kendall(whole, whole[-1:].expand_as(whole)).tolist(),
        "ids": [str(i) for i in influence.train.values],
        "pattern": [str(kind)[0] for kind in found.pattern.values],
        "full": [float(f"{x:.6g}") for x in whole[-1].tolist()],
    }


def agreement(problem: ik.Workload, seed: int) -> Found:
    """Table II: DIT and influence functions against leave-one-out, over the whole run."""
    run = recorded(problem)
    truth = scores(run, "loo").values
    found = {name: agreement_of(scores(run, name).values, truth) for name in ("dit", "if")}
    return {"accuracy": run.attrs["accuracy"], "agreement": found}


def ceiling(problem: ik.Workload, seed: int, moved: float, runs: int) -> Found:
    """Beside Table II: how well leave-one-out agrees with itself over runs whose start is moved.

    `again`: of another run with the recorded one; `ceiling`: what the expected effect itself would reach.
    """
    run = recorded(problem)
    return {"accuracy": run.attrs["accuracy"], **_with_itself(_moved_effects(run, moved, runs))}


def ceiling_by_pattern(problem: ik.Workload, seed: int, moved: float, runs: int) -> Found:
    """Beside Table III: the same within the examples of each pattern, of which there are four or more."""
    run = recorded(problem)
    kinds, effects = _patterns(run), _moved_effects(run, moved, runs)
    parts = {kind: effects[..., kinds == kind] for kind in PATTERNS if (kinds == kind).sum() >= _LEAST}
    return {
        "accuracy": run.attrs["accuracy"],
        "patterns": {kind: _with_itself(part) for kind, part in parts.items()},
    }


def by_pattern(problem: ik.Workload, seed: int) -> Found:
    """Table III: the same within the examples of each pattern; nothing where there are fewer than four.

    `ties`: how many examples stand so near the border of either top 30 % that rounding decides who is in.
    """
    run = recorded(problem)
    kinds = _patterns(run)
    rows = {name: scores(run, name).values for name in ("dit", "if", "loo")}
    digits = _last_digit(run)
    found: Found = {"accuracy": run.attrs["accuracy"], "agreement": {}, "examples": {}, "ties": {}}
    for kind in PATTERNS:
        here = kinds == kind
        found["examples"][kind] = int(here.sum())
        if here.sum() >= _LEAST:
            part = {name: row[:, here] for name, row in rows.items()}
            truth = int(border_ties(torch.from_numpy(part["loo"]), resolution=digits))
            found["agreement"][kind] = {name: agreement_of(part[name], part["loo"]) for name in ("dit", "if")}
            found["ties"][kind] = {
                name: max(truth, int(border_ties(torch.from_numpy(part[name])))) for name in ("dit", "if")
            }
    return found


def stages(problem: ik.Workload, seed: int) -> Found:
    """Table IV: Kendall's tau-b between early, middle, late and the whole run, under each removal."""
    run = recorded(problem)
    found: Found = {"accuracy": run.attrs["accuracy"]}
    try:
        parts = stages_of(epoch_loss(run))
    except InputError as error:  # a loss that does not fall has no stages
        return found | {"failed": str(error)}
    windows = [w for removal in REMOVALS for w in stage_windows(parts, run, removal)]
    influence = scores(run, "dit", windows)
    found["start"] = parts.start.values.tolist()
    found["tau"] = {}
    for k, removal in enumerate(REMOVALS):
        tau = stage_agreement(influence.isel(window=slice(4 * k, 4 * k + 4)))
        pairs = [(a, b) for j, b in enumerate(tau.stage.values) for a in tau.stage.values[:j]]
        found["tau"][removal] = {f"{a}-{b}": float(tau.sel(stage=a, other=b)) for a, b in pairs}
    return found


EXPERIMENTS: Mapping[str, Experiment] = {
    "patterns": Experiment(patterns, 2),
    "agreement": Experiment(agreement, 1),
    "ceiling": Experiment(ceiling, 1),
    "by-pattern": Experiment(by_pattern, 2),
    "ceiling-by-pattern": Experiment(ceiling_by_pattern, 1),
    "stages": Experiment(stages, 1),
    "detection": Experiment(detection, 1),
    "retraining": Experiment(retraining, 1),
    "fine-tuning": Experiment(fine_tuning, 1, own=True),
}


def _patterns(run: ik.Trajectory) -> np.ndarray:
    """The pattern of every example, from its absence in one epoch alone."""
    return patterns_of(scores(run, "dit", epochs(run, "window"))).pattern.values


def _moved_effects(run: ik.Trajectory, moved: float, runs: int) -> torch.Tensor:
    """Leave-one-out [run, query, window, train] of the run and of others whose start is moved."""
    found = ik.ceiling(run, QUERY, runs=runs, moved=moved)
    return torch.from_numpy(found.effects.values).double()


def _with_itself(effects: torch.Tensor) -> Found:
    """Agreement of another run with the first one, and the ceiling, by metric."""
    found = agreements(effects)
    again, reached = found["loo_again"][1], found["ceiling"][1][0]
    return {
        name: dict(zip(METRICS, values.ravel().tolist(), strict=True))
        for name, values in (("again", again), ("ceiling", reached))
    }


def _last_digit(run: ik.Trajectory) -> float:
    """How well retraining can know an effect on the test loss: the last digit of the loss at the end."""
    loss = ik.make("query", QUERY).evaluate(run.workload, run.state(run.steps).theta)
    return float(torch.finfo(loss.dtype).eps * loss.abs())
