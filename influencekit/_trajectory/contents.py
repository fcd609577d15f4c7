"""What data a run was made of: digests of blocks of examples, one for each entry, that tell what differs.

    {"examples": 1000, "hashed": 1000, "entries": {"0": "base64", "1": "base64"}}

The examples that are hashed are evenly spaced. They lie in at most 128 blocks of neighbours, and an entry
(the inputs, the targets) has 8 bytes for each. Blocks are hashed in an order whose beginning is spread over
the data, so that a digest which ran out of time has fewer of them.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from influencekit.errors import StoreError

__all__ = ["Compared", "compare", "digest_tensors", "digest_each", "of_items", "of_tensors"]

_BLOCKS = 128
_AT_ONCE = 64  # items that are fetched at once


class Compared(NamedTuple):
    """What differs, in words (empty: nothing), and how many examples were compared."""

    difference: str
    examples: int


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits of names, types, shapes and all entries."""
    total = _Entry()
    for name, tensor in tensors.items():
        total.text(name)
        total.add(tensor)
    return total.digest().hex()


def digest_each(tensors: Mapping[str, Tensor]) -> list[bytes]:
    """A digest of every row, over the types, shapes and entries of all tensors. Cost: about 10 us a row."""
    found = [(_kind(x), tuple(x.shape[1:]), _bytes(x).reshape(len(x), -1)) for x in tensors.values()]
    rows = range(len(next(iter(tensors.values()))))
    return [b"".join(_digest_rows(kind, shape, x[row]) for kind, shape, x in found) for row in rows]


def of_tensors(tensors: Mapping[str, Tensor], rows: Tensor | None = None) -> dict[str, Any]:
    """The contents of examples in memory, all of them. `rows`: which ones of the tensors, if not all.

    Cost: about a second a gigabyte.
    """
    found = {
        name: (_kind(x), tuple(x.shape[1:]), _bytes(x).reshape(len(x), -1)) for name, x in tensors.items()
    }
    count = len(next(iter(tensors.values()))) if rows is None else len(rows)

    def digests(block: Sequence[int]) -> dict[str, bytes]:
        at: Any = slice(block[0], block[-1] + 1)
        at = at if rows is None else rows[at].numpy()
        return {name: _digest_rows(kind, shape, x[at]) for name, (kind, shape, x) in found.items()}

    return _contents(count, count, map(digests, _blocks(count, count)))


def of_items(
    fetch: Callable[[list[int]], list[Any]], count: int, hashed: int, seconds: float,
    around: Callable[[int], AbstractContextManager[None]],
) -> dict[str, Any]:  # fmt: skip
    """The same of `hashed` of so many examples that are fetched: tensors, arrays, text, collections of them.

    `around(number)` is the context of a block, which seeds random augmentation. After so many `seconds` no
    further block is begun. Rows of tensors give what `of_tensors` gives of them.
    """
    until = time.monotonic() + seconds

    def blocks() -> Iterator[dict[str, bytes]]:
        for number, block in enumerate(_blocks(count, hashed)):
            if number and time.monotonic() > until:
                return
            with around(number):
                parts = (block[k : k + _AT_ONCE] for k in range(0, len(block), _AT_ONCE))
                yield _digest_items(each for part in parts for each in fetch(list(part)))

    return _contents(count, hashed, blocks())


def compare(stored: Mapping[str, Any], mine: Mapping[str, Any]) -> Compared:
    """Compare two contents. Errors: stored ones that are damaged."""
    if stored["examples"] != mine["examples"]:
        return Compared(f"{mine['examples']} examples, not {stored['examples']}", 0)
    if stored["entries"].keys() != mine["entries"].keys():
        names = [", ".join(each["entries"]) for each in (mine, stored)]
        return Compared(f"the entries {names[0]} of an example, not {names[1]}", 0)
    blocks = _blocks(stored["examples"], stored["hashed"])
    both = [[_decoded(each["entries"][name]) for each in (stored, mine)] for name in stored["entries"]]
    done = min((len(values) for pair in both for values in pair), default=0)
    if stored["hashed"] != mine["hashed"] or done > len(blocks):
        raise StoreError("the attribute contents is damaged: it does not belong to its number of examples")
    found = []
    for name, (theirs, ours) in zip(stored["entries"], both, strict=True):
        odd = np.flatnonzero(theirs[:done] != ours[:done])
        if len(odd):
            first = min((blocks[k] for k in odd), key=lambda block: block[0])
            found.append(f"{_named(name, list(stored['entries']))} {_where(first, len(odd), done)}")
    return Compared("; ".join(found), sum(len(block) for block in blocks[:done]))


def _where(first: Sequence[int], odd: int, done: int) -> str:
    if len(first) == 1:
        return f"of row {first[0]}" if odd == 1 else f"of {odd} rows, first of row {first[0]}"
    among = f"among rows {first[0]} to {first[-1]}"
    return among if odd == 1 else f"of {odd} of {done} blocks of rows, first {among}"


