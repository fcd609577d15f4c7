"""Models and losses: good ones of odd make, and bad ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.shared.odd.values import EITHER, Value
from benchmarks.shared.odd.world import squared

__all__ = ["losses_kind", "models_kind", "raises"]


class _Model(nn.Module):
    """A model whose forward pass is a function of it and its input."""

    def __init__(self, forward: Any, dtype: torch.dtype = torch.float32, **more: Any) -> None:
        super().__init__()
        self.way = forward
        self.weight = nn.Parameter(torch.tensor([[0.3], [-0.2], [0.5]], dtype=dtype))
        for name, x in more.items():
            setattr(self, name, x)

    def forward(self, x: Tensor) -> Any:
        return self.way(self, x)


def raises(m: nn.Module, x: Tensor) -> Tensor:
    raise ValueError("no\nsuch\nthing")


def _in_place(m: nn.Module, x: Tensor) -> Tensor:
    x.mul_(1.5)
    return x @ m.weight


def _in_place_once(m: nn.Module, x: Tensor) -> Tensor:
    x.clamp_(min=-1)  # the same again and again
    return x @ m.weight


def _prints(m: nn.Module, x: Tensor) -> Tensor:
    print(end="")
    return x @ m.weight


def _counts(m: nn.Module, x: Tensor) -> Tensor:
    m.calls += 1
    return x @ m.weight * (1 + m.calls % 3)


def _grows(m: nn.Module, x: Tensor) -> Tensor:
    m.calls += 1
    return (x @ m.weight).expand(-1, 1 + m.calls % 2)


def _changes(m: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.weight.add_(0.1)
    return x @ m.weight


def models_kind(r: random.Random) -> Value:
    """Models: good ones of odd make, and bad ones."""
    shared = nn.Linear(3, 3)
    one, two = torch.ones(1), torch.ones(2)
    either: dict[str, Callable[[], nn.Module]] = {
        "prints": lambda: _Model(_prints),
        "in place": lambda: _Model(_in_place),
        "clamps in place": lambda: _Model(_in_place_once),
        "shared": lambda: nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(3, 1)),
        "zero-size": lambda: _with(empty=torch.zeros(0, 3)),
        "unused": lambda: _with(other=two),
        "a whole-number parameter": lambda: _Model(_product, count=_frozen(torch.tensor([3]))),
        "a whole-number buffer": lambda: _with_buffer(_Model(_product), torch.tensor([3])),
        "double": lambda: _Model(lambda m, x: x.double() @ m.weight, torch.float64),
        "frozen half": lambda: _Model(_product, low=_frozen(two.half())),
        "a scalar parameter": lambda: _Model(
            lambda m, x: x @ m.weight * m.scale, scale=nn.Parameter(torch.tensor(2.0))
        ),
        "not contiguous": lambda: _with(weight2=torch.ones(3, 2).T),
        "parametrized": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 1)),
        "layer norm": lambda: nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 1)),
        "complex inside": lambda: _Model(lambda m, x: (x @ m.weight * 1j).imag),
        "nan_to_num": lambda: _Model(lambda m, x: x.nan_to_num() @ m.weight),
        "sorts": lambda: _Model(lambda m, x: x.sort(-1).values @ m.weight),
        "eval mode": lambda: nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.5)).eval(),
        "a closure": _closure,
        "counts": lambda: _Model(_counts, calls=0),
        "changes itself": lambda: _Model(_changes),
    }
    refused: dict[str, Callable[[], nn.Module]] = {
        "None": lambda: _Model(lambda m, x: None),
        "a tuple": lambda: _Model(lambda m, x: (x @ m.weight, 3)),
        "grows": lambda: _Model(_grows, calls=0),
        "raises": lambda: _Model(raises),
        "no parameters": nn.Identity,
        "frozen": lambda: nn.Linear(3, 1).requires_grad_(False),
        "half": lambda: nn.Linear(3, 1).half(),
        "complex": lambda: nn.Linear(3, 1).to(torch.complex64),
        "two dtypes": lambda: _with(two=one.double()),
        "meta": lambda: nn.Linear(3, 1, device="meta"),
        "dropout": lambda: nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.5)),
        "other width": lambda: nn.Linear(5, 1),
        "detached": lambda: _Model(lambda m, x: (x @ m.weight).detach()),
        "a number": lambda: _Model(lambda m, x: 3.0),
        "lazy": lambda: nn.LazyLinear(1),
        "nan weights": lambda: _filled(float("nan")),
        "infinite weights": lambda: _filled(float("inf")),
        "sparse": lambda: _with(s=torch.eye(2).to_sparse()),
        "integers out": lambda: _Model(lambda m, x: (x @ m.weight).long()),
    }
    if r.random() < 0.5:
        text = r.choice(list(either))
        return Value(text, either[text](), EITHER)
    text = r.choice(list(refused))
    return Value(text, refused[text]())


def _product(m: nn.Module, x: Tensor) -> Tensor:
    return x @ m.weight


def _with(**more: Tensor) -> nn.Module:
    """A model with further parameters, which it does not use."""
    return _Model(_product, **{name: nn.Parameter(x) for name, x in more.items()})


def _frozen(x: Tensor) -> nn.Parameter:
    return nn.Parameter(x, requires_grad=False)


def _with_buffer(model: nn.Module, x: Tensor) -> nn.Module:
    model.register_buffer("counted", x)
    return model


def _filled(x: float) -> nn.Module:
    model = nn.Linear(3, 1)
    nn.init.constant_(model.weight, x)
    return model


def _closure() -> nn.Module:
    weight = nn.Parameter(torch.ones(3, 1))
    return _Model(lambda m, x: x @ m.weight + x @ weight)


def losses_kind(r: random.Random) -> Value:
    """Losses: good ones of odd make, and bad ones."""

    def one_nan(out: Tensor, y: Tensor) -> Tensor:
        return torch.where(y == y.max(), float("nan"), squared(out, y))

    def key_error(out: Tensor, y: Tensor) -> Tensor:
        raise KeyError("a\nb")

    def odd_one(out: Tensor, y: Tensor) -> Tensor:
        return (squared(out, y) * 1.0) if len(y) > 2 else squared(out, y).sum()

    def in_place(out: Tensor, y: Tensor) -> Tensor:
        y.add_(1)
        return squared(out, y)

    either = [
        squared, lambda o, y: squared(o, y).double(), lambda o, y: squared(o, y).half().float(),
        lambda out, target: squared(out, target), partial(squared), lambda *a: squared(*a),
        lambda o, y, batch=None: squared(o, y), in_place, odd_one,
    ]  # fmt: skip
    refused = [
        lambda o, y: squared(o, y).mean(), lambda o, y: squared(o, y)[:, None], lambda o, y: None,
        lambda o, y: [1.0] * len(y), lambda o, y: squared(o, y).tolist(), lambda o, y: squared(o, y).detach(),
        lambda o, y: squared(o, y).long(), lambda o, y: squared(o, y) > 0, lambda o, y: squared(o, y) + 0j,
        lambda o: o, one_nan, key_error, lambda o, y: squared(o, y)[:-1], lambda o, y: (squared(o, y),),
        lambda o, y: torch.rand(len(y)) * squared(o, y), "mse", None, 3, nn.MSELoss,
        lambda o, y: squared(o, y) * float("inf"), lambda o, y: squared(o, y).numpy(), nn.MSELoss(),
        torch.zeros(8),
    ]  # fmt: skip
    if r.random() < 0.4:
        k = r.randrange(len(either))
        return Value(f"fair loss {k}", either[k], EITHER)
    k = r.randrange(len(refused))
    return Value(f"bad loss {k}", refused[k])
