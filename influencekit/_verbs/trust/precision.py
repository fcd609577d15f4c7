"""How much of a sweep is rounding: a few of its steps in float64, beside the same steps as they are done."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from influencekit._effects.query_gradient import query_gradient
from influencekit._training.batch import batch_in_float64
from influencekit._training.buffers import buffers_in_float64
from influencekit._training.linear import Here
from influencekit._training.reverse import Reversed, pulled_back
from influencekit._training.state import State
from influencekit._training.step import Step
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InfluenceKitError
from influencekit.interfaces import Query

__all__ = ["deviation"]

_STRETCHES = 3  # at the beginning, in the middle and at the end of the run
_LENGTH = 4  # steps of each


def deviation(trajectory: Trajectory, query: Query, curvature: str) -> float:
    """How far contributions and adjoint of a few steps, in the run's own precision and on its own device, are
    from those in float64, relative to these; the largest of three stretches of four steps.

    Each stretch is swept back from the query's gradient at its end. The states are the recorded ones in both,
    so this is the rounding of the sweep alone: about 1e-6 in float32, 1e-3 in TF32. Cost: a dozen steps, and
    as many in float64, untraced. NaN where the model does not run in float64.
    """
    steps, step = trajectory.last - trajectory.first, trajectory.step
    length, worst = min(_LENGTH, steps), 0.0
    gaps = {round(k * (steps - length) / (_STRETCHES - 1)) for k in range(_STRETCHES)}
    gradient, linear = query_gradient(trajectory, query, 1), step.linear(curvature)
    for start in sorted(trajectory.first + gap for gap in gaps):
        blocks = list(trajectory.blocks(start, start + length, "precision"))  # replayed once
        states = [state for block in reversed(blocks) for state in block]
        after = trajectory.state(start + length)
        a, of_buffers = (x[:1] for x in gradient(after))
        with torch.no_grad():
            own = _swept(step, linear.backwards(states), a, of_buffers)
            try:
                wide = _backwards(step, curvature, states)
                exact = _swept(step, wide, a.double(), of_buffers.double())
            except InfluenceKitError:
                raise
            except (RuntimeError, TypeError, ValueError):  # a loss that holds tensors of its own in float32
                return float("nan")
        for mine, true in zip(own, exact, strict=True):
            size = float(true.norm())
            worst = max(worst, float((mine.double() - true).norm()) / size if size else 0.0)
    return worst


def _swept(
    step: Step, backwards: Iterable[tuple[State, Here]], a: Tensor, of_buffers: Tensor
) -> list[Tensor]:
    """Contributions of the steps from consecutive states [step, slot], last first, and the adjoint [1, param]
    before them; `a` and `of_buffers` are the adjoints of theta and of the buffers after them."""
    slots, found = {name: torch.zeros_like(a) for name in step.workload.optimizer.slots}, []
    for state, here in backwards:
        t = state.step
        c, a, slots = step.optimizer_at(t).pullback(
            step.workload.layout, state.theta, state.slots, here.gradient, step.plan.updates + t,
            step.plan.lrs(t), a, slots,
        )  # fmt: skip
        product, gradient_products, of_buffers = here.pull(c, of_buffers)
        a = a + product
        found.append((gradient_products * step.of_examples(t))[0])
    return [torch.stack(found), a]


def _backwards(step: Step, curvature: str, states: Sequence[State]) -> Iterator[tuple[State, Here]]:
    """The steps from these states, last first, linearised in float64 and untraced."""
    for narrow in reversed(states):
        state = State(
            narrow.theta.double(), {n: x.double() for n, x in narrow.slots.items()}, narrow.step,
            buffers_in_float64(narrow.buffers),
        )  # fmt: skip
        mean, found = step.coefficients(state.step).double(), []
        for part in step.source.parts(narrow):
            there = part._replace(batch=batch_in_float64(part.batch), losses=part.losses.in_double())
            found.append(Reversed.of(there, curvature, state.theta, mean[part.slots]))

        def pull(
            c: Tensor, a: Tensor, found: list[Reversed] = found, mean: Tensor = mean
        ) -> tuple[Tensor, Tensor, Tensor]:
            with step.source.protected():
                one = pulled_back(found, c[0], a[0], len(mean))
            return one[0][None], one[1][None], one[2][None]

        gradient = None
        if step.workload.optimizer.needs_gradient():
            gradient = torch.stack([part.product.gradient()[: len(state.theta)] for part in found]).sum(0)
        yield state, Here(pull, gradient)
