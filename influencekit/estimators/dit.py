from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from influencekit.effects.backward import contributions, sweep
from influencekit.interfaces import Claim, Contributions, Estimator, Query
from influencekit.trajectory.trajectory import Trajectory
from influencekit.windows import Window

__all__ = ["DIT"]


@dataclass(frozen=True)
class DIT(Estimator):
    """Dynamic Influence Tracker: first-order effect over any window, exactly through the real optimizer.

    D[t+1] = (I - lr_t H_t) D[t] + 1{j in S_t} (lr_t / b) g_j(theta_t),  D[0] = 0        (Eq. 14)
    Q_j[t1, t2) = <q(t2), D[t2]> - <q(t1), D[t1]>                                        (Eq. 19)

    computed backwards for all examples at once (Algorithm 2); for optimizers other than plain SGD the
    recursion is that of the optimizer itself. `curvature` is H_t: the batch's true Hessian (the authors'
    code), its Gauss-Newton part, or the empirical Fisher (the outer products of the paper's Eq. 12).

    Shapes: [query, window, train]. Sign: removal minus full, so a harmful example is negative for a loss.
    Cost: one sweep, about 1 to 3 training runs, for all examples. Source: arXiv 2502.10793.

    Errors: `DivergedError` where the adjoint leaves the floating-point numbers; `InputError` where a gradient
    is not the derivative of the loss, which the run is tested for.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> ik.estimate(run, "test-loss", ik.make("estimator", "dit"), "each-epoch").influence.shape
        (1, 2, 24)
    """

    curvature: Literal["hessian", "gauss-newton", "fisher"] = "hessian"

    @property
    def claims(self) -> frozenset[Claim]:
        exact_derivative = {Claim.FIRST_ORDER} if self.curvature == "hessian" else set()
        return frozenset({Claim.LINEAR, Claim.LOCAL, Claim.WINDOWED, Claim.ADDITIVE} | exact_derivative)

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        return sweep(trajectory, query, windows, self.curvature)

    def contributions(
        self, trajectory: Trajectory, query: Query, states: Sequence[int]
    ) -> Iterator[Contributions]:
        return contributions(trajectory, query, [((t, 1),) for t in states], 0, self.curvature)

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        return {"curvature": self.curvature, **trajectory.step.notes}