def _named(name: str, names: list[str]) -> str:
    """What an entry is called: of a pair the inputs and the targets."""
    if names == ["0"]:
        return "the examples"
    if names == [str(k) for k in range(len(names))]:
        inputs = "inputs" if len(names) == 2 else f"inputs {name}"
        return "targets" if name == names[-1] else inputs
    return f"entry {name!r}"


def _blocks(count: int, hashed: int) -> list[Sequence[int]]:
    """The positions of the examples of every block, in the order in which they are hashed."""
    if not 0 < hashed <= count:
        raise StoreError(f"the attribute contents is damaged: {hashed} of {count} examples were hashed")
    each = range(count) if hashed == count else [k * count // hashed for k in range(hashed)]
    blocks = min(_BLOCKS, hashed)
    order = sorted(range(blocks), key=lambda k: f"{k:07b}"[::-1])
    return [each[k * hashed // blocks : (k + 1) * hashed // blocks] for k in order]


def _contents(count: int, hashed: int, blocks: Iterator[dict[str, bytes]]) -> dict[str, Any]:
    found = list(blocks)
    names = dict.fromkeys(name for block in found for name in block)
    entries = {name: b"".join(block.get(name, bytes(8)) for block in found) for name in names}
    texts = {name: base64.b64encode(values).decode() for name, values in entries.items()}
    return {"examples": count, "hashed": hashed, "entries": texts}


def _decoded(text: str) -> np.ndarray:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<u8")
    except (ValueError, TypeError) as error:
        raise StoreError(f"the attribute contents is damaged: {error}") from error


# the bytes of examples ------------------------------------------------------------------------------------


class _Entry:
    """The digest of one entry of examples, in their order."""

    def __init__(self) -> None:
        self._total = hashlib.sha256()
        self._form: tuple[str, tuple[int, ...]] | None = None

    def digest(self) -> bytes:
        return self._total.digest()[:8]

    def text(self, text: str) -> None:
        self._form = None
        self._total.update(f"{text};".encode(errors="surrogatepass"))

    def rows(self, kind: str, shape: tuple[int, ...], data: Any) -> None:
        """Arrays of one type and shape, one after the other, which are said once."""
        if self._form != (kind, shape):
            self.text(f"{kind}{list(shape)}")
            self._form = kind, shape
        self._total.update(data)

    def add(self, value: Any) -> None:
        """Any usual content of an example."""
        if isinstance(value, Tensor):
            self.rows(_kind(value), tuple(value.shape), _bytes(value))
        elif isinstance(value, Mapping):
            self.text(f"{len(value)} entries")
            for key in value:
                self.text(repr(key))
                self.add(value[key])
        elif isinstance(value, list | tuple):
            self.text(f"{len(value)} parts")
            for each in value:
                self.add(each)
        elif isinstance(value, str | bytes | int | float | bool | type(None)):
            self.text(repr(value))
        else:  # arrays, pictures, numbers of other libraries
            array = np.asarray(value)
            if array.dtype.kind in "biufc":
                self.rows(array.dtype.name, array.shape, np.ascontiguousarray(array))
            elif array.dtype != object:
                self.rows(array.dtype.name, array.shape, array.tobytes())
            else:  # its text may hold an address, which differs next time
                self.text(type(value).__qualname__)
                self.add(dict(getattr(value, "__dict__", {})))


def _digest_rows(kind: str, shape: tuple[int, ...], data: np.ndarray) -> bytes:
    """The digest of rows of a tensor: that of its items, added one by one."""
    entry = _Entry()
    entry.rows(kind, shape, data)
    return entry.digest()


def _digest_items(items: Iterator[Any]) -> dict[str, bytes]:
    """The digest of every entry of a block of items."""
    entries: dict[str, _Entry] = {}
    before: list[str] | None = None
    for number, item in enumerate(items):
        parts = _parts(item)
        names = sorted(parts)
        for name in names:
            entry = entries.setdefault(name, _Entry())
            if before not in (None, names):  # entries come and go: say where
                entry.text(f"example {number}")
            entry.add(parts[name])
        before = names
    return {name: entry.digest() for name, entry in entries.items()}


def _parts(item: Any) -> dict[str, Any]:
    if isinstance(item, Mapping):
        return {str(key): value for key, value in item.items()} or {"0": None}
    if isinstance(item, list | tuple) and len(item):
        return {str(k): value for k, value in enumerate(item)}
    return {"0": item}


def _kind(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _bytes(x: Tensor) -> np.ndarray:
    x = x.detach().as_subclass(Tensor).cpu().resolve_conj().resolve_neg().contiguous()
    return x.as_strided((x.numel(),), (1,)).view(torch.uint8).numpy()
