"""The run, and moved ones, trained again without each of the sets; equal sets once."""

from collections.abc import Iterator

import numpy as np
import torch

from influencekit._effects.repeated import Moved
from influencekit._effects.retrain import Strategy, capacity, strategy_of
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.curate.kept_run import KeptRun
from influencekit._verbs.kept_pieces import KeptPieces
from influencekit.evaluation.retraining import set_effects
from influencekit.progress import track
from influencekit.queries import TestLosses
from influencekit.windows import Window

__all__ = ["TOGETHER", "OneOfRuns", "changes_without", "each_run"]

TOGETHER = 64  # sets that are retrained, and kept, at once; 4 where models are trained one after the other

OneOfRuns = tuple[Trajectory, KeptRun | None]


def each_run(run: Trajectory, moves: list[Moved], pieces: KeptPieces | None) -> Iterator[OneOfRuns]:
    """The recorded run, then each moved one, with what is kept of it: each is let go of before the next.
    Cost: a training run for each moved one."""
    for move in track((None, *moves), "runs", 1 + len(moves)):
        one = run if move is None else move.again(run)
        yield one, None if pieces is None else KeptRun(pieces, move, one.workload.n_test)


def losses_at_end(run: Trajectory) -> np.ndarray:
    """The loss of every example of the test set at the end of the run, [trusted]."""
    end = run.evaluated(run.steps)
    with torch.no_grad():
        losses = run.workload_at(run.steps).losses(end.theta, run.workload.test)
    return np.asarray(losses.double().cpu().numpy())


def changes_without(
    run: Trajectory, masks: np.ndarray, strategy: Strategy, kept: KeptRun | None
) -> tuple[np.ndarray, int]:
    """What leaving out each of the sets masks [..., train] changes of the loss of every test example,
    [trusted, ...], and how many different sets were retrained, or taken from what is kept."""
    sets, place = np.unique(masks.reshape(-1, masks.shape[-1]), axis=0, return_inverse=True)
    known = {} if kept is None else kept.sets(sets.shape[1])
    missing = [mask for mask in sets if mask.tobytes() not in known]
    size = capacity(run, TOGETHER) if strategy_of(run, strategy) == "batch" else 4
    starts = range(0, len(missing), size if kept is not None else max(1, len(missing)))
    for first in track(starts, "sets", len(starts)):
        some = np.stack(missing[first : first + starts.step])
        found = set_effects(run, TestLosses(), some, [Window(0, run.steps)], strategy)[:, 0].T
        known |= {mask.tobytes(): row for mask, row in zip(some, found, strict=True)}
        if kept is not None:
            kept.keep_sets(some, found)
    change = np.stack([known[mask.tobytes()] for mask in sets], 1)
    return change[:, place.reshape(-1)].reshape(len(change), *masks.shape[:-1]), len(sets)
