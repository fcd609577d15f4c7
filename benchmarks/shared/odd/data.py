"""Examples that misbehave, and good ones in odd forms."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.shared.odd.values import EITHER, Kind, Value, bad
from benchmarks.shared.odd.world import parts

__all__ = ["data_kinds"]


class Sub(Tensor):
    """A subclass of tensors that does nothing."""


_THE_SAME = {
    "as it is", "transposed twice", "every other", "a parameter", "requires a gradient", "a result",
    "a subclass", "a view", "inference", "read-only memory",
}  # fmt: skip


def _form(x: Tensor, r: random.Random) -> tuple[str, Any, Any]:
    """The same numbers in another form, or another number of them; what they stand for."""
    forms = {
        "as it is": x, "transposed twice": x.clone().T.contiguous().T if x.dim() > 1 else x.clone(),
        "every other": torch.stack([x, x], -1).flatten(-2)[..., ::2], "a parameter": nn.Parameter(x.clone()),
        "requires a gradient": x.clone().requires_grad_(), "a result": x.clone().requires_grad_() * 1,
        "a subclass": x.as_subclass(Sub), "an array": x.numpy(), "a list": x.tolist(),
        "a view": torch.cat([x, x])[: len(x)], "expanded": x[:1].expand_as(x), "double": x.double(),
        "half": x.half(), "bfloat16": x.bfloat16(), "integers": x.long(), "booleans": x > 0,
        "complex": x + 0j, "sparse": x.to_sparse(), "uint8": x.abs().byte(), "inference": _inference(x),
        "read-only memory": torch.from_numpy(_read_only(x)),
    }  # fmt: skip
    name = r.choice(list(forms))
    return name, forms[name], x if name in _THE_SAME else EITHER


def _inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


def _read_only(x: Tensor) -> np.ndarray:
    array = x.numpy().copy()
    array.setflags(write=False)
    return array


def _refused(x: Tensor) -> list[Any]:
    return [
        x.to("meta"), x[:0], x[0].sum(), x[:-1], None, "x", 3,
        torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), object(),
        torch.nested.nested_tensor([x[:4], x[4:]]), torch.full_like(x, float("nan")),
        torch.full_like(x, float("inf")),
        x.masked_fill(torch.arange(len(x)).reshape(-1, *[1] * (x.dim() - 1)) == 1, float("nan")),
    ]  # fmt: skip


def _no_pairs(x: Tensor, y: Tensor) -> list[Value]:
    return bad(
        (), (), {}, None, 3, "xy", {"x": x}, [x, None], {3: x, "labels": y}, (x, y, y), TensorDataset(x, y),
        DataLoader(TensorDataset(x, y)), iter([x, y]), {x, y}, np.ones((8, 3)), object(), {"labels": y},
    )  # fmt: skip


def _pair(name: str) -> Kind:
    """Inputs and targets of which one is odd, or what is no such pair."""

    def draw(r: random.Random) -> Value:
        x, y = parts()[name]
        inputs = r.random() < 0.6
        part, called = (x, "inputs") if inputs else (y, "targets")

        def with_it(odd: Any) -> tuple[Any, Any]:
            return (odd, y) if inputs else (x, odd)

        if r.random() < 0.4:
            odd = r.choice(_refused(part))
            shape = "" if getattr(odd, "is_nested", False) else tuple(getattr(odd, "shape", ()))
            text = f"{called} {type(odd).__name__} {getattr(odd, 'dtype', '')} {shape}"
            return Value(text, with_it(odd))
        if r.random() < 0.2:
            return r.choice([Value("list", [x, y], (x, y)), *_no_pairs(x, y)])
        text, form, means = _form(part, r)
        return Value(f"{called}: {text}", with_it(form), EITHER if means is EITHER else (x, y))

    return draw


def data_kinds() -> dict[str, Kind]:
    """`train` and `test` of a workload."""
    return {"train": _pair("train"), "test": _pair("test")}
