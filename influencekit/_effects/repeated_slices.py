"""Effects of moved runs: here, or each run as a slice on an executor."""

from collections.abc import Sequence

import torch
import xarray as xr
from torch import Tensor

from influencekit._effects.repeated import Moved, repeated
from influencekit._effects.sliced import asked_of, session_for
from influencekit._executors.slices import Slice
from influencekit._trajectory.code_key import code_key
from influencekit._trajectory.trajectory import Trajectory
from influencekit.interfaces import Estimator, Query
from influencekit.registry import label
from influencekit.windows import Window

__all__ = ["scores_of_repeated"]


def scores_of_repeated(
    trajectory: Trajectory, moves: list[Moved], query: Query, single: Estimator, windows: Sequence[Window]
) -> list[Tensor]:
    """Scores [query, window, train] by `single` of the recorded run itself, then of the moved ones."""
    if (session := session_for(trajectory)) is None:
        return [single.scores(run, query, windows) for run in repeated(trajectory, moves)]
    first = single.scores(trajectory, query, windows)
    asked = {"what": "repeated", **asked_of(trajectory, query, windows)}
    asked["estimator"] = [label(single), code_key(single)]
    slices = [
        Slice({**asked, "move": [move.fraction, move.seed]}, _of_one, (move, query, single, windows))
        for move in moves
    ]
    found = dict(session.of(trajectory, "runs", slices))
    return [first, *(torch.from_numpy(found[k].scores.values).to(first) for k in range(len(moves)))]


def _of_one(
    trajectory: Trajectory, move: Moved, query: Query, single: Estimator, windows: Sequence[Window]
) -> xr.Dataset:
    scores = single.scores(move.again(trajectory), query, windows)
    return xr.Dataset({"scores": (("query", "window", "train"), scores.cpu().numpy())})
