"""A run whose sweep several ranks of torch.distributed compute together, after they agreed on what it is."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch

from influencekit import __version__
from influencekit._training.ranks import Ranks, ranks_of
from influencekit._trajectory.identity import identity
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import asked
from influencekit.errors import InputError
from influencekit.estimators.dit import DIT
from influencekit.estimators.sgd_influence import SGDInfluence
from influencekit.interfaces import Estimator, Query
from influencekit.registry import label

__all__ = ["over_ranks"]


def over_ranks(
    trajectory: Trajectory, query: Query, estimator: Estimator, group: Any, at: Any, parts: bool = False
) -> tuple[Trajectory, Ranks | None]:
    """The run, whose steps are linearised by the ranks of `group` together; the ranks, None for one process.

    `at`: what the effect is asked at, windows or states. Errors: an estimator that is no sweep; ranks that
    were asked for different things.
    """
    if (ranks := ranks_of(group)) is None:
        return trajectory, None
    if parts:
        raise InputError("parts=True is not spread over ranks: call this in a single process, without group=")
    sweeps = isinstance(estimator, SGDInfluence) or (isinstance(estimator, DIT) and estimator.centre is None)
    if not sweeps:
        raise InputError(
            f"{label(estimator)} is not spread over ranks; dit (without centre) and sgd-influence are: call "
            "this one in a single process, without group="
        )
    ranks.require_same(
        {
            "the run": identity(trajectory),
            "the number of stored states": str(len(trajectory.stored_states)),  # read in the same blocks
            "the estimator": label(estimator),
            "the query": label(query),
            "what it is asked at": f"{[str(each) for each in at]} {asked(trajectory)}",
            "the type": f"{trajectory.workload.dtype} on {trajectory.workload.device.type}",
            "torch": str(torch.__version__),
            "influencekit": __version__,
        }
    )
    step = trajectory.step.over(ranks)
    why = step.source.undivided
    how = f"by query and window, since {why}" if why else "by the examples of each batch"
    step.notes["ranks"] = f"{ranks.size}, {how}"
    vars(other := copy(trajectory)).update(step=step)
    return other, ranks
