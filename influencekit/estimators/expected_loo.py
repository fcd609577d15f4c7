"""The expected effect of leaving an example out: the mean of leave-one-out over runs that start aside."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from influencekit._effects.repeated import check_moves
from influencekit._effects.repeated_slices import scores_of_repeated
from influencekit._effects.retrain import Strategy
from influencekit._trajectory.trajectory import Trajectory
from influencekit.estimators.loo import LOO
from influencekit.interfaces import Claim, Estimator, Query
from influencekit.windows import Window

__all__ = ["ExpectedLOO"]


@dataclass(frozen=True)
class ExpectedLOO(Estimator):
    """Expected leave-one-out: the mean over runs from moved starts, for what one run's accidents hide.

        effect_j = 1/R sum_r [q(run r without j) - q(run r)],   standard error = deviation over r / sqrt(R)

    One run is the recorded one. The others are its plan trained again, from initial parameters of which each
    tensor is moved by the fraction `moved` of its RMS (seeds 1 to `runs` - 1). In a network with corners,
    such as ReLU, so small a move changes the effects of single examples. `ceiling` says how well one run
    knows their mean.

    `examples`, `seed` and `strategy`: as of `loo`, in each run. Shapes: [query, window, train]; `estimate`
    has its `standard_error` as well. Sign: removal minus full. Cost: R times `loo`, and R - 1 training runs.
    Errors: `InputError` for fewer than 2 runs or a fraction that is 0 or above 1, and those of `loo`.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> found = ik.estimate(run, "test-loss", "expected-loo:runs=3:examples=8")
        >>> bool((found.standard_error.max() < 0.01 * abs(found.influence).max()).item())
        True
    """

    runs: int = 8
    moved: float = 0.001
    examples: int | None = None
    seed: int = 0
    strategy: Strategy = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_moves("expected-loo", self.runs, self.moved)
        self._single()

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset({Claim.LOCAL, Claim.WINDOWED, Claim.AVERAGED})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        return self.scores_and_errors(trajectory, query, windows)[0]

    def scores_and_errors(
        self, trajectory: Trajectory, query: Query, windows: Sequence[Window]
    ) -> tuple[Tensor, Tensor]:
        single = self._single()
        moves = check_moves("expected-loo", self.runs, self.moved)
        every = scores_of_repeated(trajectory, moves, query, single, windows)
        effects = torch.stack(every).double()
        error = effects.std(0) / self.runs**0.5
        return effects.mean(0).to(every[0]), error.to(every[0])

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        return {"runs": self.runs, "moved": self.moved, **self._single().notes(trajectory)}

    def _single(self) -> LOO:
        return LOO(self.examples, self.seed, self.strategy)
