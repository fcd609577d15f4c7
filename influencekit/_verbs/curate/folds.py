"""Folds of trusted examples: who chooses, who says which k, who judges. Nobody does two of these."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from influencekit._arguments import whole_number
from influencekit._training.batch import require_test, select
from influencekit._training.gradients import rows_of_jacobian
from influencekit._training.workload import Workload
from influencekit.interfaces import Query

__all__ = ["Folds", "PartLosses", "folds_of"]

_LEAST = 3  # of two, none is left to say which k, once one chooses and one judges


@dataclass(frozen=True, eq=False)
class Folds:
    """The fold, 0 to count - 1, of every trusted example: `part` [trusted].

    `groups` are the folds that take no part in choosing: none (the final sets), each alone (the sets that
    are judged by it), and each two (the sets by which one says for the other which k is best).
    """

    part: np.ndarray
    count: int

    @cached_property
    def groups(self) -> dict[tuple[int, ...], int]:
        """{the folds that do not choose: the number of the group}."""
        each = [group for size in (0, 1, 2) for group in combinations(range(self.count), size)]
        return {group: number for number, group in enumerate(each)}

    @cached_property
    def weights(self) -> np.ndarray:
        """Weights [group, fold] that make the mean loss of those that choose of the folds' mean losses."""
        sizes = np.bincount(self.part, minlength=self.count).astype(np.float64)
        found = np.tile(sizes, (len(self.groups), 1))
        for group, number in self.groups.items():
            found[number, list(group)] = 0
        return np.asarray(found / found.sum(1, keepdims=True))

    def unseen(self, change: np.ndarray, without: tuple[int, ...] = ()) -> np.ndarray:
        """The change [run, trusted, ...] of the sets that an example's own fold and the folds `without` did
        not choose, of change [run, trusted, group, ...]; NaN for the examples of `without`."""
        found = np.full((*change.shape[:2], *change.shape[3:]), np.nan)
        for fold in sorted({*range(self.count)} - {*without}):
            mine = self.part == fold
            found[:, mine] = change[:, mine, self.groups[tuple(sorted((*without, fold)))]]
        return found


def folds_of(examples: int, folds: int, seed: int) -> Folds:
    """So many examples in folds of about one size, at random. Errors: fewer than 3 folds, or more than a
    fourth of the examples."""
    count = whole_number("folds", folds, _LEAST, examples // 4)
    part = np.empty(examples, dtype=np.int64)
    part[np.random.default_rng(seed % 2**64).permutation(examples)] = np.arange(examples) % count
    return Folds(part, count)


@dataclass(frozen=True, eq=False)
class PartLosses(Query):
    """The mean loss of each fold of the test set, one query each, without the penalty: all folds in one
    sweep. The mean over some folds is linear in it, and so are the scores that come from it."""

    part: Tensor  # [test]
    count: int

    better = "lower"

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        require_test(workload.test)
        return list(range(self.count))

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        losses = workload.losses(theta, workload.test)
        member = self.part[None] == torch.arange(self.count, device=self.part.device)[:, None]
        return (member.to(losses) / member.sum(1, keepdim=True)) @ losses

    def gradient(self, workload: Workload, theta: Tensor) -> Tensor:
        """[query, param]; each from its own examples alone, which costs one pass over the test set."""

        def row(fold: int) -> Tensor:
            some = select(workload.test, (self.part == fold).nonzero()[:, 0])
            return rows_of_jacobian(lambda at: workload.losses(at, some).mean(0, keepdim=True), theta)

        return torch.cat([row(fold) for fold in range(self.count)])
