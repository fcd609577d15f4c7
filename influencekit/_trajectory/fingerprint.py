"""Digests by which a store knows the model and the data that made it."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import zarr
from torch import Tensor, nn

from influencekit._training.batch import Batch, select, tensors_of
from influencekit._training.optimizer import description
from influencekit._training.plan import planned
from influencekit._training.workload import Workload
from influencekit._trajectory.contents import compare, digest_tensors, of_tensors
from influencekit.errors import StoreError

__all__ = [
    "Known", "check_match", "compare_contents", "contents", "digest", "digest_by_name", "fingerprint",
    "named", "of_loss", "sampled_rows", "shared_contents",
]  # fmt: skip

_EXAMPLES = 64  # examples that are read
_ENTRIES = 4096  # entries of a named tensor that are read


class Known(NamedTuple):
    """The contents of what a run was opened with, and what the store says of them.

    `wrong`: what differs, with details where there are some; `test`: what of the test set differs;
    `examples`: how many training examples were compared.
    """

    contents: dict[str, Any]
    wrong: dict[str, str]
    test: str
    examples: int


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


def fingerprint(workload: Workload, plan: bool = True) -> dict[str, Any]:
    """What a store and a workload must agree on. The names of the entries stand in error messages.

    plan = False: without the digests of the plan, which then is not made.
    """
    n = workload.n_train
    sample = torch.tensor(sampled_rows(n), dtype=torch.long, device=workload.device)
    return {
        "parameters": [
            [n, list(s)] for n, s in zip(workload.layout.names, workload.layout.shapes, strict=True)
        ],
        "dtype": str(workload.dtype).removeprefix("torch."),
        "training examples": n,
        "training data": digest(tensors_of(select(workload.train, sample))),
        "initial parameters": digest([workload.theta0]),
        "order of batches": digest([workload.plan.indices]) if plan else None,
        "learning rates": digest([workload.plan.lr]) if plan else None,
        "optimizer": description(workload.optimizer),
        "l2": workload.l2,
    }


def shared_contents(workload: Workload) -> dict[str, Any]:
    """The contents of the tensors that a workload shares with whoever made it."""
    sets = {"training data": workload.train, "test data": workload.test}
    return {name: of_tensors(named(batch)) for name, batch in sets.items()} | of_loss(workload.loss)


def contents(workload: Workload) -> dict[str, Any]:
    """All of the data and of what is not trained, beside the sample of `fingerprint`; see `contents.py`."""
    own = {**dict(workload.model.named_parameters()), **dict(workload.model.named_buffers())}
    trained = set(workload.layout.names)
    return {
        **shared_contents(workload),
        "frozen parameters and constant buffers": digest_tensors(
            {name: x for name, x in own.items() if name not in trained}
        ),
    }


def named(batch: Batch) -> dict[str, Tensor]:
    """The tensors of a batch by the names of the entries."""
    if isinstance(batch, dict):
        return batch
    return {str(k): x for k, x in enumerate(tensors_of(batch))}


def of_loss(loss: Any) -> dict[str, str]:
    """A digest of the numbers in a loss that is a module, such as the weights of classes."""
    if not isinstance(loss, nn.Module):
        return {}
    own = {**dict(loss.named_parameters()), **dict(loss.named_buffers())}
    own = {name: x for name, x in own.items() if x.is_floating_point()}  # the others may count its calls
    return {"tensors of the loss": digest_tensors(own)} if own else {}


def _as_long(group: zarr.Group, workload: Workload) -> bool:
    """Whether the workload's plan is as large as the store's. (A hostile store asks for one without end.)"""
    if workload.order is not None:
        return True
    asked = planned(workload.n_train, workload.batch_size, workload.epochs, workload.drop_last)
    return asked == getattr(group.get("batch"), "shape", None)


def check_match(group: zarr.Group, workload: Workload, where: str) -> Known:
    """Refuse a workload that did not make the store, naming everything that differs.

    Returns what was compared. Another test set is no other run: what of it has changed is said.
    """
    stored: Any = group.attrs["fingerprint"]
    mine = fingerprint(workload, _as_long(group, workload))
    was = {**stored, "optimizer": _plain_numbers(str(stored.get("optimizer")))}
    wrong = {name: "" for name in mine if was.get(name) != mine[name]}
    for name in wrong:
        if len(str(mine[name])) <= 60 and not name.endswith("data"):
            wrong[name] = f"store: {stored.get(name)}, workload: {mine[name]}"
    known = compare_contents(dict(group.attrs), contents(workload))
    wrong |= known.wrong
    if wrong:
        shown = next((f" ({name}: {said})" for name, said in wrong.items() if said), "")
        raise StoreError(
            f"{where} is not a run of this workload: {', '.join(wrong)} differ{shown}; open it with the "
            "workload, setting, seed and data that it was recorded with"
        )
    return known


def _plain_numbers(text: str) -> str:
    """The text of an optimizer with plain numbers, where versions before 0.4.0 had those of NumPy."""

    def plain(found: re.Match[str]) -> str:
        try:
            return repr(getattr(np, found[1])(found[2]).item())
        except (ValueError, OverflowError):  # no number
            return found[0]

    return re.sub(r"np\.(float16|float32|float64|int32|int64)\(([^()]*)\)", plain, text)


def compare_contents(attrs: Mapping[str, Any], mine: dict[str, Any]) -> Known:
    """Compare contents with those that a store has; stores before 0.4.0 have a sample only."""
    stored, wrong, test = attrs.get("contents", {}), dict[str, str](), ""
    examples = len(sampled_rows(attrs["fingerprint"]["training examples"] or 0))
    for name in stored.keys() & mine.keys():
        if isinstance(mine[name], str):
            wrong |= {} if stored[name] == mine[name] else {name: ""}
            continue
        found = compare(stored[name], mine[name])
        if name == "test data":
            test = found.difference
        else:
            wrong |= {name: found.difference} if found.difference else {}
            examples = found.examples
    return Known(mine, wrong, test, examples)
