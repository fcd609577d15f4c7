"""Products of every batch's gradients with vectors of one's own, step after step: TracIn and its kin."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from influencekit._training.buffers import flat
from influencekit._training.state import State
from influencekit._trajectory.trajectory import Trajectory

__all__ = ["step_products"]


def step_products(
    trajectory: Trajectory, start: int, stop: int, vectors: Callable[[State], Tensor]
) -> Iterator[tuple[slice, Tensor]]:
    """(1/b) <c_t, g_j(theta_t)> for every slot of the steps start ... stop - 1, the last steps first.

    `vectors(state)` gives c_t [row, param] at state t, as many rows at every step. g_j is the gradient of an
    example's own loss with its L2 penalty, as the step computes it; b is the size of the batch.

    Shapes: yields (steps, values [step, row, slot]) of consecutive steps; 0 where a slot is no example's.
    Sign: none is changed; a vector that lowers the query belongs to a score with a minus. Cost: one forward
    and backward pass of a batch a step, for all rows; what it takes to replay the run. Errors: `StoreError`
    where the run cannot be replayed.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.extend import step_products
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> for steps, values in step_products(run, 0, run.steps, lambda state: state.theta[None]):
        ...     print(steps, values.shape)
        slice(0, 2, None) torch.Size([2, 1, 64])
    """
    step, linear = trajectory.step, trajectory.step.linear("none")
    for block in trajectory.blocks(start, stop):
        steps = slice(block[0].step, block[0].step + len(block))
        values: list[Tensor] = [block[0].theta] * len(block)
        with torch.no_grad():
            for state, here in linear.backwards(block):
                c = vectors(state)
                nothing = c.new_zeros(len(c), len(flat(state.buffers, c)))  # the adjoint of the buffers
                values[state.step - steps.start] = here.pull(c, nothing)[1]
            found = torch.stack(values) * step.of_examples(steps)[:, None]
            del block, here, state, values  # before the next states are computed
        yield steps, found
