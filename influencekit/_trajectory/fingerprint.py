"""Digests by which a store knows the model and the data that made it."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor

from influencekit._training.batch import select, tensors_of
from influencekit._training.optimizer import description
from influencekit._training.workload import Workload
from influencekit.errors import StoreError

__all__ = ["check_match", "digest", "digest_by_name", "fingerprint", "sampled_rows"]

_EXAMPLES = 64  # examples that are read
_ENTRIES = 4096  # entries of a named tensor that are read


def digest(values: Iterable[Any]) -> str:
    """16 hexadecimal digits of the content of values: tensors, arrays, text, numbers, collections of them."""
    total = hashlib.sha256()
    for value in values:
        _add(total, value)
    return total.hexdigest()[:16]


def digest_by_name(tensors: Mapping[str, Tensor]) -> str:
    """A digest of names, shapes, and a sample of the entries of each tensor."""
    total = hashlib.sha256()
    for name, tensor in tensors.items():
        flat = tensor.detach().reshape(-1)
        total.update(f"{name}{tuple(tensor.shape)}".encode())
        _add(total, flat[:: max(1, len(flat) // _ENTRIES)])
    return total.hexdigest()[:16]


def sampled_rows(count: int) -> range:
    """The examples of a data set that a digest reads: about 64, evenly spaced."""
    return range(0, count, max(1, count // _EXAMPLES))


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
        if array.dtype.kind in "biufc":  # without a copy: the plan of a long run is large
            total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        elif array.dtype != object:
            total.update(array.tobytes())
        else:  # its text may hold an address, which differs next time
            total.update(type(value).__qualname__.encode())
            _add(total, dict(getattr(value, "__dict__", {})))


def fingerprint(workload: Workload) -> dict[str, Any]:
    """What a store and a workload must agree on. The names of the entries stand in error messages."""
    plan, n = workload.plan, workload.n_train
    sample = torch.tensor(sampled_rows(n), dtype=torch.long, device=workload.device)
    return {
        "parameters": [
            [n, list(s)] for n, s in zip(workload.layout.names, workload.layout.shapes, strict=True)
        ],
        "dtype": str(workload.dtype).removeprefix("torch."),
        "training examples": n,
        "training data": digest(tensors_of(select(workload.train, sample))),
        "initial parameters": digest([workload.theta0]),
        "order of batches": digest([plan.indices]),
        "learning rates": digest([plan.lr]),
        "optimizer": description(workload.optimizer),
        "l2": workload.l2,
    }


def check_match(group: zarr.Group, workload: Workload, where: str) -> None:
    """Refuse a workload that did not make the store, naming everything that differs."""
    stored: Any = group.attrs["fingerprint"]
    mine = fingerprint(workload)
    wrong = [name for name in mine if stored.get(name) != mine[name]]
    if wrong:
        name = wrong[0]
        shown = "" if len(str(mine[name])) > 60 else f" (store: {stored.get(name)}, workload: {mine[name]})"
        raise StoreError(
            f"{where} is not a run of this workload: {', '.join(wrong)} differ{shown}; open it with the "
            "workload, setting, seed and data that it was recorded with"
        )
