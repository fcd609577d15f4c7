from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from influencekit._training.optimizers import SGD
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InputError
from influencekit.estimators.dit import DIT
from influencekit.interfaces import Claim, Estimator, Query
from influencekit.windows import Window

__all__ = ["SGDInfluence"]


@dataclass(frozen=True)
class SGDInfluence(Estimator):
    """SGD-influence (Hara, Nitanda and Maehara, NeurIPS 2019): the whole run's effect, by the true Hessian.

    It is DIT's recursion on the window [0, T); the two are one number there, not two pieces of evidence.
    Shapes: [query, 1, train]. Sign: removal minus full. Cost: that of `dit`. Errors: `InputError` for an
    optimizer other than SGD, for which it is not defined.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> own, dit = (ik.estimate(run, "test-loss", name).influence for name in ("sgd-influence", "dit"))
        >>> bool((own == dit).all())
        True
    """

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset({Claim.FIRST_ORDER, Claim.LINEAR, Claim.LOCAL, Claim.AVERAGED, Claim.PARTS})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        optimizer = trajectory.workload.optimizer
        if not isinstance(optimizer, SGD):
            raise InputError(
                f"sgd-influence is defined for SGD, and this run used {type(optimizer).__name__}; use dit, "
                "which goes through the optimizer that was used"
            )
        return DIT().scores(trajectory, query, windows)

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        remark = "the same recursion as dit on the whole run"
        return {"curvature": "hessian", "remark": remark, **trajectory.step.notes}
