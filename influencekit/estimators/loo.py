from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.func import vmap

from influencekit.errors import DivergedError, InputError
from influencekit.interfaces import Claim, Estimator, Query
from influencekit.progress import track
from influencekit.step import State
from influencekit.tracing import with_batching
from influencekit.trajectory import Trajectory
from influencekit.windows import Window

__all__ = ["LOO"]

_ROOM = 1 << 30  # bytes that the models trained at once may take


@dataclass(frozen=True)
class LOO(Estimator):
    """Leave-one-out: retrain without each example, on the same batches in the same order. Ground truth.

    effect_j = q(run without j) - q(run), under each window's own removal; the divisor of a batch stays.
    Where batching is faster, hundreds of counterfactual models are trained at once by vmap over weight
    masks, the unchanged run among them; for convolutions on a CPU they are trained one after the other.
    Each starts where it first differs from the recorded run.

    `examples` retrains only that many, drawn with `seed`; the others are NaN. Shapes [query, window,
    train]. Cost: about one training run an example, divided by what batching gains.
    """

    examples: int | None = None
    seed: int = 0
    strategy: Literal["auto", "batch", "loop"] = "auto"

    def __post_init__(self) -> None:
        if self.examples is not None and self.examples < 2:
            raise InputError(f"loo: examples must be at least 2, got {self.examples}")

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset({Claim.EXACT, Claim.LOCAL, Claim.WINDOWED})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        workload, steps = trajectory.workload, trajectory.steps
        positions = self._drawn(workload.n_train)
        # windows with the same counterfactual runs are served together
        runs: dict[tuple[int, int], list[int]] = defaultdict(list)
        for k, window in enumerate(windows):
            runs[(0, steps) if window.removal == "global" else window.absent()].append(k)
        n_query = len(query.labels(workload))
        shape = (n_query, len(windows), workload.n_train)
        out = torch.full(shape, torch.nan, dtype=workload.dtype, device=workload.device)
        for absent, members in runs.items():
            evaluations = [windows[k].evaluations(steps) for k in members]
            when = sorted(set().union(*evaluations))
            effects = self._retrain(trajectory, query, positions, absent, when)  # [query, state, example]
            for k, signs in zip(members, evaluations, strict=True):
                out[:, k, positions] = sum(sign * effects[:, when.index(t)] for t, sign in signs.items())
        return out

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        n = trajectory.workload.n_train
        return {"strategy": self._strategy(trajectory), "retrained": min(self.examples or n, n)}

    def _drawn(self, n: int) -> Tensor:
        if self.examples is None or self.examples >= n:
            return torch.arange(n)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))
        return order[: self.examples].sort().values

    def _strategy(self, trajectory: Trajectory) -> str:
        if self.strategy != "auto":
            return self.strategy
        return "loop" if trajectory.step.loops else "batch"

    def _retrain(
        self,
        trajectory: Trajectory,
        query: Query,
        positions: Tensor,
        absent: tuple[int, int],
        when: list[int],
    ) -> Tensor:
        """Effects [query, state, example] on the query at the states `when`, without each position."""
        workload = trajectory.workload
        first = _first_seen(trajectory.plan.indices, workload.n_train, absent)[positions]
        visited = first < when[-1]
        shape = (len(query.labels(workload)), len(when), len(positions))
        out = torch.zeros(shape, dtype=workload.dtype, device=workload.device)
        asked = {}
        for t in when:
            theta = trajectory.state(t).theta
            at = query.at(workload, theta)
            asked[t] = at, at(theta).detach()
        order = [int(i) for i in first.argsort(stable=True) if visited[i]]
        room = min(512, trajectory.step.room(_ROOM)) if self._strategy(trajectory) == "batch" else 1
        chunks = [order[i : i + room] for i in range(0, len(order), room)]
        for chunk in track(chunks, "retraining", len(chunks)):
            start = int(first[chunk].min())
            out[:, :, chunk] = _fold(trajectory, positions[chunk], absent, start, asked)
        bad = (~out.isfinite()).any(0).any(0).nonzero()
        if len(bad):
            raise DivergedError(
                f"retraining without the example at position {int(positions[bad[0, 0]])} gave NaN "
                "or infinity; lower the learning rate"
            )
        return out


def _first_seen(indices: Tensor, n: int, absent: tuple[int, int]) -> Tensor:
    """The first of the steps `absent` whose batch holds each position [train]; beyond the run = none."""
    never = len(indices) + 1
    seen = indices[slice(*absent)]
    steps = torch.arange(absent[0], absent[0] + len(seen))[:, None].expand_as(seen)
    first = torch.full((n,), never)
    real = seen >= 0
    return first.scatter_reduce_(0, seen[real], steps[real], "amin")


def _fold(
    trajectory: Trajectory,
    left_out: Tensor,
    absent: tuple[int, int],
    start: int,
    asked: dict[int, tuple[Callable[[Tensor], Tensor], Tensor]],
) -> Tensor:
    """Train [model] runs from state `start`, each without one position while t is in `absent`.

    Effects [query, state, model] at the states `asked`, which give the query there and the run's own values.
    """
    workload, step = trajectory.workload, trajectory.step
    state = trajectory.state(start)
    many, last = len(left_out) > 1, max(asked)
    out = []
    rows = len(left_out) + many  # the last model is the run itself, so that both sides round alike
    weights = state.theta.new_ones(rows, workload.n_train)
    weights[torch.arange(len(left_out)), left_out] = 0.0
    with torch.no_grad():
        if many:
            slots = {k: v.expand(rows, -1).clone() for k, v in state.slots.items()}
            state = State(state.theta.expand(rows, -1).clone(), slots, start)
        for t in range(start, last + 1):
            if t in asked:
                at, value = asked[t]
                if many:
                    batched = partial(vmap, chunk_size=step.room(_ROOM, workload.n_test))
                    values = with_batching(batched, at, state.theta)
                    out.append((values[:-1] - values[-1]).T)
                else:
                    out.append((at(state.theta) - value)[:, None])
            if t < last:
                inside = absent[0] <= t < absent[1]
                coefficients = step.coefficients(t, weights if inside else torch.ones_like(weights))
                state = step.advance_with(state, coefficients if many else coefficients[0])[0]
    early = len(asked) - len(out)  # states before the first difference: no effect yet
    values = torch.stack(out, 1)
    return torch.cat([values.new_zeros(len(values), early, values.shape[2]), values], 1)
