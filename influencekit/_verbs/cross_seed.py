"""Agreement across seeds: the estimate of one run against the reference of another, on the same examples."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from influencekit._training.workload import Workload
from influencekit._trajectory.fingerprint import shared_contents
from influencekit._verbs.results import examples
from influencekit.metrics import METRICS, Top, agreement

__all__ = ["SharedExamples", "across_seeds"]


class SharedExamples:
    """Whether several runs have the same training examples and test set: ids and contents, run by run."""

    def __init__(self) -> None:
        self._first: tuple[int, list[Any], dict[str, Any]] | None = None
        self.why_not = ""

    def add(self, seed: int, workload: Workload) -> None:
        """Compare one more run's data with the first one's. Cost: about a second a gigabyte."""
        if self.why_not:
            return
        ids, data = examples(workload), shared_contents(workload)
        if self._first is None:
            self._first = seed, ids, data
            return
        first, known, before = self._first
        pair = f"seeds {first} and {seed}"
        if ids != known:
            self.why_not = (
                f"{pair} draw different examples (or order them otherwise); hold the draw fixed, as "
                "data_seed=0 does for a bundled workload"
            )
        elif data["training data"] != before["training data"]:
            self.why_not = f"{pair} call different training examples by the same ids"
        elif data["test data"] != before["test data"]:
            self.why_not = f"{pair} have different test sets"


def across_seeds(scores: Tensor, reference: Tensor, top: Top) -> Tensor:
    """The mean agreement over ordered pairs (a, b) of different seeds.

        cross[m] = mean over a != b of  m(estimate of seed a, reference of seed b)

    Constant scores have no correlation: their pairs are left out, and NaN is what remains of none. Shapes:
    scores [estimator, seed, query, window, train] and reference [seed, query, window, train] to [estimator,
    metric, query, window]. Cost: that of the metrics for seeds * (seeds - 1) pairs.
    """
    scores, reference = scores.transpose(0, 1).contiguous(), reference.contiguous()
    pairs: Sequence[tuple[int, int]] = [*permutations(range(len(scores)), 2)]
    if not pairs:
        shape = (scores.shape[1], len(METRICS), *scores.shape[2:-1])
        return torch.full(shape, torch.nan, dtype=torch.float64, device=scores.device)
    found = [agreement(scores[a], reference[b].expand_as(scores[a]), top) for a, b in pairs]
    return torch.stack(found).nanmean(0).movedim(-1, 1)
