"""Leave-one-out by retraining, and the same for any other weights on the examples."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from influencekit._arguments import check_seed, whole_number
from influencekit._effects.retrain import Strategy, Weighting, check_finite, strategy_of
from influencekit._effects.sliced import effects_of
from influencekit._trajectory.trajectory import Trajectory
from influencekit.interfaces import Claim, Estimator, Query
from influencekit.windows import Window

__all__ = ["LOO", "retraining_effects"]


@dataclass(frozen=True)
class LOO(Estimator):
    """Leave-one-out: retrain without each example, on the same batches in the same order. Ground truth.

        effect_j = q(run without j) - q(run),   under each window's own removal; the divisor of a batch stays

    Where batching is faster, hundreds of counterfactual models are trained at once by vmap over example
    weights; for convolutions on a CPU they are trained one after the other (`strategy`: auto, batch or loop).

    `examples` retrains only that many, drawn with `seed`; the others are NaN. Shapes: [query, window, train].
    Sign: removal minus full. Cost: about one training run an example, divided by what batching gains. Errors:
    `InputError` for fewer than 2 examples; `DivergedError` for a run that becomes NaN or infinite.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> truth = ik.estimate(run, "test-loss", "loo:examples=8").influence
        >>> int(truth.notnull().sum())
        8
    """

    examples: int | None = None
    seed: int = 0
    strategy: Strategy = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.examples is not None:
            whole_number("loo: examples", self.examples, 2)
        check_seed("loo: seed", self.seed)

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset({Claim.EXACT, Claim.LOCAL, Claim.WINDOWED, Claim.AVERAGED, Claim.PARTS})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        workload = trajectory.workload
        positions = self._drawn(workload.n_train)
        shape = (len(query.labels(workload)), len(windows), workload.n_train)
        out = torch.full(shape, torch.nan, dtype=workload.dtype, device=workload.device)
        left_out = [Weighting(position[None]) for position in positions]
        out[:, :, positions] = retraining_effects(trajectory, query, left_out, windows, self.strategy)
        return out

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        n = trajectory.workload.n_train
        retrained = min(self.examples or n, n)
        untraced = {k: v for k, v in trajectory.step.notes.items() if k == "gradient"}
        return {"strategy": strategy_of(trajectory, self.strategy), "retrained": retrained, **untraced}

    def _drawn(self, n: int) -> Tensor:
        if self.examples is None or self.examples >= n:
            return torch.arange(n)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))
        return order[: self.examples].sort().values


def retraining_effects(
    trajectory: Trajectory,
    query: Query,
    weightings: Sequence[Weighting],
    windows: Sequence[Window],
    strategy: Strategy = "auto",
) -> Tensor:
    """Effects [query, window, weighting] of training with other weights, under each window's own removal.

        effect = sum over the states t that the window evaluates:  sign_t (q(theta'_t) - q(theta_t))

    theta' is the run with these weights. Sign: removal minus full. Cost: at most one training run for each
    weighting and span of absence, divided by what batching gains. Errors: a run that becomes NaN or infinite.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.extend import Weighting, retraining_effects
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> import torch
        >>> pair, query = Weighting(torch.tensor([0, 1])), ik.make("query", "test-loss")
        >>> retraining_effects(run, query, [pair], [ik.Window(0, run.steps)]).shape
        torch.Size([1, 1, 1])
    """
    out = effects_of(trajectory, query, weightings, windows, strategy)
    check_finite(out, weightings, trajectory.workload)
    return out
