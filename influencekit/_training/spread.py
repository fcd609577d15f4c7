"""What leaving examples out at random adds to the square of a mean gradient, and Adam's step with it.

    E (sum_i w_i g_i / b)^2 = (A sum_i g_i / b)^2 + A (1 - A) sum_i (g_i / b)^2,    entry by entry,

for independent w_i of 0 or 1 with mean A. The second term is the spread. A weight A on all examples, which
cancels in Adam's step, has no spread; random sets of a fraction A have it, and it stays in their v.
"""

import torch
from torch import Tensor
from torch.func import grad, vmap

from influencekit._training.batch import tensors_of, with_tensors
from influencekit._training.clipping import by_norm
from influencekit._training.curvature import leaf
from influencekit._training.kernels.tracing import agree
from influencekit._training.layout import Layout
from influencekit._training.optimizer import Optimizer, Slots
from influencekit._training.optimizers import Adam, NAdam, RAdam
from influencekit._training.parts import Part
from influencekit._training.state import State
from influencekit._training.step import Step

__all__ = ["Spread", "takes_spread"]

_MEMORY = 256 << 20  # bytes of single gradients that are formed at once


def takes_spread(optimizer: Optimizer) -> bool:
    """Whether v of this optimizer is a running mean of squared gradients: Adam and AdamW, NAdam, RAdam."""
    return isinstance(optimizer, Adam | NAdam | RAdam) and min(_betas(optimizer)) > 0


class Spread:
    """States of a run whose next step sees v with the spread: `prepare` of `Step.varied`.

        v <- v + (1 - beta2) / beta2 * spread_t     before the step, which multiplies v by beta2

    `weight` [step] is A in each step. Cost: the gradient of every example of a step.
    """

    def __init__(self, weight: Tensor) -> None:
        self._factor = (weight * (1 - weight)).tolist()
        self._batched: bool | None = None  # whether single gradients can be had at once; None = not seen yet

    def __call__(self, step: Step, state: State) -> State:
        """The state with the spread in its v. `step` is the one from it, all examples at weight A."""
        if not (factor := self._factor[state.step]):
            return state
        optimizer = step.optimizer_at(state.step)
        spread = factor * self.squares(step, state)
        if optimizer.clip_norm is not None or optimizer.clip_value is not None:
            g = step.gradient(state, step.coefficients(state.step))[0]
            spread = spread * _clipping(optimizer, step.workload.layout, g).square()
        return state._replace(slots=_with_spread(optimizer, step, state.slots, spread))

    def squares(self, step: Step, state: State) -> Tensor:
        """sum_i (g_i / b)^2 [param] over the examples of the step from a state, penalty included."""
        total, mean = torch.zeros_like(state.theta), step.of_examples(state.step)
        if (
            self._batched is None and step.source.caution
        ):  # losses depend on their batch, which a few examples need not show
            self._batched = False
        with step.source.protected():
            for part in step.source.parts(state):
                coefficients = mean[part.slots]
                here = coefficients.nonzero().flatten()
                size = max(1, _MEMORY // state.theta.nbytes)
                for rows in here.split(size):
                    each = self._gradients(part, state.theta, rows) + step.workload.l2 * state.theta
                    total += coefficients[rows].square() @ each.square()
        return total

    def _gradients(self, part: Part, theta: Tensor, rows: Tensor) -> Tensor:
        """The gradients [row, param] of some losses of a part: at once, where that gives the same."""
        if self._batched is False:
            return _one_by_one(part, theta, rows)
        try:
            found = _at_once(part, theta, rows)
        except Exception as error:  # a model that is made for its own batches, or no rule for batching
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self._batched = False
            return _one_by_one(part, theta, rows)
        if self._batched is None:
            self._batched = agree(found[[0, -1]], _one_by_one(part, theta, rows[[0, -1]]))
        return found if self._batched else _one_by_one(part, theta, rows)


def _at_once(part: Part, theta: Tensor, rows: Tensor) -> Tensor:
    def loss(z: Tensor, *one: Tensor) -> Tensor:
        return part.losses.losses(z, with_tensors(part.batch, [x[None] for x in one]))[0]

    tensors = [x[rows] for x in tensors_of(part.batch)]
    each = vmap(grad(loss), in_dims=(None, *[0] * len(tensors)))
    return each(part.losses.z(theta), *tensors)[:, : len(theta)].detach()


def _one_by_one(part: Part, theta: Tensor, rows: Tensor) -> Tensor:
    with torch.enable_grad():
        z = leaf(part.losses.z(theta))
        losses = part.losses.losses(z, part.batch)
        found = [
            torch.autograd.grad(losses[k], z, retain_graph=True, materialize_grads=True)[0]
            for k in rows.tolist()
        ]
    return torch.stack(found)[:, : len(theta)]


def _clipping(optimizer: Optimizer, layout: Layout, g: Tensor) -> Tensor:
    """What clipping multiplies the mean gradient g [param] by."""
    if optimizer.clip_value is not None:
        return (g.abs() <= optimizer.clip_value).to(g)
    assert optimizer.clip_norm is not None
    clipped = by_norm(layout, g, optimizer.clip_norm, optimizer.clip_norm_type)
    return clipped.abs().max() / g.abs().max() if g.any() else torch.ones_like(g)


def _betas(optimizer: Optimizer) -> list[float]:
    """beta2 of every group."""
    return [rule.betas[1] for rule in optimizer.members() if isinstance(rule, Adam | NAdam | RAdam)]


def _with_spread(optimizer: Optimizer, step: Step, slots: Slots, spread: Tensor) -> Slots:
    layout, beta2 = step.workload.layout, _betas(optimizer)
    each = [(1 - beta2[k]) / beta2[k] for k in optimizer.owners(layout)]
    factor = torch.tensor(each, dtype=torch.float64).repeat_interleave(torch.tensor(layout.sizes))
    return {**slots, "exp_avg_sq": slots["exp_avg_sq"] + factor.to(spread) * spread}
