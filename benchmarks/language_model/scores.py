"""What is asked and compared beside what is registered: a query, and BM25."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

import influencekit as ik
from benchmarks.language_model.text import words

__all__ = ["BM25", "SingleLosses"]


@dataclass(frozen=True)
class SingleLosses(ik.Query):
    """The losses of the first `count` test sequences, a query each. A positive effect: the example helped."""

    count: int = 8

    better = "lower"

    def labels(self, workload: ik.Workload) -> Sequence[Hashable]:
        return range(self.count)

    def evaluate(self, workload: ik.Workload, theta: Tensor) -> Tensor:
        return workload.losses(theta, tuple(x[: self.count] for x in workload.test))


@dataclass(frozen=True)
class BM25(ik.Estimator):
    """How much the words of a training sequence are those of the test sequence, by Okapi BM25.

        Q_j = sum over words w of the test sequence of
              log(1 + (n - n_w + 1/2) / (n_w + 1/2))  f_wj (k + 1) / (f_wj + k (1 - b + b |j| / mean |j|))

    with f_wj how often w is in j, n_w how many of the n training sequences have it. Taken for an effect of
    removal on a loss: what is alike helps, so scores are 0 or more. For the mean test loss, the mean over the
    test sequences. Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009.
    """

    k: float = 1.2
    b: float = 0.75

    @property
    def claims(self) -> frozenset[ik.Claim]:
        return frozenset()

    def scores(self, trajectory: ik.Trajectory, query: ik.Query, windows: Sequence[ik.Window]) -> Tensor:
        train, test = (_texts(part) for part in (trajectory.workload.train, trajectory.workload.test))
        if isinstance(query, SingleLosses):
            test = test[: query.count]
        found = torch.tensor(self.relevance(train, test), dtype=trajectory.workload.dtype)
        return (found if isinstance(query, SingleLosses) else found.mean(0, keepdim=True))[:, None]

    def relevance(self, train: list[list[str]], test: list[list[str]]) -> list[list[float]]:
        """[test][train]"""
        counts = [Counter(text) for text in train]
        n, mean = len(train), sum(map(len, train)) / len(train)
        holding = Counter(word for each in counts for word in each)
        rarity = {word: log(1 + (n - m + 0.5) / (m + 0.5)) for word, m in holding.items()}
        norms = [self.k * (1 - self.b + self.b * len(text) / mean) for text in train]

        def one(text: list[str], each: Counter[str], norm: float) -> float:
            return sum(rarity[w] * each[w] * (self.k + 1) / (each[w] + norm) for w in text if w in each)

        return [[one(text, *pair) for pair in zip(counts, norms, strict=True)] for text in test]


def _texts(part: tuple[Tensor, Tensor]) -> list[list[str]]:
    """The words of each sequence of a training or test set."""
    inputs, targets = part
    return [words(sequence) for sequence in torch.cat([inputs, targets[:, -1:]], 1)]
