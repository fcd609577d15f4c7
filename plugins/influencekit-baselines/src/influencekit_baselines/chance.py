"""Scores that mean nothing, to compare with."""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor

from influencekit import Claim, Estimator, Query, Trajectory, Window

__all__ = ["Random"]


@dataclass(frozen=True)
class Random(Estimator):
    """Random scores between -1 and 1, drawn from each example's id: what chance agrees with, no more.

    The same for every query, and for an example wherever it stands in the training set; another `seed` draws
    others. Whole run only. Shapes [query, 1, train]. Cost: none.
    """

    seed: int = 0

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset()

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        workload = trajectory.workload
        ids = workload.train_ids or range(workload.n_train)
        row = workload.theta0.new_tensor([_draw(self.seed, each) for each in ids])
        return row.expand(len(query.labels(workload)), 1, -1).clone()

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        return {"query": "not used: the same scores for every query"}


def _draw(seed: int, example: Hashable) -> float:
    digest = hashlib.sha256(f"{seed}:{example!r}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**63 - 1
