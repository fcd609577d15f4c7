"""Batch and instance norm by their formulas: running statistics that autograd goes through."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm


class HandNorm(nn.Module):
    """A batch or instance norm layer whose running statistics stay attached to the graph of the run."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.eps, self.momentum, self.instances = norm.eps, norm.momentum, isinstance(norm, _InstanceNorm)
        # a tuple, so that it is neither parameter nor buffer
        self.running = (norm.running_mean, norm.running_var) if norm.running_mean is not None else None
        self.count = 0
        self.training = norm.training

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        if self.training or self.running is None:
            over = [d for d in range(x.dim()) if d != 1 and not (self.instances and d == 0)]
            mean, var = x.mean(over, keepdim=True), x.var(over, correction=0, keepdim=True)
            if self.training and self.running is not None:
                self._follow(mean, x.var(over, correction=1, keepdim=True))
        else:
            mean, var = (s.view(shape) for s in self.running)
        x = (x - mean) / torch.sqrt(var + self.eps)
        if self.weight is None:
            return x
        return x * self.weight.view(shape) + self.bias.view(shape)

    def _follow(self, mean: Tensor, var: Tensor) -> None:
        assert self.running is not None
        self.count += 1
        factor = 1 / self.count if self.momentum is None else self.momentum
        new = [s.mean(0).flatten() for s in (mean, var)]  # over the instances; of a batch there is one
        self.running = tuple(
            (1 - factor) * old + factor * s for old, s in zip(self.running, new, strict=True)
        )


def by_hand(model: nn.Module) -> nn.Module:
    """`model` with its batch and instance norm layers replaced."""
    for name, child in model.named_children():
        if isinstance(child, (_BatchNorm, _InstanceNorm)):
            setattr(model, name, HandNorm(child))
        else:
            by_hand(child)
    return HandNorm(model) if isinstance(model, (_BatchNorm, _InstanceNorm)) else model
