"""The loss of each training example at the end of training."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from influencekit._effects.labels import Labels, for_every_query, judge_all
from influencekit._trajectory.trajectory import Trajectory
from influencekit.interfaces import Claim, Estimator, Query
from influencekit.windows import Window

__all__ = ["FinalLoss"]


@dataclass(frozen=True)
class FinalLoss(Estimator):
    """Final loss, negated: what the model still fits badly at the end of training is suspicious.

        Q_j = -loss_j(theta_T)

    The same for every query: it ranks examples by themselves, is no effect of removal, and knows nothing of
    test data. Whole run only. Shapes: [query, 1, train]. Sign: low = suspicious, as harmful examples have low
    scores of a loss; turned round for a query of which higher is better. Cost: one forward pass.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> bool((ik.estimate(run, "test-loss", "final-loss").influence <= 0).all())
        True
    """

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset({Claim.AVERAGED})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        workload, end = trajectory.workload_at(trajectory.steps), trajectory.evaluated(trajectory.steps)
        losses = judge_all(workload, end.theta, Labels("other")).losses  # whatever the labels are
        return for_every_query(query, trajectory, 0 - losses)

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        return {"query": "not used: the same scores for every query; harmful = suspicious"}
