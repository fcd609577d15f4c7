"""Rows of the table of torch.nn: operators that models use between their layers."""

from collections.abc import Callable
from typing import Any

import torch
from helpers_torch_nn import Row
from helpers_torch_nn_layers import around
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def operator(
    name: str, function: Callable[[Tensor], Any], shape: tuple[int, ...] = (6,), **options: Any
) -> Row:
    """A function of the activations between a linear layer and tanh, and another linear layer."""
    return around(name, "operators", nn.Tanh, shape, lambda layer, h: function(layer(h)), **options)


def spectrum(h: Tensor) -> Tensor:
    return torch.stft(h, 4, hop_length=2, window=torch.ones(4).to(h), center=False, return_complex=True)


def masked(h: Tensor) -> Tensor:
    """The positive activations alone are squared, by a boolean mask."""
    new = h.clone()
    new[h > 0] = h[h > 0] ** 2
    return new


def slices(h: Tensor) -> Tensor:
    new = torch.zeros_like(h)
    new[:, ::2] = h[:, ::2] ** 2
    new[:, 1::2] += h[:, 1::2]
    return new


def in_place(h: Tensor) -> Tensor:
    new = h * 2
    new.mul_(h).add_(1.0)
    return new


def scattered(h: Tensor) -> Tensor:
    place = torch.tensor([0, 2, 1, 0, 2, 1]).expand_as(h)
    return torch.zeros(len(h), 3).to(h).scatter_add(1, place, h)


def matrix(h: Tensor) -> Tensor:
    """A matrix [n, 2, 2] that can be inverted."""
    return h.unflatten(1, (2, 2)) + 3 * torch.eye(2).to(h)


def positive(h: Tensor) -> Tensor:
    a = h.unflatten(1, (2, 2))
    return a @ a.mT + torch.eye(2).to(h)


class Cube(torch.autograd.Function):
    """A function of one's own, as written before torch 2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad


class NewCube(torch.autograd.Function):
    """The same, as torch.func wants it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    backward = Cube.backward


class Scaled(nn.Module):
    """Scaled by a number that is read by `.item()`, of a buffer or of a frozen parameter."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.body = nn.Linear(4, 2)
        if isinstance(scale, nn.Parameter):
            self.scale = scale
        else:
            self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.scale.item()


class Checkpointed(nn.Module):
    """A layer whose activations are computed again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 5), nn.Linear(5, 2)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.outer(checkpoint(lambda h: torch.tanh(self.inner(h)), h, use_reentrant=self.reentrant))


class Branching(nn.Module):
    """Which layer is used hangs on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if self.a.bias.sum() > -100 else self.b(x)


class Positions(nn.Module):
    """A parameter cut out, repeated and transposed in many ways."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.head = nn.Parameter(torch.randn(3, 5)), nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.einsum("nc,pc->npc", x, self.place[:, :4])
        h = h.permute(0, 2, 1).reshape(len(x), 2, 2, 3).permute(0, 1, 3, 2).flatten(1)
        return self.head(torch.cat([h[:, :6], self.place[:, 4:].T.expand(len(x), 3)], 1))


