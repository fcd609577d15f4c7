"""Dynamic Influence Tracker, and the sweep that it is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from influencekit._arguments import real_number
from influencekit._effects.adjoint import Adjoint, Columns, Gathered, Signs
from influencekit._effects.backward import evaluations_of, questions, scores_from_contributions
from influencekit._effects.centred import centred, change_of_query, gradient_as_recorded
from influencekit._effects.mean_of_runs import MeanOfRuns
from influencekit._effects.query_gradient import query_gradient
from influencekit._effects.retrain import spans
from influencekit._training.linear import LinearStep
from influencekit._training.over_ranks import LinearOverRanks
from influencekit._training.state import State
from influencekit._trajectory.trajectory import Trajectory
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

    `centre`: scores for sets. The derivative is taken along the run trained with this weight A on all
    examples (in the steps in which the window's examples are absent), not along the recorded one, so that
    sums over sets which leave about the fraction A of the examples in are first order about their own mean:

    f(w_S) ~ f(A 1) + grad f(A 1) . (w_S - A 1):   effect of leaving S out ~ intercept + sum of scores over S
    intercept = f(A 1) - f(1) - (1 - A) (sum of all scores)

    For SGD, with whatever it has. In the step of Adam (AdamW, NAdam, RAdam) a weight on all examples cancels,
    and what random sets do to its v does not. So along its run v has their spread, which the derivative holds
    fixed:

    v <- beta2 v + (1 - beta2) (g^2 + A (1 - A) sum_i (g_i / b)^2)

    For single examples leave `centre` out.

    Shapes: [query, window, train]. Sign: removal minus full, so a harmful example is negative for a loss.
    Cost: one sweep, about 1 to 3 training runs, for all examples; with `centre` a training run more for each
    span of absence (for Adam with a gradient of every example), which is kept for the next query. Source:
    arXiv 2502.10793; `centre` is our own.

    Errors: `DivergedError` where the adjoint leaves the floating-point numbers; `InputError` where a gradient
    is not the derivative of the loss, which the run is tested for, and for `centre` with other optimizers.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> ik.estimate(run, "test-loss", ik.make("estimator", "dit"), "each-epoch").influence.shape
        (1, 2, 24)
    """

    curvature: Literal["hessian", "gauss-newton", "fisher"] = "hessian"

    centre: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.centre is not None:
            real_number("dit: centre", self.centre, above=0.0, most=1.0)

    @property
    def claims(self) -> frozenset[Claim]:
        found = {Claim.LINEAR, Claim.LOCAL, Claim.WINDOWED, Claim.AVERAGED}
        if self.centre is None:
            found |= {Claim.ADDITIVE} | ({Claim.FIRST_ORDER} if self.curvature == "hessian" else set())
            found |= set() if self.curvature == "fisher" else {Claim.PARTS}  # its curvature is by example
        return frozenset(found)

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        if self.centre is None:
            return self._scores(trajectory, query, windows)
        total = trajectory.workload.theta0.new_zeros(
            len(query.labels(trajectory.workload)), len(windows), trajectory.workload.n_train
        )
        as_recorded = gradient_as_recorded(trajectory, query) if type(query).at is not Query.at else None
        for absent, members in spans(windows, trajectory.steps).items():
            other = centred(trajectory, self.centre, absent)
            total[:, members] = self._scores(other, query, [windows[k] for k in members], as_recorded)
        return total

    def _scores(
        self, trajectory: Trajectory, query: Query, windows: Sequence[Window],
        gradient: Callable[[State], tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:  # fmt: skip
        evaluations = evaluations_of(windows, trajectory.steps)
        begin = min(w.absent()[0] for w in windows)
        found = self.sweep(trajectory, query, evaluations, begin, gradient)
        return scores_from_contributions(trajectory, query, windows, evaluations, found)

    def intercept(
        self, trajectory: Trajectory, query: Query, windows: Sequence[Window], scores: Tensor
    ) -> Tensor | None:
        """f(A 1) - f(1) - (1 - A) (sum of all scores), [query, window]; nothing without `centre`."""
        if self.centre is None:
            return None
        found = scores.sum(-1) * (self.centre - 1)
        for absent, members in reversed(spans(windows, trajectory.steps).items()):  # the last are kept
            other = centred(trajectory, self.centre, absent)
            found[:, members] += change_of_query(trajectory, other, query, [windows[k] for k in members])
        return found

    def caution(self, trajectory: Trajectory) -> str:
        if self.centre is None:
            return ""
        n = trajectory.workload.n_train
        return (
            f"these scores are for sets that leave about {round(self.centre * n)} of the {n} examples in, "
            "not for single examples; take dit without centre for those"
        )

    def contributions(
        self, trajectory: Trajectory, query: Query, states: Sequence[int]
    ) -> Iterator[Contributions]:
        return self.sweep(trajectory, query, [((t, 1),) for t in states], 0)

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        centre = {} if self.centre is None else {"centre": self.centre}
        return {"curvature": self.curvature, **centre, **trajectory.step.notes}

    def sweep(
        self, trajectory: Trajectory, query: Query, evaluations: Sequence[Signs], begin: int,
        gradient: Callable[[State], tuple[Tensor, Tensor]] | None = None,
        linear: LinearStep | LinearOverRanks | MeanOfRuns | None = None,
    ) -> Iterator[Contributions]:  # fmt: skip
        """What every occurrence from step `begin` on contributes to q's effect at each of `evaluations`:

        a <- grad q(theta_e)
        t = e-1, e-2, ...:  (c, a) <- optimizer's adjoint of a;  C[t, j] = -<c, g_j> / b;  a <- a + H_t c

        Several evaluations e and values of the query are columns of one adjoint a [column, param]. Last steps
        first; a step may come more than once, with other columns, where memory asks for several passes.
        `gradient` is that of q, where another run defines it; `linear` gives the steps linearised, where they
        are the mean of several runs'. Values are 0 for steps after the evaluation and for padded slots. Cost:
        about one curvature product a step, whatever the number of examples; more columns cost less than
        proportionally.
        """
        step, n_query = trajectory.step, len(query.labels(trajectory.workload))
        if linear is None:
            linear = step.linear(self.curvature)
        if gradient is None:
            gradient = query_gradient(trajectory, query, len({t for each in evaluations for t, _ in each}))
        for columns in Columns.passes(trajectory, evaluations, n_query, step.capacity(_MEMORY)):
            ask = questions(trajectory, query, self.curvature, begin, columns.last)
            end = _bare(trajectory.state(columns.last))
            a, after = Adjoint(trajectory, columns, end, gradient), [end]
            del end
            for states in trajectory.blocks(begin, columns.last):
                with torch.no_grad():
                    found = Gathered(step, states, columns)
                    for state in reversed(states):
                        ask(state)
                    if after:
                        a.inject(after.pop())  # before a step's graph takes memory, too
                    # from here on whatever is large goes as soon as it is not needed
                    for state, here in linear.backwards([_bare(state) for state in states]):
                        if after:
                            a.inject(after.pop())
                        c, pull = a.through_optimizer(states.pop(), here.gradient), here.pull
                        del here
                        found.add(state.step, a.through_gradient(pull, c))
                        after = [state] if a.reads(state) else []
                        del pull, c
                    del states, state
                yield found.contributions()


def _bare(state: State) -> State:
    """A state without what the optimizer keeps."""
    return state._replace(slots={})
