"""A recorded run, seen as one whose examples are parts: the states are the recorded ones."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import chain

import torch
from torch import Tensor
from torch.nn.functional import pad

from influencekit._training.batch import tensors_of
from influencekit._training.by_part import PartsThere, step_by_part
from influencekit._training.loss_by_part import Parts
from influencekit._training.loss_by_part import there as _there
from influencekit._training.state import State
from influencekit._trajectory.rerun import remembered, rerun
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InputError

__all__ = ["RunByPart", "by_part"]

_ROWS = 256  # examples that are looked at together
_OFF = 1e-2  # of the gradient: how far the sum over parts may be from the run's own; wrong sums are off by 1


class RunByPart(Trajectory):
    """A recorded run whose examples are parts. `whole` is the run itself, which gives the states; `found`
    says which parts its examples have."""

    whole: Trajectory
    found: PartsThere

    def state(self, t: int) -> State:
        """The state before update t."""
        return self.whole.state(t)

    def check_replay(self, start: int, stop: int) -> None:
        """Check that these steps of a taped run, replayed, are what was recorded."""
        self.whole.check_replay(start, stop)

    def blocks(self, start: int, stop: int, what: str = "sweep") -> Iterator[list[State]]:
        """The states start ... stop - 1 in lists of consecutive ones, the last list first."""
        return self.whole.blocks(start, stop, what)

    def retrained(self) -> Trajectory:
        """The same run trained again by the sum over parts, so that both sides of a difference round alike.
        Cost: a training run, once."""
        other = remembered(self.whole, "retrained by part", lambda: rerun(self))
        return other if other.ending is self.ending else other.with_ending(self.ending)

    def explain(self) -> None:
        """Refuse a run whose examples have parts in training that they had not when they were looked at.

        Cost: a forward pass of each step.
        """
        states = (state for block in self.whole.blocks(self.first, self.last) for state in block)
        for t, rows, parts in _trained(self.whole, states):
            here, there = _equally_wide(_there(parts), self.found.there[rows])
            strange = (here & ~there).nonzero()
            if not len(strange):
                continue
            k, p = strange[0].tolist()
            own = f"parts: at step {t} the example at position {int(rows[k])} has a part"
            if parts.part is not None:
                raise InputError(
                    f"{own} {p}, which it has in no step at the initial parameters; let weights and parts "
                    "not depend on the model"
                )
            raise InputError(
                f"{own} in column {p}, and none there when it is looked at by itself; keep each part of an "
                "example in its column (pad on the right), or say by ik.Parts(losses, weights, part) which "
                f"part a column is of{_of_labels(self.whole.workload.examples(rows[k : k + 1]))}"
            )


def _of_labels(batch: object) -> str:
    """What to do in a batch of transformers, whose losses we make."""
    if not isinstance(batch, Mapping) or "labels" not in batch:
        return ""
    return (
        "; for a loss of transformers, give the batch a mask of the shape of its labels: "
        "decoder_attention_mask for sequence to sequence models, else attention_mask"
    )


def _trained(run: Trajectory, states: Iterable[State]) -> Generator[tuple[int, Tensor, Parts], None, None]:
    """What the loss returns in training at some states, by micro-batch: the step, the examples' rows [slot],
    their parts."""
    for state in states:
        real = run.plan.indices[state.step].to(run.workload.device) >= 0
        for part in run.step.source.parts(state):
            assert part.losses.parts_of is not None
            with torch.no_grad():
                parts = part.losses.parts_of(part.outputs(state.theta), part.batch)
            n = len(tensors_of(part.batch)[0])  # without a penalty
            some = real[part.slots][:n].nonzero()[:, 0]
            rows = run.step.rows(state.step)[part.slots][some]
            losses, weights, number = parts
            number = None if number is None else number[some]
            yield state.step, rows, Parts(losses[some], weights[some], number)


def _equally_wide(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors [example, part], the narrower one widened by zeros."""
    width = max(a.shape[1], b.shape[1])
    return pad(a, (0, width - a.shape[1])), pad(b, (0, width - b.shape[1]))


def _look(run: Trajectory) -> PartsThere:
    """Which parts the training examples have: all that count in some step, where the loss numbers its parts,
    and else those of each example by itself."""
    start = run.step.start()
    seen = _trained(run, (start._replace(step=t) for t in range(run.steps)))
    first = next(seen)
    if first[2].part is None:
        seen.close()  # and with it the random numbers of the step
        rows = torch.arange(run.workload.n_train, device=run.workload.device).split(_ROWS)
        return PartsThere.of(run.workload, [run.workload.examples(some) for some in rows])
    count = first[1].new_zeros(run.workload.n_train, 0)
    for _, rows, parts in chain([first], seen):
        count, here = _equally_wide(count, _there(parts).to(count))
        count.index_add_(0, rows, here)  # an example may come twice in a step
    return PartsThere.among(count > 0)


def by_part(trajectory: Trajectory) -> RunByPart:
    """The run with its parts as examples: `workload.n_train` is the number of parts.

    Cost: a forward pass of every training example (of every step, where the loss numbers its parts), and two
    gradients, once a run. Errors: a loss that does not tell parts apart; parts that do not add up to the
    run's own gradient.
    """

    def make() -> RunByPart:
        found = _look(trajectory)
        step = step_by_part(trajectory.step, found)
        vars(other := object.__new__(RunByPart)).update(vars(trajectory))
        vars(other).update(whole=trajectory, found=found, workload=step.workload, step=step, plan=step.plan)
        _check(other)
        return other

    other = remembered(trajectory, "by part", make)
    if other.ending is trajectory.ending:
        return other
    vars(again := object.__new__(RunByPart)).update(vars(other))
    vars(again).update(whole=trajectory, ending=trajectory.ending, _sum=None, _average=None)
    return again


def _check(run: RunByPart) -> None:
    """Compare the gradient of a step with the sum over parts, at the first state and before the last."""
    for t in sorted({run.first, max(run.first, run.last - 1)}):
        if t >= run.steps:
            continue
        state = run.state(t)
        g, h = (step.derived(state)[0] for step in (run.whole.step, run.step))
        if not bool((g - h).norm() <= _OFF * g.norm()):
            run.explain()
            raise InputError(
                f"parts: at step {t} the losses of the parts do not add up to those of their examples; let "
                "the loss return the same ik.Parts whenever it is called"
            )
