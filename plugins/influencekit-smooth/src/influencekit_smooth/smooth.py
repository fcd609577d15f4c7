"""The estimator `smooth`."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from influencekit import SGD, Claim, Estimator, InputError, Query, Trajectory, Window
from influencekit.estimators import DIT
from influencekit.extend import Contributions, MeanOfRuns, Part, scores_from_contributions, weighted_runs
from influencekit_smooth.widths import Widths, corners_left, inputs_of_corners

__all__ = ["Smooth"]

T = TypeVar("T")


@dataclass(frozen=True)
class Smooth(Estimator):
    """Smoothed sweep: first order along the mean of several runs, with the model's corners made round.

    `runs` runs are trained with weights w = 1 +- noise e / sqrt(n), e normal, in antithetic pairs. One sweep
    goes back along all of them:

    u <- mean_k grad q(theta_k),    C[t, j] = -mean_k <c, g_j(theta_k)> / b,    u <- u + mean_k H_k c

    with c the optimizer's adjoint of u, as in `dit`. In g_j and H_k every corner (relu, leaky_relu, prelu,
    abs, clamp, and what is a clamp, such as relu6) keeps its value, and has the first derivative Phi(a/h) and
    the second phi(a/h)/h of a relu under noise of width h. h is found for each corner and step: twice what
    one example's weight moves the corner's input, by its deviation over runs, at least `floor`. `seed` draws
    e, by the examples' ids.

    SGD without clipping. Shapes: [query, window, train]. Sign: removal minus full. Cost: `runs` training runs
    once, and a sweep for each of them. Errors: `InputError` for an odd number of runs and for another
    optimizer, `DivergedError` where a run or the adjoint leaves the finite numbers. Source: our own.
    """

    runs: int = 8
    noise: float = 1.0
    floor: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.runs < 2 or self.runs % 2:
            raise InputError(f"smooth: runs come in pairs, 2, 4, 6, ...; got {self.runs}")
        if not 0 <= self.noise < math.inf:
            raise InputError(f"smooth: noise must be a finite number from 0 up, got {self.noise}")
        if not 0 < self.floor < math.inf:
            raise InputError(f"smooth: floor must be a finite number above 0, got {self.floor}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"smooth: seed must be a whole number from 0 up, got {self.seed}")

    @property
    def claims(self) -> frozenset[Claim]:
        """A sum over occurrences, over any window; not the derivative, since corners are smoothed."""
        return frozenset({Claim.LINEAR, Claim.LOCAL, Claim.WINDOWED, Claim.ADDITIVE, Claim.AVERAGED})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        """Sums of what occurrences contribute."""
        states = sorted({t for w in windows for t in w.evaluations(trajectory.steps)})
        found = self._contributions(trajectory, query, states, min(w.absent()[0] for w in windows))
        evaluations = [((t, 1),) for t in states]
        return scores_from_contributions(trajectory, query, windows, evaluations, found)

    def contributions(
        self, trajectory: Trajectory, query: Query, states: Sequence[int]
    ) -> Iterator[Contributions]:
        """What each occurrence adds at each of `states`."""
        return self._contributions(trajectory, query, states, 0)

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        """The options, and how many corners the model has."""
        options = {"runs": self.runs, "noise": self.noise, "floor": self.floor, "seed": self.seed}
        return {**options, "corners": _corners(trajectory)}

    def caution(self, trajectory: Trajectory) -> str:
        """Where there is nothing to smooth, and which corners are left as they are."""
        left = _of_first_part(trajectory, corners_left)
        if _corners(trajectory):
            return f"smooth leaves the corners of {', '.join(left)} as they are" if left else ""
        also = f", and smooth leaves the corners of {', '.join(left)} as they are" if left else ""
        return (
            f"this model calls no relu, leaky_relu, abs or clamp{also}, so these are scores of dit, the mean "
            f"over {self.runs} runs with other weights; take dit"
        )

    def weights(self, trajectory: Trajectory) -> Tensor:
        """Those of the runs, [run, train]: 1 + noise e / sqrt(n) of each pair, then 1 - noise e / sqrt(n)."""
        workload = trajectory.workload
        n = workload.n_train
        ids = range(n) if workload.train_ids is None else workload.train_ids
        order = sorted(range(n), key=lambda j: str(ids[j]))  # wherever an example stands, it has its noise
        generator = torch.Generator().manual_seed(self.seed)
        e = torch.zeros(self.runs // 2, n, dtype=torch.float64)
        e[:, order] = torch.randn(self.runs // 2, n, generator=generator, dtype=torch.float64)
        return 1 + self.noise / math.sqrt(n) * torch.cat([e, -e])

    def _contributions(
        self, trajectory: Trajectory, query: Query, states: Sequence[int], begin: int
    ) -> Iterator[Contributions]:
        _refuse(trajectory)
        weights = self.weights(trajectory)
        runs = weighted_runs(trajectory, weights)
        distance = float((weights - 1).square().mean().sqrt()) * math.sqrt(weights.shape[1])
        mean = MeanOfRuns(runs, Widths(distance, self.floor))
        gradient = mean.gradient(trajectory, query, len(states))
        yield from DIT().sweep(runs[0], query, [((t, 1),) for t in states], begin, gradient, mean)


def _refuse(trajectory: Trajectory) -> None:
    optimizer = trajectory.workload.optimizer
    name = type(optimizer).__name__
    if not all(isinstance(rule, SGD) for rule in optimizer.members()):
        raise InputError(
            f"smooth is for SGD, and this run used {name}; with Adam it made the Spearman correlation with "
            "leave-one-out worse, .430 became .239; use dit"
        )
    if optimizer.clip_norm is not None or optimizer.clip_value is not None:
        raise InputError(
            "smooth is for SGD without clipping, which has corners of its own, and this run clips; use dit"
        )


def _corners(trajectory: Trajectory) -> int:
    """How many corners the first step's first part computes."""
    return len(_of_first_part(trajectory, inputs_of_corners))


def _of_first_part(trajectory: Trajectory, ask: Callable[[Part, Tensor], list[T]]) -> list[T]:
    step = trajectory.step
    start = step.start()
    with torch.no_grad(), step.source.protected():
        return ask(next(step.source.parts(start)), start.theta)
