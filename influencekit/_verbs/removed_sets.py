"""The run trained without each of nested sets, for `remove`: here, or as a slice on an executor."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from influencekit._effects.retrain import Weighting, changes
from influencekit._effects.sliced import asked_of, session_for
from influencekit._executors.slices import Slice
from influencekit._training.workload import evaluated_with
from influencekit._trajectory.fingerprint import digest
from influencekit._trajectory.trajectory import Trajectory
from influencekit.interfaces import Query
from influencekit.windows import Window

__all__ = ["without"]


def without(
    trajectory: Trajectory, query: Query, sets: Sequence[Tensor], windows: Sequence[Window]
) -> tuple[Tensor, np.ndarray]:
    """Effects [query, window, set] of training without each of nested sets, and the test accuracies [2,
    window] with all examples and without the last set."""
    if (session := session_for(trajectory)) is None:
        found = _retrained(trajectory, query, sets, windows)
    else:
        of = {
            "what": "removed",
            **asked_of(trajectory, query, windows),
            "sets": digest([[len(s), s] for s in sets]),
        }
        ((_, found),) = session.of(
            trajectory, "sets left out", [Slice(of, _retrained, (query, sets, windows))]
        )
    return torch.from_numpy(found.effects.values).to(trajectory.workload.device), found.accuracy.values


def _retrained(
    trajectory: Trajectory, query: Query, sets: Sequence[Tensor], windows: Sequence[Window]
) -> xr.Dataset:
    workload, last = trajectory.workload, len(sets) - 1
    shape = (len(query.labels(workload)), len(windows), len(sets))
    truth = torch.zeros(shape, dtype=workload.dtype, device=workload.device)
    accuracy = np.full((2, len(windows)), np.nan)
    ends = [max(window.evaluations(trajectory.steps)) for window in windows]
    if workload.test is not None:  # of the recorded run, and of a run that no batch of changes
        accuracy[:] = [trajectory.workload_at(t).accuracy(trajectory.evaluated(t).theta) for t in ends]
    for models, values, signs in changes(trajectory, query, [Weighting(p) for p in sets], windows):
        for k, sign in signs.items():
            truth[:, k, models.members] += sign * values
            if last in models.members and models.state == ends[k] and workload.test is not None:
                theta, buffers = models.one(models.members.index(last))
                with evaluated_with(buffers):
                    accuracy[1, k] = trajectory.workload_at(ends[k]).accuracy(theta)
    return xr.Dataset(
        {
            "effects": (("query", "window", "set"), truth.cpu().numpy()),
            "accuracy": (("whether", "window"), accuracy),
        }
    )
