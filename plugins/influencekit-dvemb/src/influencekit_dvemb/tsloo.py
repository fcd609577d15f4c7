"""The estimator `tsloo`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from influencekit import Claim, DivergedError, Estimator, Query, Trajectory, Window
from influencekit.extend import (
    Contributions,
    Strategy,
    capacity,
    query_at,
    scores_from_contributions,
    strategy_of,
    train_together,
)
from influencekit.progress import track

__all__ = ["TSLOO"]

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
        return frozenset({Claim.LINEAR, Claim.LOCAL, Claim.WINDOWED, Claim.ADDITIVE, Claim.AVERAGED})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        """Sums of what occurrences contribute; only the steps that a window removes from are retrained."""
        wanted = sorted({t for w in windows for t in range(*w.absent())})
        states = sorted({t for w in windows for t in w.evaluations(trajectory.steps)})
        parts = self._retrained(trajectory, query, states, wanted)
        return scores_from_contributions(trajectory, query, windows, [((t, 1),) for t in states], parts)

    def contributions(
        self, trajectory: Trajectory, query: Query, states: Sequence[int]
    ) -> Iterator[Contributions]:
        """C of every occurrence at each of `states`."""
        return self._retrained(trajectory, query, states, range(trajectory.steps))

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        """How the runs are retrained."""
        return {"strategy": strategy_of(trajectory, self.strategy)}

    def _retrained(
        self, trajectory: Trajectory, query: Query, states: Sequence[int], wanted: Sequence[int]
    ) -> Iterator[Contributions]:
        n_query = len(query.labels(trajectory.workload))
        change_of = query_at(trajectory, query, states)
        batched = strategy_of(trajectory, self.strategy) == "batch"
        together = capacity(trajectory, _LANES) if batched else 1
        width = trajectory.plan.indices.shape[1]
        spans = _spans([t for t in wanted if t < max(states)], max(1, together // width))
        of = [k for k in range(len(states)) for _ in range(n_query)]
        for start, stop in track(spans, "retraining", len(spans)):
            values = trajectory.workload.theta0.new_zeros(stop - start, len(of), width)
            for lanes in _groups(trajectory, start, stop, together):
                for models in train_together(
                    trajectory, _dropped(trajectory, lanes), lanes[0][0], set(states)
                ):
                    change = change_of(models)  # [query, lane]
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


def _groups(trajectory: Trajectory, start: int, stop: int, together: int) -> list[list[Lane]]:
    """The examples of these steps' batches in groups that fit, as many in each as in the others."""
    lanes: list[Lane] = []
    for t in range(start, stop):
        row = trajectory.plan.indices[t]
        lanes += [(t, (row == j).nonzero().flatten().tolist()) for j in row[row >= 0].unique()]
    count = -(-len(lanes) // together)
    each = -(-len(lanes) // count)
    return [lanes[i : i + each] for i in range(0, len(lanes), each)]


def _dropped(trajectory: Trajectory, lanes: Sequence[Lane]) -> Callable[[int], Tensor]:
    """Coefficients [lane, slot] of every step: each lane lacks one example, in its own step alone.

    Before its own step a lane is the recorded run: so all steps have one shape, and one trace.
    """

    def coefficients(t: int) -> Tensor:
        found = trajectory.step.coefficients(t).repeat(len(lanes), 1)
        for k, (own, slots) in enumerate(lanes):
            if own == t:
                found[k, slots] = 0
        return found

    return coefficients
