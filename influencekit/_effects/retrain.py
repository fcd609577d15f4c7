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

from influencekit._training.batch import tensors_of
from influencekit._training.buffers import flat, with_flat
from influencekit._training.by_part import NumberedParts
from influencekit._training.kernels.tracing import NotBatchable, with_batching
from influencekit._training.pieces import bytes_of_example, pieces
from influencekit._training.state import State
from influencekit._training.workload import Workload, evaluated_with
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import DivergedError, InputError
from influencekit.interfaces import Query
from influencekit.progress import track
from influencekit.windows import Window

__all__ = [
    "Change", "Chunk", "Models", "Strategy", "Weighting", "capacity", "changes", "check_finite", "chunks_of",
    "query_at", "retrained", "spans", "strategy_of", "train_together",
]  # fmt: skip

Strategy = Literal["auto", "batch", "loop"]
"""How models are retrained: together by `vmap`, one after the other, or as is faster."""

_MEMORY = 1 << 30  # bytes that the models trained at once may take


class Weighting(NamedTuple):
    """One run to be trained: `weight` (a number, or one for each) on the examples at `positions`, else 1.

    Weight 0 leaves an example out, weight 2 takes it twice; the divisor of a batch stays. Anything is
    allowed.

    Example:

        >>> import torch
        >>> from influencekit.extend import Weighting
        >>> str(Weighting(torch.tensor([3])))
        'without the example at position 3'
    """

    positions: Tensor
    weight: Tensor | float = 0.0

    def __str__(self) -> str:
        removed = isinstance(self.weight, float) and self.weight == 0
        if removed and len(self.positions) == 1:
            return f"without the example at position {int(self.positions[0])}"
        return f"without {len(self.positions)} examples" if removed else "with other weights on the examples"


