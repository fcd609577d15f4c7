"""A recorded run, seen as one whose examples are parts: the states are the recorded ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from influencekit._training.batch import tensors_of
from influencekit._training.by_part import PartsThere, step_by_part
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
        """Refuse a run whose examples have parts in training that they have not when looked at alone.

        Cost: a forward pass of each step.
        """
        there = self.found.there
        for block in self.whole.blocks(self.first, self.last):
            for state in block:
                for part in self.whole.step.source.parts(state):
                    assert part.losses.parts_of is not None
                    n = len(tensors_of(part.batch)[0])
                    rows = self.whole.step.rows(state.step)[part.slots][:n]
                    with torch.no_grad():
                        weights = part.losses.parts_of(part.outputs(state.theta), part.batch).weights[:n]
                    self._compare(state.step, rows, weights != 0, there[rows])

    def _compare(self, t: int, rows: Tensor, here: Tensor, there: Tensor) -> None:
        width = min(here.shape[1], there.shape[1])
        strange = here.clone()
        strange[:, :width] &= ~there[:, :width]
        real = self.whole.plan.indices[t].to(rows.device)
        for k in strange.any(1).nonzero().flatten().tolist():
            if (real == rows[k]).any():
                column = int(strange[k].nonzero()[0])
                raise InputError(
                    f"parts: at step {t} the example at position {int(rows[k])} has a part in column "
                    f"{column}, and none there when it is looked at by itself; keep each part of an example "
                    "in its column, whatever batch it is in (pad on the right), and the same parts each time"
                )


def by_part(trajectory: Trajectory) -> RunByPart:
    """The run with its parts as examples: `workload.n_train` is the number of parts.

    Cost: a forward pass of every training example, and two gradients, once a run. Errors: a loss that does
    not tell parts apart; parts that do not add up to the run's own gradient.
    """

    def make() -> RunByPart:
        workload = trajectory.workload
        rows = torch.arange(workload.n_train, device=workload.device).split(_ROWS)
        found = PartsThere.of(workload, [workload.examples(some) for some in rows])
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
