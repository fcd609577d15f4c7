"""Exact counterfactuals: train the recorded run again with other weights on some of its examples.

    theta_{t+1} = F_t(theta_t, w) while t is in the span of absence, F_t(theta_t, 1) outside of it

on the same batches in the same order; the divisor of a batch stays, so weight 0 is removal.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from influencekit.errors import DivergedError, InputError
from influencekit.interfaces import Query
from influencekit.progress import track
from influencekit.training.buffers import flat, with_flat
from influencekit.training.kernels.tracing import NotBatchable, with_batching
from influencekit.training.state import State
from influencekit.training.workload import evaluated_with
from influencekit.trajectory.trajectory import Trajectory
from influencekit.windows import Window

__all__ = ["Models", "Strategy", "Weighting", "retrained", "spans", "strategy_of", "window_effects"]

Strategy = Literal["auto", "batch", "loop"]

_MEMORY = 1 << 30  # bytes that the models trained at once may take


class Weighting(NamedTuple):
    """One run to be trained: `weight` (a number, or one for each) on the examples at `positions`, else 1.

    Weight 0 leaves an example out; anything is allowed.
    """

    positions: Tensor
    weight: Tensor | float = 0.0

    def __str__(self) -> str:
        removed = isinstance(self.weight, float) and self.weight == 0
        if removed and len(self.positions) == 1:
            return f"without the example at position {int(self.positions[0])}"
        return f"without {len(self.positions)} examples" if removed else "with other weights on the examples"


class Models(NamedTuple):
    """Some of the runs, at one state: `theta` [model, param] of those numbered `members`, and the recorded
    run's `own` [param], rounded alike.

    Where training changes buffers, `buffers` [model, buffer] are each model's own floating-point ones, and
    `own_buffers` the recorded run's, by name.
    """

    members: list[int]
    state: int
    theta: Tensor
    own: Tensor
    buffers: Tensor | None = None
    own_buffers: Mapping[str, Tensor] = MappingProxyType({})

    def changes(self, values: Callable[[Tensor], Tensor], chunk: int | None = None) -> Tensor:
        """`values` (of theta [param]) of each model, evaluated with its own buffers, less those of the
        recorded
        run: [..., model]."""
        if self.buffers is not None and self.own_buffers:
            own = _evaluated(values, self.own, self.own_buffers)
            pairs = zip(self.theta, self.buffers, strict=True)
            each = [_evaluated(values, theta, with_flat(self.own_buffers, row)) for theta, row in pairs]
            return torch.stack([x - own for x in each], -1)
        if len(self.theta) > 1:
            try:
                every = with_batching(
                    partial(vmap, chunk_size=chunk), values, torch.cat([self.theta, self.own[None]])
                )
                return (every[:-1] - every[-1]).movedim(0, -1)
            except NotBatchable:
                pass
        own = values(self.own)
        return torch.stack([values(theta) - own for theta in self.theta], -1)


def _evaluated(values: Callable[[Tensor], Tensor], theta: Tensor, buffers: Mapping[str, Tensor]) -> Tensor:
    with evaluated_with(buffers):
        return values(theta)


def strategy_of(trajectory: Trajectory, strategy: Strategy = "auto") -> str:
    """`batch` (by vmap) or `loop`: what `auto` comes to for this run."""
    step = trajectory.step
    if strategy == "batch" and step.joint:
        raise InputError(
            "losses depend on their whole batch, or training changes buffers of this model, so it is "
            "retrained one run "
            "after the other: use the strategy 'auto' or 'loop'"
        )
    if strategy == "batch" and not step.batches:
        raise InputError("torch cannot train this model in batches: use the strategy 'auto' or 'loop'")
    if strategy != "auto":
        return strategy
    return "loop" if step.prefers_loop else "batch"


def changed(trajectory: Trajectory, weightings: Sequence[Weighting], absent: tuple[int, int]) -> list[int]:
    """For every weighting the first step of the span `absent` that holds one of its examples; -1 = none."""
    never = trajectory.steps
    first = torch.full((trajectory.workload.n_train,), never)
    indices = trajectory.plan.indices[slice(*absent)]
    steps = torch.arange(absent[0], absent[0] + len(indices))[:, None].expand_as(indices)
    real = indices >= 0
    first.scatter_reduce_(0, indices[real], steps[real], "amin")
    found = [int(first[w.positions].min()) if len(w.positions) else never for w in weightings]
    return [-1 if step == never else step for step in found]


def retrained(
    trajectory: Trajectory,
    weightings: Sequence[Weighting],
    absent: tuple[int, int],
    when: Sequence[int],
    strategy: Strategy = "auto",
) -> Iterator[Models]:
    """Train a run for every weighting, which holds in the steps `absent`; yield the states `when` of each.

    Only states after a run's first difference are yielded: the others are the recorded ones. Where batching
    is faster, hundreds of runs are trained at once by vmap, the unchanged run among them; for convolutions
    on a CPU they are trained one after the other. Each starts where it first differs from the recorded run.
    Cost: at most one training run for each, divided by what batching gains.
    """
    first, last = changed(trajectory, weightings, absent), max(when)
    order = sorted((k for k, t in enumerate(first) if 0 <= t < last), key=first.__getitem__)
    if order:
        trajectory.check_replay(first[order[0]], last)
    batches = strategy_of(trajectory, strategy) == "batch"
    room = min(512, trajectory.step.capacity(_MEMORY)) if batches else 1
    chunks = [order[i : i + room] for i in range(0, len(order), room)]
    for chunk in track(chunks, "retraining", len(chunks)):
        for found in _fold(trajectory, [weightings[k] for k in chunk], absent, first[chunk[0]], set(when)):
            yield found._replace(members=chunk)


def spans(windows: Sequence[Window], steps: int) -> dict[tuple[int, int], list[int]]:
    """{the steps in which examples are absent: the windows that share these runs}."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for k, window in enumerate(windows):
        found[(0, steps) if window.removal == "global" else window.absent()].append(k)
    return found


