"""Dynamic Influence Tracker, and the sweep that it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from influencekit._effects.adjoint import Adjoint, Columns, Gathered, Signs
from influencekit._effects.backward import evaluations_of, questions, scores_from_contributions
from influencekit._effects.query_gradient import query_gradient
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import DivergedError
from influencekit.interfaces import Claim, Contributions, Estimator, Query
from influencekit.windows import Window

__all__ = ["DIT"]

_MEMORY = 1 << 30  # bytes that the columns of one pass may take; more columns, more passes


@dataclass(frozen=True)
class DIT(Estimator):
    """Dynamic Influence Tracker: first-order effect over any window, exactly through the real optimizer.

    D[t+1] = (I - lr_t H_t) D[t] + 1{j in S_t} (lr_t / b) g_j(theta_t),  D[0] = 0        (Eq. 14)
    Q_j[t1, t2) = <q(t2), D[t2]> - <q(t1), D[t1]>                                        (Eq. 19)

    computed backwards for all examples at once (Algorithm 2: `sweep`); for optimizers other than plain SGD
    the recursion is that of the optimizer itself. `curvature` is H_t: the batch's true Hessian (the authors'
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
        return frozenset(
            {Claim.LINEAR, Claim.LOCAL, Claim.WINDOWED, Claim.ADDITIVE, Claim.AVERAGED} | exact_derivative
        )

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        evaluations = evaluations_of(windows, trajectory.steps)
        found = self.sweep(trajectory, query, evaluations, min(w.absent()[0] for w in windows))
        totals = scores_from_contributions(trajectory, query, windows, evaluations, found)
        if not totals.isfinite().all():
            raise DivergedError(
                "the adjoint of this run grew beyond floating point, as it does where training is unstable; "
                "lower the learning rate, or record in float64"
            )
        return totals

    def contributions(
        self, trajectory: Trajectory, query: Query, states: Sequence[int]
    ) -> Iterator[Contributions]:
        return self.sweep(trajectory, query, [((t, 1),) for t in states], 0)

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        return {"curvature": self.curvature, **trajectory.step.notes}

    def sweep(
        self, trajectory: Trajectory, query: Query, evaluations: Sequence[Signs], begin: int
    ) -> Iterator[Contributions]:
        """What every occurrence from step `begin` on contributes to q's effect at each of `evaluations`:

        a <- grad q(theta_e)
        t = e-1, e-2, ...:  (c, a) <- optimizer's adjoint of a;  C[t, j] = -<c, g_j> / b;  a <- a + H_t c

        Several evaluations e and values of the query are columns of one adjoint a [column, param]. Last steps
        first; a step may come more than once, with other columns, where memory asks for several passes.
        Values are 0 for steps after the evaluation and for padded slots. Cost: about one curvature product a
        step, whatever the number of examples; more columns cost less than proportionally.
        """
        step = trajectory.step
        linear, n_query = step.linear(self.curvature), len(query.labels(trajectory.workload))
        gradient = query_gradient(trajectory, query, len({t for each in evaluations for t, _ in each}))
        for columns in Columns.passes(trajectory, evaluations, n_query, step.capacity(_MEMORY)):
            ask = questions(trajectory, query, self.curvature, begin, columns.last)
            after = trajectory.state(columns.last)
            a = Adjoint(trajectory, columns, after, gradient)
            for states in trajectory.blocks(begin, columns.last):
                with torch.no_grad():
                    found = Gathered(step, states, columns)
                    for state, here in linear.backwards(states):
                        ask(state)
                        a.inject(after)
                        c = a.through_optimizer(state, here.gradient)
                        found.add(state.step, a.through_gradient(here, c))
                        after = state
                    del states, state, here  # before the next states are computed
                yield found.contributions()
