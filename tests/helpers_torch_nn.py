"""Rows of the table of torch.nn: a tiny model with its loss, and the right answers by plain PyTorch.

`dit` is right when it is minus the derivative of the mean test loss by every example's weight, found by
autograd through the whole run (`unrolled`), or, where torch has no second derivative or a wrong one, by
central differences of the run (`differences`). `loo` is right when it is what a plain loop with weight 0 on
the example gives (`left_out`). Test losses are in eval mode, with the running statistics of the run itself.
"""

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any

import torch
from helpers_torch_nn_norms import by_hand
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

N, TEST, BATCH, EPOCHS = 8, 3, 4, 2
MOMENTUM, NOISE = 0.9, 3

Tensors = tuple[Tensor, ...]


def squared(outputs: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of every example, written by hand: a loss that no kernel of its own computes."""
    return ((outputs - target) ** 2).flatten(1).mean(1)


def numbers(generator: torch.Generator, n: int) -> Tensors:
    """Inputs [n, 4] and targets [n, 2]."""
    return torch.randn(n, 4, generator=generator), torch.randn(n, 2, generator=generator)


@dataclass(frozen=True, eq=False)
class Row:
    """One row: `model()` in float32, `data(generator, n)` -> (inputs..., target), `loss` -> [n].

    `modes`: the mode of training, by `record` and by `tape`. `refused`: what the one line of the refusal says
    (a regular expression) where it is right to refuse, by `record`, `tape` or `record loo`, ...; `why`: the
    reason, for people. `differences`: torch has no second derivative here, or not the true one. `noisy`:
    training draws random numbers. `tolerance`: of float32 and float64, relative to the largest score.
    """

    name: str
    kind: str
    model: Callable[[], nn.Module]
    data: Callable[[torch.Generator, int], Tensors] = numbers
    loss: Callable[[Any, Tensor], Tensor] = squared
    lr: float = 0.05
    n: int = N
    modes: Mapping[str, str] = field(default_factory=lambda: {"record": "train", "tape": "train"})
    refused: Mapping[str, str] = field(default_factory=dict)
    why: str = ""
    differences: bool = False
    noisy: bool = False
    tolerance: tuple[float, float] = (2e-3, 1e-7)

    def built(self, dtype: torch.dtype, mode: str = "train") -> nn.Module:
        """The model, the same every time; built anew, since some modules cannot be copied."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            return self.model().to(dtype).train(mode == "train")

    def examples(self, dtype: torch.dtype, test: bool = False) -> Tensors:
        generator = torch.Generator().manual_seed(int(test))
        made = self.data(generator, TEST if test else self.n)
        return tuple(x.to(dtype) if x.is_floating_point() else x for x in made)

    def order(self) -> list[list[int]]:
        """The batches of the run."""
        generator = torch.Generator().manual_seed(4)
        epochs = [torch.randperm(self.n, generator=generator).split(BATCH) for _ in range(EPOCHS)]
        return [batch.tolist() for epoch in epochs for batch in epoch]

    def losses(self, call: Callable[..., Any], examples: Tensors) -> Tensor:
        return self.loss(call(*examples[:-1]), examples[-1])


class Around(nn.Module):
    """A layer between two linear ones: its inputs and its parameters are both trained through."""

    def __init__(
        self, layer: nn.Module, shape: tuple[int, ...], call: Callable[..., Any] | None = None
    ) -> None:
        super().__init__()
        self.inner, self.shape, self.layer = nn.Linear(4, prod(shape)), shape, layer
        self.call = call or (lambda layer, h: layer(h))
        with torch.no_grad():
            modes = {m: m.training for m in layer.modules()}
            size = self.features(torch.randn(2, 4), layer.eval()).shape[1]
            for m, mode in modes.items():
                m.training = mode
        self.head = nn.Linear(size, 2)

    def features(self, x: Tensor, layer: nn.Module) -> Tensor:
        found = self.call(layer, self.inner(x).unflatten(1, self.shape))
        found = found[0] if isinstance(found, tuple) else found
        return (torch.view_as_real(found) if found.is_complex() else found).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x, self.layer))