class Chunk(NamedTuple):
    """Runs that are trained together, by their numbers, and the state that they start from."""

    start: int
    members: list[int]


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

    def one(self, row: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Parameters and buffers of one of the models."""
        if self.buffers is None or not self.own_buffers:
            return self.theta[row], {}
        return self.theta[row], with_flat(self.own_buffers, self.buffers[row])

    def changes(self, values: Callable[[Tensor], Tensor], chunk: int | None = None) -> Tensor:
        """`values` (of theta [param]) of each model, evaluated with its own buffers, less those of the
        recorded run: [..., model]."""
        if self.buffers is not None and self.own_buffers:
            own = _evaluated(values, self.own, self.own_buffers)
            each = [_evaluated(values, *self.one(row)) for row in range(len(self.theta))]
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


class Change(NamedTuple):
    """What other weights change of a query at one state: `values` [query, model] of the runs in `models`.

    `signs`: {window: the sign with which it counts this state}.
    """

    models: Models
    values: Tensor
    signs: dict[int, int]


def _evaluated(values: Callable[[Tensor], Tensor], theta: Tensor, buffers: Mapping[str, Tensor]) -> Tensor:
    with evaluated_with(buffers):
        return values(theta)


def strategy_of(trajectory: Trajectory, strategy: Strategy = "auto") -> str:
    """`batch` (by vmap) or `loop`: what a strategy comes to for this run.

    Cost: two models are trained for a step, once a run, where "auto" asks. Errors: `InputError` for "batch"
    where losses depend on their whole batch, training changes buffers, or torch cannot batch the model.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.extend import strategy_of
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> strategy_of(run, "auto"), strategy_of(run, "loop")
        ('batch', 'loop')
    """
    step = trajectory.step
    if strategy == "batch" and step.joint:
        raise InputError(
            "losses depend on their whole batch, or training changes buffers of this model, so it is "
            "retrained one run after the other: use the strategy 'auto' or 'loop'"
        )
    if strategy == "batch" and not step.batches:
        raise InputError("torch cannot train this model in batches: use the strategy 'auto' or 'loop'")
    if strategy != "auto":
        return strategy
    return "loop" if step.prefers_loop or step.workload.optimizer.rounds else "batch"


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


def chunks_of(
    trajectory: Trajectory, weightings: Sequence[Weighting], absent: tuple[int, int], when: Sequence[int],
    strategy: Strategy = "auto",
) -> list[Chunk]:  # fmt: skip
    """Which runs are trained together, in order; those that the span `absent` does not change are in none."""
    first, last = changed(trajectory, weightings, absent), max(map(trajectory.last_read, when))
    order = sorted((k for k, t in enumerate(first) if 0 <= t < last), key=first.__getitem__)
    together = capacity(trajectory, 512) if strategy_of(trajectory, strategy) == "batch" else 1
    return [Chunk(first[order[i]], order[i : i + together]) for i in range(0, len(order), together)]


def retrained(
    trajectory: Trajectory, weightings: Sequence[Weighting], absent: tuple[int, int], when: Sequence[int],
    strategy: Strategy = "auto", chunks: Sequence[Chunk] | None = None,
) -> Iterator[Models]:  # fmt: skip
    """Train a run for every weighting, which holds in the steps `absent`; yield the states `when` of each.

    Only states after a run's first difference are yielded: the others are the recorded ones. Where batching
    is faster, hundreds of runs are trained at once by vmap, the unchanged run among them; for convolutions
    on a CPU they are trained one after the other. Each starts where it first differs from the recorded run.
    `chunks`: only these. Cost: at most one training run for each, divided by what batching gains.
    """
    step = trajectory.step
    if chunks is None:
        chunks = chunks_of(trajectory, weightings, absent, when, strategy)
    if chunks:
        trajectory.check_replay(chunks[0].start, max(map(trajectory.last_read, when)))
    for start, chunk in track(chunks, "retraining", len(chunks)):
        weights = trajectory.workload.theta0.new_ones(len(chunk), trajectory.workload.n_train)
        for row, k in zip(weights, chunk, strict=True):
            positions, weight = weightings[k]
            row[positions] = weight.to(row) if isinstance(weight, Tensor) else weight
        ones = torch.ones_like(weights)

        def coefficients(t: int, weights: Tensor = weights, ones: Tensor = ones) -> Tensor:
            return step.coefficients(t, weights if absent[0] <= t < absent[1] else ones)

        for models in train_together(trajectory, coefficients, start, set(when)):
            yield models._replace(members=chunk)


def train_together(
    trajectory: Trajectory, coefficients: Callable[[int], Tensor], start: int, when: set[int]
) -> Iterator[Models]:
    """Train runs together from state `start`, and yield their states `when`.

    `coefficients(t)` [run, slot] weighs the losses of step t (`Step.coefficients` of the recorded run are 1 /
    b). Where there are several runs, the recorded one is trained with them, so that both sides of a
    difference round alike. Each yield has `members`, the numbers of the runs; `state`; `theta` [run, param];
    and `own` [param], the recorded run's. At the end of a run of which an average is asked (`Claim.AVERAGED`)
    they are averages, added up on the way, and come last. Cost: a training step of every run and step.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.extend import train_together
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> def without(t):  # the first slot, and the second
        ...     found = run.step.coefficients(t).repeat(2, 1)
        ...     found[[0, 1], [0, 1]] = 0
        ...     return found
        >>> [(models.state, models.theta.shape) for models in train_together(run, without, 0, {2})]
        [(2, torch.Size([2, 785]))]
    """
    step, state, end = trajectory.step, trajectory.state(start), trajectory.steps
    count = len(coefficients(start))
    members = list(range(count))
    averaged = trajectory.ending is not None and end in when
    total = trajectory.partial_sum(start) if averaged else None
    if count > 1:
        slots = {k: v.expand(count + 1, -1).clone() for k, v in state.slots.items()}
        state = State(state.theta.expand(count + 1, -1).clone(), slots, start)
        total = None if total is None else total.copied(count + 1)

    def models(state: State) -> Models:
        t = state.step
        if count > 1:
            return Models(members, t, state.theta[:-1], state.theta[-1])
        recorded = trajectory.evaluated(t)
        buffers = flat(state.buffers, state.theta)[None] if state.buffers else None
        return Models(members, t, state.theta[None], recorded.theta, buffers, recorded.buffers)

    for t in range(start, max(map(trajectory.last_read, when))):
        own = coefficients(t)
        own = torch.cat([own, step.coefficients(t)[None]]) if count > 1 else own[0]
        with torch.no_grad():  # not around the loop: the caller's own mode holds between two states
            state = step.advance_with(state, own)[0]
            if total is not None:
                total.add(state)
        if t + 1 in when and not (averaged and t + 1 == end):
            yield models(state)
    if total is not None:
        yield models(total.value(end))


def spans(windows: Sequence[Window], steps: int) -> dict[tuple[int, int], list[int]]:
    """{the steps in which examples are absent: the windows that share these runs}."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for k, window in enumerate(windows):
        found[(0, steps) if window.removal == "global" else window.absent()].append(k)
    return found


def changes(
    trajectory: Trajectory, query: Query, weightings: Sequence[Weighting], windows: Sequence[Window],
    strategy: Strategy = "auto", some: Mapping[tuple[int, int], Sequence[Chunk]] | None = None,
) -> Iterator[Change]:  # fmt: skip
    """What other weights change of the query: one `Change` for some of the runs at one state at a time.

    An effect in a window is the sum of the changes at the states that the window evaluates, each times its
    sign. Windows share what runs they can. `some`: only these chunks, by the steps of absence. Cost:
    `retrained`.
    """
    for absent, members in spans(windows, trajectory.steps).items():
        if some is not None and absent not in some:
            continue
        signs = {k: windows[k].evaluations(trajectory.steps) for k in members}
        when = sorted(set().union(*signs.values()))
        values_of = query_at(trajectory, query, when)
        chunks = None if some is None else some[absent]
        for models in retrained(trajectory, weightings, absent, when, strategy, chunks):
            here = {k: each[models.state] for k, each in signs.items() if models.state in each}
            yield Change(models, values_of(models), here)


def query_at(trajectory: Trajectory, query: Query, when: Sequence[int]) -> Callable[[Models], Tensor]:
    """The query of retrained models minus that of the recorded run, at states `when`: a function of what
    `train_together` yields that gives [query, model].

    Sign: removal minus full, where the models are without something. Cost: one evaluation of the query a
    model.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.extend import query_at, train_together
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> change = query_at(run, ik.make("query", "test-loss"), [2])
        >>> models = next(train_together(run, lambda t: 0.5 * run.step.coefficients(t)[None], 0, {2}))
        >>> change(models).shape
        torch.Size([1, 1])
    """
    asked = {t: query.at(trajectory.workload_at(t), trajectory.evaluated(t).theta) for t in when}
    workload = trajectory.workload
    chunk = None
    if workload.test is not None:
        count = len(tensors_of(pieces(workload, workload.test)[0])[0])
        chunk = trajectory.step.capacity(_MEMORY, count)
        if each := count * bytes_of_example(workload, workload.test):
            chunk = min(chunk, max(1, int(_MEMORY / each)))

    def change_of(models: Models) -> Tensor:
        with torch.no_grad():
            return models.changes(asked[models.state], chunk)

    return change_of


def check_finite(values: Tensor, weightings: Sequence[Weighting], workload: Workload | None = None) -> None:
    """Refuse effects [..., model] of runs of `workload` that left the finite numbers, naming the first."""
    bad = (~values.isfinite()).reshape(-1, len(weightings)).any(0).nonzero()
    if len(bad):
        first, train = weightings[int(bad[0, 0])], workload and workload.train
        said = train.without(first.positions) if isinstance(train, NumberedParts) else first
        raise DivergedError(f"retraining {said} gave NaN or infinity; lower the learning rate")


def capacity(trajectory: Trajectory, most: int) -> int:
    """How many models of this run are trained together: as many as fit into 1 GiB, at most so many.

    Cost: nothing is trained. Without vmap it is one: ask `strategy_of`.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.extend import capacity
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> capacity(run, 256)
        256
    """
    memory = _MEMORY if trajectory.ending is None else _MEMORY // 2  # an average is another vector a model
    return min(most, trajectory.step.capacity(memory))