def window_effects(
    trajectory: Trajectory,
    query: Query,
    weightings: Sequence[Weighting],
    windows: Sequence[Window],
    strategy: Strategy = "auto",
) -> Tensor:
    """Effects [query, window, model] under each window's own removal; windows share what runs they can."""
    workload, steps = trajectory.workload, trajectory.steps
    shape = (len(query.labels(workload)), len(windows), len(weightings))
    out = torch.zeros(shape, dtype=workload.dtype, device=workload.device)
    for absent, members in spans(windows, steps).items():
        evaluations = [windows[k].evaluations(steps) for k in members]
        when = sorted(set().union(*evaluations))
        found = effects(trajectory, query, weightings, absent, when, strategy)  # [query, state, model]
        for k, signs in zip(members, evaluations, strict=True):
            out[:, k] = sum(sign * found[:, when.index(t)] for t, sign in signs.items())
    return out


def effects(
    trajectory: Trajectory,
    query: Query,
    weightings: Sequence[Weighting],
    absent: tuple[int, int],
    when: Sequence[int],
    strategy: Strategy = "auto",
) -> Tensor:
    """Effects [query, state, model] on the query at the states `when`: the run retrained minus the recorded.

    Errors: a run that leaves the finite numbers.
    """
    workload = trajectory.workload
    shape = (len(query.labels(workload)), len(when), len(weightings))
    out = torch.zeros(shape, dtype=workload.dtype, device=workload.device)
    asked = {t: query.at(trajectory.workload_at(t), trajectory.state(t).theta) for t in when}
    chunk = None if workload.test is None else trajectory.step.capacity(_MEMORY, workload.n_test)
    for models in retrained(trajectory, weightings, absent, when, strategy):
        with torch.no_grad():
            values = models.changes(asked[models.state], chunk)
        out[:, when.index(models.state), models.members] = values.to(out)  # losses may be of another dtype
    bad = (~out.isfinite()).any(0).any(0).nonzero()
    if len(bad):
        raise DivergedError(
            f"retraining {weightings[int(bad[0, 0])]} gave NaN or infinity; lower the learning rate"
        )
    return out


def _fold(
    trajectory: Trajectory,
    weightings: Sequence[Weighting],
    absent: tuple[int, int],
    start: int,
    when: set[int],
) -> Iterator[Models]:
    """Train the runs together from state `start`."""
    step, state = trajectory.step, trajectory.state(start)
    many, last = len(weightings) > 1, max(when)
    rows = len(weightings) + many  # the last model is the run itself, so that both sides round alike
    weights = state.theta.new_ones(rows, trajectory.workload.n_train)
    for row, (positions, weight) in zip(weights, weightings, strict=False):
        row[positions] = weight.to(row) if isinstance(weight, Tensor) else weight
    ones = torch.ones_like(weights)
    if many:
        slots = {k: v.expand(rows, -1).clone() for k, v in state.slots.items()}
        state = State(state.theta.expand(rows, -1).clone(), slots, start)
    for t in range(start, last):
        coefficients = step.coefficients(t, weights if absent[0] <= t < absent[1] else ones)
        with torch.no_grad():  # not around the loop: the caller's own mode holds between two states
            state = step.advance_with(state, coefficients if many else coefficients[0])[0]
        if t + 1 not in when:
            continue
        if many:
            yield Models([], t + 1, state.theta[:-1], state.theta[-1])
        else:
            recorded = trajectory.state(t + 1)
            buffers = flat(state.buffers, state.theta)[None] if state.buffers else None
            yield Models([], t + 1, state.theta[None], recorded.theta, buffers, recorded.buffers)