# the right answers --------------------------------------------------------------------------------------


@contextmanager
def oracle_mode():
    """The loop's own noise, and attention by kernels that have second derivatives."""
    with torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH):
        torch.manual_seed(NOISE)
        yield


def trained(row: Row, weights: Tensor, mode: str) -> float:
    """The mean test loss after a plain loop with these weights on the examples' losses."""
    model, examples = row.built(weights.dtype, mode), row.examples(weights.dtype)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], row.lr, MOMENTUM)
    with oracle_mode():
        for rows in row.order():
            optimizer.zero_grad()
            losses = row.losses(model, tuple(x[rows] for x in examples))
            ((weights[rows] * losses).sum() / len(rows)).backward()
            optimizer.step()
        return row.losses(model.eval(), row.examples(weights.dtype, test=True)).mean().item()


def left_out(row: Row, mode: str, dtype: torch.dtype) -> Tensor:
    """What leaving each example out does to the mean test loss, [n]."""
    ones = torch.ones(row.n, dtype=dtype)
    whole = trained(row, ones, mode)
    effects = [trained(row, ones - one, mode) - whole for one in torch.eye(row.n, dtype=dtype)]
    return torch.tensor(effects, dtype=torch.float64)


def differences(row: Row, mode: str, dtype: torch.dtype, h: float = 4e-3) -> Tensor:
    """Minus the derivative by every weight, [n]: central differences, extrapolated once."""
    ones, found = torch.ones(row.n, dtype=dtype), []
    for one in torch.eye(row.n, dtype=dtype):
        ends = [trained(row, ones + s * one, mode) for s in (h, -h, h / 2, -h / 2)]
        coarse, fine = (ends[0] - ends[1]) / (2 * h), (ends[2] - ends[3]) / h
        found.append(-(fine + (fine - coarse) / 3))
    return torch.tensor(found, dtype=torch.float64)


def unrolled(row: Row, mode: str, dtype: torch.dtype) -> Tensor:
    """Minus the derivative by every weight, [n]: autograd through the whole run."""
    model, examples = by_hand(row.built(dtype, mode)), row.examples(dtype)
    theta = {k: p.detach().requires_grad_() for k, p in model.named_parameters() if p.requires_grad}
    weights = torch.ones(row.n, dtype=dtype, requires_grad=True)
    velocity = {k: torch.zeros_like(p) for k, p in theta.items()}
    with oracle_mode():
        for rows in row.order():
            losses = row.losses(_at(model, theta), tuple(x[rows] for x in examples))
            total = (weights[rows] * losses).sum() / len(rows)
            g = torch.autograd.grad(
                total, list(theta.values()), create_graph=True, allow_unused=True, materialize_grads=True
            )
            velocity = {k: MOMENTUM * v + d for (k, v), d in zip(velocity.items(), g, strict=True)}
            theta = {k: p - row.lr * velocity[k] for k, p in theta.items()}
        query = row.losses(_at(model.eval(), theta), row.examples(dtype, test=True)).mean()
        return -torch.autograd.grad(query, weights)[0].double()


def _at(model: nn.Module, theta: Mapping[str, Tensor]) -> Callable[..., Any]:
    return lambda *inputs: functional_call(model, dict(theta), inputs)


@lru_cache(maxsize=8)
def _right(row: Row, mode: str, dtype: torch.dtype) -> dict[str, Tensor]:
    derivative = (differences if row.differences else unrolled)(row, mode, dtype)
    return {"dit": derivative, "loo": left_out(row, mode, dtype)}


def right(row: Row, by: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The right scores [n] of both estimators; in float64, unless the noise depends on the dtype."""
    return _right(row, row.modes[by], dtype if row.noisy else torch.float64)
