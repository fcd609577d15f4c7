"""Digests by which a store knows the model and the data set that made it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from influencekit.errors import StoreError
from influencekit.tape.loader import items
from influencekit.tape.observer import Observer
from influencekit.tape.replica import Call
from influencekit.tape.rng import fixed
from influencekit.tape.spotcheck import Rule

__all__ = ["check_identity", "data_digest", "described_run", "tensor_digest"]

_SAMPLE = 64  # examples that are read


def described_run(
    model: nn.Module, call: Call, rule: Rule, seen: Observer, changing: Sequence[str], *,
    separable: bool, optimizer: dict[str, Any], tolerance: float,
) -> dict[str, Any]:  # fmt: skip
    """What a store says of a taped run: how to rebuild its steps, how to know its model and data set."""
    layout = rule.layout
    return {
        "seed": 0,
        "info": {},
        "schedule": "as recorded",
        "l2": 0.0,
        "tape": {
            "optimizer": optimizer,
            "updates": rule.updates,
            "target_key": call.target_key,
            "custom_forward": call.forward is not None,
            "training": [name for name, on in seen.training.items() if on],
            "autocast": None if seen.autocast is None else str(seen.autocast).removeprefix("torch."),
            "separable": separable,
            "tolerance": tolerance,
        },
        "fingerprint": {
            "parameters": [[n, list(s)] for n, s in zip(layout.names, layout.shapes, strict=True)],
            "dtype": _dtype(model, layout.names),
            "training examples": len(call.data),
            "training data": data_digest(call.data),
            "frozen parameters and constant buffers": tensor_digest(_constant(model, layout.names, changing)),
        },
    }


def check_identity(
    stored: Mapping[str, Any], model: nn.Module, data: Any, changing: Sequence[str], where: str
) -> None:
    """Refuse a model or a data set that is not the run's, saying what differs."""
    shapes = {n: list(p.shape) for n, p in model.named_parameters()}
    for name, shape in stored["parameters"]:
        if shapes.get(name) != shape:
            got = f"shape {shapes[name]}" if name in shapes else "no parameter of that name"
            raise StoreError(
                f"{where} is a run of another model: its {name} has shape {shape}, this one has {got}; pass "
                "the model that was recorded, built in the same way"
            )
    names = [n for n, _ in stored["parameters"]]
    if stored["dtype"] != _dtype(model, names):
        raise StoreError(
            f"{where} is a run of {stored['dtype']} parameters, and this model's are {_dtype(model, names)}; "
            "build it as it was for the run"
        )
    if stored["training examples"] != len(data):
        raise StoreError(
            f"{where} was recorded on {stored['training examples']} training examples, and data has "
            f"{len(data)}; pass the same data set"
        )
    if stored["training data"] != data_digest(data):
        raise StoreError(
            f"{where} was recorded on other training data of the same size (or in another order, or with "
            "another preprocessing); pass the same data set"
        )
    if stored["frozen parameters and constant buffers"] != tensor_digest(_constant(model, names, changing)):
        raise StoreError(
            f"{where}: the frozen parameters or constant buffers of the model are not those of the run; load "
            "the same pretrained weights"
        )


def data_digest(data: Any) -> str:
    """A digest of a sample of examples, evenly spread; random augmentation is drawn from a fixed seed."""
    total = hashlib.sha256()
    with fixed():
        for i in range(0, len(data), max(1, len(data) // _SAMPLE)):
            _add(total, items(data, [i])[0])
    return total.hexdigest()[:16]


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """A digest of named tensors, of large ones a sample of their entries."""
    total = hashlib.sha256()
    for name, tensor in tensors.items():
        flat = tensor.detach().reshape(-1)
        total.update(f"{name}{tuple(tensor.shape)}".encode())
        _add(total, flat[:: max(1, len(flat) // 4096)])
    return total.hexdigest()[:16]


def _dtype(model: nn.Module, names: Sequence[str]) -> str:
    own = dict(model.named_parameters())
    return ", ".join(sorted({str(own[n].dtype).removeprefix("torch.") for n in names}))


def _constant(model: nn.Module, names: Sequence[str], changing: Sequence[str]) -> dict[str, Tensor]:
    """What training leaves alone: frozen parameters and constant buffers."""
    rest = {n: p for n, p in model.named_parameters() if n not in names}
    return rest | {n: b for n, b in model.named_buffers() if n not in changing}


def _add(total: Any, value: Any) -> None:
    """Any usual content of an example, in its order."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, Mapping):
        for key in value:
            total.update(str(key).encode())
            _add(total, value[key])
    elif isinstance(value, list | tuple):
        for each in value:
            _add(total, each)
    elif isinstance(value, str | bytes | int | float | bool | type(None)):
        total.update(repr(value).encode())
    else:  # arrays, pictures, numbers of other libraries
        array = np.asarray(value)
        if array.dtype != object:
            total.update(array.tobytes())
        else:  # its words may hold an address, which is another one next time
            total.update(type(value).__qualname__.encode())
            _add(total, dict(getattr(value, "__dict__", {})))