OPERATORS = [
    operator("fft.rfft", torch.fft.rfft),
    operator("fft.irfft of rfft", lambda h: torch.fft.irfft(torch.fft.rfft(h) * 0.5, n=6)),
    operator("fft.fft2", lambda h: torch.fft.fft2(h.unflatten(1, (2, 3)))),
    operator("fft.rfft, absolute values", lambda h: torch.fft.rfft(h).abs()),
    operator("stft", spectrum, (8,)),
    operator("view_as_complex", lambda h: torch.view_as_complex(h.unflatten(1, (3, 2))) ** 2),
    operator("boolean masks", masked),
    operator("masked_fill", lambda h: h.masked_fill(h > 0.5, 0.25)),
    operator("writes into slices", slices),
    operator("in-place arithmetic", in_place),
    operator("index_add", lambda h: torch.zeros_like(h).index_add(1, torch.tensor([0, 2, 2, 1, 0, 5]), h)),
    operator("gather", lambda h: h.gather(1, torch.tensor([[0, 2, 2, 1]]).expand(len(h), 4))),
    operator("scatter_add", scattered),
    operator("indexing by lists", lambda h: h[:, [3, 1, 1]]),
    operator("where", lambda h: torch.where(h > 0, h**2, h)),
    operator("clamp", lambda h: h.clamp(-0.5, 0.5)),
    operator("cumsum", lambda h: h.cumsum(1)),
    operator("cumprod", lambda h: h.cumprod(1)),
    operator("logcumsumexp", lambda h: h.logcumsumexp(1)),
    operator("sort", lambda h: h.sort(1).values[:, 1:]),
    operator("topk", lambda h: h.topk(2, 1).values),
    operator("amax, amin", lambda h: torch.stack([h.amax(1), h.amin(1)], 1)),
    operator("max over a dimension", lambda h: h.unflatten(1, (2, 3)).max(1).values),
    operator("median", lambda h: h.median(1).values[:, None]),
    operator("std, var", lambda h: torch.stack([h.std(1), h.var(1)], 1)),
    operator("prod", lambda h: h.prod(1, keepdim=True)),
    operator("norm", lambda h: h.norm(dim=1, keepdim=True)),
    operator("normalize", lambda h: nn.functional.normalize(h, dim=1)),
    operator("logsumexp", lambda h: h.logsumexp(1, keepdim=True)),
    operator(
        "einsum", lambda h: torch.einsum("nij,nkj->nik", h.unflatten(1, (2, 3)), h.unflatten(1, (2, 3)))
    ),
    operator("bmm", lambda h: torch.bmm(h.view(-1, 2, 2), h.view(-1, 2, 2)), (4,)),
    operator("outer products", lambda h: h[:, :, None] * h[:, None, :], (3,)),
    operator("permute, reshape", lambda h: h.view(-1, 2, 3, 2).permute(0, 2, 3, 1).reshape(-1, 4, 3), (12,)),
    operator("roll, flip, repeat", lambda h: torch.cat([h.roll(1, 1), h.flip(1), h.repeat(1, 2)], 1), (3,)),
    operator("unfold", lambda h: h.unfold(1, 3, 1)),
    operator("as_strided", lambda h: h.contiguous().as_strided((len(h), 2, 2), (4, 2, 1)), (4,)),
    operator("tril", lambda h: h.unflatten(1, (2, 3)).tril()),
    operator(
        "cdist",
        lambda h: torch.cdist(h.unflatten(1, (3, 2)), h.unflatten(1, (3, 2)) + 3),
        differences=True,
        lr=0.002,  # its outputs are large
    ),
    operator("linalg.inv", lambda h: torch.linalg.inv(matrix(h)), (4,)),
    operator("linalg.solve", lambda h: torch.linalg.solve(matrix(h), h.unflatten(1, (2, 2))), (4,)),
    operator("linalg.cholesky", lambda h: torch.linalg.cholesky(positive(h)), (4,)),
    operator("linalg.slogdet", lambda h: torch.linalg.slogdet(positive(h)).logabsdet[:, None], (4,)),
    operator("linalg.eigvalsh", lambda h: torch.linalg.eigvalsh(positive(h)), (4,)),
    operator("matrix_exp", lambda h: torch.matrix_exp(h.unflatten(1, (2, 2))), (4,)),
    operator("interpolate", lambda h: nn.functional.interpolate(h[:, None], size=4, mode="linear")),
    operator(
        "grid_sample",
        lambda h: nn.functional.grid_sample(
            h.view(-1, 1, 3, 3),
            torch.tensor([[[[0.1, 0.3], [-0.4, 0.2]]]]).to(h).expand(len(h), 1, 2, 2),
            align_corners=False,
        ),
        (9,),
    ),
    operator("erf, lgamma, digamma", lambda h: torch.cat([h.erf(), (h + 3).lgamma(), (h + 3).digamma()], 1)),
    operator("autograd.Function, old style", Cube.apply),
    operator("autograd.Function, setup_context", NewCube.apply),
    Row(
        "a frozen parameter's .item()",
        "operators",
        lambda: Scaled(nn.Parameter(torch.tensor(1.5), requires_grad=False)),
    ),
    Row("a buffer's .item()", "operators", lambda: Scaled(torch.tensor(1.5))),
    Row("a branch on values", "operators", Branching),
    Row("checkpoint(use_reentrant=False)", "operators", lambda: Checkpointed(False), differences=True),
    Row(
        "checkpoint(use_reentrant=True)",
        "operators",
        lambda: Checkpointed(True),
        differences=True,
    ),
    Row("einsum and permutes of a parameter", "operators", Positions),
]

ROWS = OPERATORS
