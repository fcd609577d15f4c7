"""The estimator `tsloo`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from influencekit import Claim, DivergedError, Estimator, Query, Trajectory, Window
from influencekit.effects.backward import sum_over_windows
from influencekit.effects.retrain import Models, Strategy, strategy_of
from influencekit.interfaces import Contributions
from influencekit.progress import track
from influencekit.training.state import State

__all__ = ["TSLOO"]

_MEMORY = 1 << 30  # bytes that the models trained at once may take
_LANES = 256  # models at most: 64 to 512 cost the same a model, and fewer wait less for their own step


@dataclass(frozen=True)
class TSLOO(Estimator):
    """Trajectory-specific leave-one-out: drop an example at one step only, and retrain from there. Exact.

    C[e, t, j] = q(theta'_e) - q(theta_e),  theta' the run with weight 0 on example j in step t alone

    on the same batches in the same order, the divisor of the batch kept; any optimizer. An example that
    stands in a batch more than once is dropped from all of its slots together, and they get equal parts of
    its C. A window's score is the sum over its steps, j dropped from each alone: for a window in which j is
    in one step only it is leave-one-out, for more it is not (`loo` drops them together).
    `ik.contributions(run, query, "tsloo")` has C itself, by step and slot.

    Where batching is faster, hundreds of runs go on at once (`strategy`, as of `loo`). Shapes
    [query, window, train]. Sign: removal minus full. Cost: one training run from step t on for every example
    of every batch. Source: Wang et al., ICLR 2025.
    """

    strategy: Strategy = "auto"

    @property
    def claims(self) -> frozenset[Claim]:
        """A sum over occurrences, over any window; not EXACT, which means dropping all of them together."""
        return frozenset({Claim.LINEAR, Claim.LOCAL, Claim.WINDOWED, Claim.ADDITIVE})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        """Sums of what occurrences contribute; only the steps that a window removes from are retrained."""
        wanted = sorted({t for w in windows for t in range(*w.absent())})
        states = sorted({t for w in windows for t in w.evaluations(trajectory.steps)})
        parts = self._shares(trajectory, query, states, wanted)
        return sum_over_windows(trajectory, query, windows, [((t, 1),) for t in states], parts)

    def contributions(
        self, trajectory: Trajectory, query: Query, states: Sequence[int]
    ) -> Iterator[Contributions]:
        """C of every occurrence at each of `states`."""
        return self._shares(trajectory, query, states, range(trajectory.steps))

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        """How the runs are retrained."""
        return {"strategy": strategy_of(trajectory, self.strategy)}

    def _shares(
        self, trajectory: Trajectory, query: Query, states: Sequence[int], wanted: Sequence[int]
    ) -> Iterator[Contributions]:
        n_query = len(query.labels(trajectory.workload))
        asked = {t: query.at(trajectory.workload_at(t), trajectory.state(t).theta) for t in states}
        batched = strategy_of(trajectory, self.strategy) == "batch"
        room = min(_LANES, trajectory.step.capacity(_MEMORY)) if batched else 1
        width = trajectory.plan.indices.shape[1]
        spans = _spans([t for t in wanted if t < max(states)], max(1, room // width))
        of = [k for k in range(len(states)) for _ in range(n_query)]
        chunk = (
            None
            if trajectory.workload.test is None
            else trajectory.step.capacity(_MEMORY, trajectory.workload.n_test)
        )
        for start, stop in track(spans, "retraining", len(spans)):
            values = trajectory.workload.theta0.new_zeros(stop - start, len(of), width)
            for lanes in _groups(trajectory, start, stop, room):
                for models in _fold(trajectory, lanes, set(states)):
                    with torch.no_grad():
                        change = models.changes(asked[models.state], chunk)  # [query, lane]
                    column = states.index(models.state) * n_query
                    for k in models.members:
                        t, slots = lanes[k]
                        if t < models.state:
                            part = change[:, k, None] / len(slots)
                            values[t - start, column : column + n_query, slots] = part
            if not values.isfinite().all():
                raise DivergedError(
                    f"retraining without an example in one of the steps {start} to {stop - 1} gave NaN or "
                    "infinity; lower the learning rate"
                )
            yield Contributions(slice(start, stop), of, list(range(n_query)) * len(states), values)


Lane = tuple[int, list[int]]  # (step, slots): an example is dropped from all the slots that it has there


def _spans(steps: Sequence[int], long: int) -> list[tuple[int, int]]:
    """Consecutive steps, at most `long` at once, the last first."""
    spans: list[tuple[int, int]] = []
    for t in reversed(steps):
        if spans and spans[-1][0] == t + 1 and spans[-1][1] - t <= long:
            spans[-1] = (t, spans[-1][1])
        else:
            spans.append((t, t + 1))
    return spans


def _groups(trajectory: Trajectory, start: int, stop: int, room: int) -> list[list[Lane]]:
    """The examples of these steps' batches in groups that fit, as many in each as in the others."""
    lanes: list[Lane] = []
    for t in range(start, stop):
        row = trajectory.plan.indices[t]
        lanes += [(t, (row == j).nonzero().flatten().tolist()) for j in row[row >= 0].unique()]
    count = -(-len(lanes) // room)
    each = -(-len(lanes) // count)
    return [lanes[i : i + each] for i in range(0, len(lanes), each)]


def _fold(trajectory: Trajectory, lanes: Sequence[Lane], when: set[int]) -> Iterator[Models]:
    """Train without one example of one step in every lane; all lanes start at the first of their steps.

    Waiting for its own step, a lane is the recorded run: so all steps have one shape, and one trace. The last
    row is the run itself, so that both sides of a difference round alike.
    """
    step, start, last = trajectory.step, lanes[0][0], max(when)
    state, many = trajectory.state(start), len(lanes) > 1
    rows, members = len(lanes) + many, list(range(len(lanes)))
    if many:
        slots = {k: v.expand(rows, -1).clone() for k, v in state.slots.items()}
        state = State(state.theta.expand(rows, -1).clone(), slots, start)
    for t in range(start, last):
        coefficients = step.coefficients(t)
        if many:
            coefficients = coefficients.expand(rows, -1)
        here = [(k, slot) for k, (own, slots) in enumerate(lanes) if own == t for slot in slots]
        if here:
            coefficients = coefficients.clone()
            for k, slot in here:
                coefficients[(k, slot) if many else slot] = 0
        with torch.no_grad():  # not around the loop: the caller's own mode holds between two states
            state = step.advance_with(state, coefficients)[0]
        if t + 1 in when and many:
            yield Models(members, t + 1, state.theta[:-1], state.theta[-1])
        elif t + 1 in when:
            yield Models(members, t + 1, state.theta[None], trajectory.state(t + 1).theta)
