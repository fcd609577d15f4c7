"""The one flattening order: how a model's trainable parameters lie in the flat vector theta."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

import torch
from torch import Tensor, nn

from influencekit.errors import InputError

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the trainable parameters, in `named_parameters` order (tied ones once).

    theta is the concatenation of the flattened parameters, shape [param]; where models or columns are
    batched, they stand before `param`.

    Example:

        >>> import influencekit as ik
        >>> work = ik.make("workload", "mnist-1v7-lr:n_train=24")
        >>> work.layout.names, work.layout.size
        (('1.weight', '1.bias'), 785)
        >>> work.layout.split(work.theta0)["1.bias"].shape
        torch.Size([1])
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: nn.Module) -> "Layout":
        """The layout of a model's parameters that require a gradient; errors when there are none."""
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise InputError(
                "expected a model with trainable parameters, got none with requires_grad=True; "
                "unfreeze at least one"
            )
        return cls(tuple(n for n, _ in named), tuple(tuple(p.shape) for _, p in named))

    def without(self, names: Collection[str]) -> "Layout":
        """The layout of the other parameters."""
        pairs = [(n, s) for n, s in zip(self.names, self.shapes, strict=True) if n not in names]
        return Layout(tuple(n for n, _ in pairs), tuple(s for _, s in pairs))

    @property
    def sizes(self) -> list[int]:
        return [prod(shape) for shape in self.shapes]

    @property
    def size(self) -> int:
        return sum(self.sizes)

    def split(self, theta: Tensor) -> dict[str, Tensor]:
        """theta [param] -> {name: parameter}, as views."""
        parts = theta.split(self.sizes, dim=-1)
        return {n: p.view(s) for n, s, p in zip(self.names, self.shapes, parts, strict=True)}

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """{name: parameter} -> theta [param], a copy."""
        return torch.cat([tensors[name].detach().reshape(-1) for name in self.names])

    def find(self, name: str, index: Sequence[int]) -> int:
        """Position in theta of one entry of one parameter, e.g. `find("1.weight", (0, 3))`."""
        if name not in self.names:
            raise InputError(f"no parameter named {name!r}; the model has: {', '.join(self.names)}")
        k = self.names.index(name)
        shape = self.shapes[k]
        if len(index) != len(shape) or not all(0 <= i < n for i, n in zip(index, shape, strict=True)):
            raise InputError(f"parameter {name!r} has shape {list(shape)}; index {list(index)} is outside it")
        flat = 0
        for i, n in zip(index, shape, strict=True):
            flat = flat * n + i
        return sum(self.sizes[:k]) + flat

    def matching(self, patterns: Sequence[str]) -> tuple[bool, ...]:
        """Which parameters match one of the shell-style patterns; errors when a pattern matches none."""
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in self.names):
                raise InputError(f"no parameter matches {pattern!r}; the model has: {', '.join(self.names)}")
        return tuple(any(fnmatchcase(name, p) for p in patterns) for name in self.names)
