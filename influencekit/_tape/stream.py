"""Examples of a loop without a data set: their tensors are kept in the store, row by row, each content once.

A batch is taken apart into rows. The content of a row is the bytes of its entries, in a `form` that says what
they are: `{"kind": "tuple", "entries": [[0, "float32", [4]], [1, "int64", []]]}`. Tables of the store:

    content [content, content_byte]
                                the bytes of a row, each content once
    content_form [content]      which form they have
    form [form, form_byte]      the forms, as JSON
    id [example, id_byte]       the names of the examples, as JSON, in the order of first sight
    first [example]             the content in which an example was first seen
    row [step, slot]            the content in which a step saw the example of this slot
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor

from influencekit._tape.index_entry import without
from influencekit._tape.loader import StoredBatch
from influencekit._training.batch import Batch
from influencekit._training.ids import refuse_large
from influencekit._trajectory.store import read, shown
from influencekit._trajectory.writing import Column, Writer
from influencekit.errors import InputError, StoreError

__all__ = ["STREAM", "StreamExamples"]

STREAM = {
    "content": Column(("content", "content_byte"), "u1"),
    "content_form": Column(("content",), "i8"),
    "form": Column(("form", "form_byte"), "u1"),
    "id": Column(("example", "id_byte"), "u1"),
    "first": Column(("example",), "i8"),
    "row": Column(("step", "slot"), "i8", -1),
}
_MEMORY = 64 << 20  # bytes of rows that are kept at hand


class StreamExamples:
    """The examples that a loop has shown, by position in the order of first sight.

    While a run is recorded, `register` takes batches and `hand_over` gives the writer what is new. `load`
    reads what a store has. `dropped`: an entry that numbers the examples, which batches lack.
    """

    def __init__(self) -> None:
        self.ids: list[Hashable] = []
        self.dropped: int | str | None = None
        self.named = False  # by the loop
        self._by_name: dict[Hashable, int] = {}
        self._by_content: dict[int, int] = {}
        self._written: dict[str, int] = {}  # positions by names as they are written
        self._first: list[int] = []
        self._contents: list[dict[bytes, int]] = []  # by form
        self._forms: list[str] = []
        self._form_of: list[int] = []
        self._new: list[tuple[str, np.ndarray]] = []  # rows of tables that the writer does not have yet
        self._near: OrderedDict[int, np.ndarray] = OrderedDict()  # rows at hand
        self._handed = 0  # contents that the writer has
        self._group: Callable[[], zarr.Group] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    # recording --------------------------------------------------------------------------------------

    def register(self, ids: Sequence[Any] | None, batch: Any, given: Any) -> StoredBatch:
        """A batch, its rows and the positions of their examples. `ids` None: examples are their contents.

        Errors: entries that have no row for each example; ids that no table could show.
        """
        form, rows = _rows(batch)
        names = None if ids is None else _names(ids)
        self.named = self.named or names is not None
        if names is not None and len(names) != len(rows):
            raise InputError(f"a batch of {len(rows)} examples came with {len(names)} ids; give one for each")
        found = self._register_contents(rows, self._number(form))
        if names is None:
            positions = [self._by_content.get(row, -1) for row in found]
        else:
            positions = [self._by_name.get(name, -1) for name in names]
        for k, position in enumerate(positions):
            if position < 0:
                positions[k] = self._add_example(None if names is None else names[k], found[k])
        return StoredBatch(positions, None, batch, found, given)

    def _number(self, form: str) -> int:
        if form not in self._forms:
            self._forms.append(form)
            self._contents.append({})
            self._new.append(("form", _bytes(form)))
        return self._forms.index(form)

    def _register_contents(self, rows: np.ndarray, form: int) -> list[int]:
        """The contents of rows [row, byte]; those that are new are added."""
        known, width = self._contents[form], rows.shape[1]
        whole = memoryview(rows.tobytes())
        found = []
        for k in range(len(rows)):
            key = _digest(whole[k * width : (k + 1) * width])
            content = known.get(key)
            if content is None:
                content = known[key] = len(self._form_of)
                self._form_of.append(form)
                self._new += [("content", rows[k : k + 1]), ("content_form", np.array([form]))]
                self._keep(content, rows[k])
            found.append(content)
        return found

    def _add_example(self, name: Hashable, content: int) -> int:
        """A new example, which has a name or else is its content. (Twice in the batch, it is not new.)"""
        known = self._by_content.get(content) if name is None else self._by_name.get(name)
        if known is not None:
            return known
        position = len(self.ids)
        name = position if name is None else name
        if (twin := self._written.setdefault(str(name), position)) != position:
            raise InputError(
                f"ids: {self.ids[twin]!r} and {name!r} look the same in tables and on disk; use text for all"
            )
        self.ids.append(name)
        self._first.append(content)
        self._by_name[name] = self._by_content[content] = position
        self._new += [("id", _bytes(json.dumps(name))), ("first", np.array([content]))]
        return position

    def hand_over(self, writer: Writer) -> None:
        """Give the writer the rows that it does not have."""
        tables: dict[str, list[np.ndarray]] = {}
        for name, rows in self._new:
            tables.setdefault(name, []).append(rows)
        for name, parts in tables.items():
            for rows in _of_one_width(parts):
                writer.rows(name, rows)
        self._new, self._handed = [], len(self._form_of)
        self._group = lambda: _flushed(writer)

    # reading ----------------------------------------------------------------------------------------

    def load(self, group: zarr.Group, count: Callable[[str], int] | None = None) -> None:
        """Take over what a store has; `count`: the rows of each table that count, to be added to."""

        def rows(name: str) -> np.ndarray:
            whole = slice(None) if count is None else slice(0, count(name))
            return read(group, name, whole) if name in group and whole.stop != 0 else np.zeros((0, 0), "u1")

        self._form_of = [int(each) for each in rows("content_form").reshape(-1)]
        self._first = [int(each) for each in rows("first").reshape(-1)]
        try:
            self._forms = [_text(row) for row in rows("form")]
            self.ids = [_name(json.loads(_text(row))) for row in rows("id")]
            largest = max((_size(self._forms[k]) for k in set(self._form_of)), default=0)
            fits = not self._form_of or (min(self._form_of) >= 0 and largest <= _width(group, "content"))
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            fits = False
        if not fits or not all(0 <= each < len(self._form_of) for each in self._first):
            raise StoreError(f"{shown(group)}: its examples have other forms than it says; record again")
        self._group, self._handed = (lambda: group), len(self._form_of)
        if count is None:
            return
        self._contents = [{} for _ in self._forms]
        for k, form in enumerate(self._form_of):
            self._contents[form][_digest(memoryview(self._row(k).tobytes()))] = k
        for position, (name, content) in enumerate(zip(self.ids, self._first, strict=True)):
            self._by_name[name] = self._by_content[content] = self._written[str(name)] = position

    def batch(self, positions: Sequence[int], rows: Sequence[int] | None) -> Batch:
        """The batch of these contents; of the examples as they were first seen where `rows` is None."""
        wanted = [self._first[i] for i in positions] if rows is None else list(rows)
        forms = sorted({self._form_of[row] for row in wanted})
        if len(forms) != 1:
            shapes = [[entry[2] for entry in json.loads(self._forms[k])["entries"]] for k in forms[:2]]
            raise InputError(
                f"this needs examples of different batches in one, and they differ in shape ({shapes[0]} and "
                f"{shapes[1]}); pad all batches to one width"
            )
        found = _batch(self._forms[forms[0]], np.stack([self._row(row) for row in wanted]))
        return found if self.dropped is None else without(found, self.dropped)

    @property
    def contents(self) -> int:
        """How many contents there are."""
        return len(self._form_of)

    def bytes_of(self, content: int) -> int:
        """The size of a content."""
        return _size(self._forms[self._form_of[content]])

    def _row(self, number: int) -> np.ndarray:
        """The bytes of a content; of those in the store a chunk is read at once."""
        if number not in self._near:
            assert self._group is not None
            group = self._group()
            long = group["content"].chunks[0]  # type: ignore[union-attr]
            start = number // long * long
            for k, row in enumerate(read(group, "content", slice(start, start + long)), start):
                if k < len(self._form_of):
                    self._keep(k, row[: _size(self._forms[self._form_of[k]])])
        self._near.move_to_end(number)
        return self._near[number]

    def _keep(self, number: int, row: np.ndarray) -> None:
        self._near[number] = row
        self._near.move_to_end(number)
        while len(self._near) * row.nbytes > _MEMORY and next(iter(self._near)) < self._handed:
            self._near.popitem(last=False)


def _flushed(writer: Writer) -> zarr.Group:
    writer.flush()
    return writer.group


# rows and their bytes -----------------------------------------------------------------------------------


def _rows(batch: Any) -> tuple[str, np.ndarray]:
    """The form of a batch's rows, and their bytes [row, byte]."""
    if isinstance(batch, Tensor):
        kind, entries = "tensor", {0: batch}
    elif isinstance(batch, Mapping):
        kind, entries = "dict", dict(batch)
    elif isinstance(batch, list | tuple):
        kind, entries = "tuple", dict(enumerate(batch))
    else:
        raise InputError(f"batches: expected a tensor, a tuple or a dict of them, got {type(batch).__name__}")
    for key, x in entries.items():
        if not isinstance(x, Tensor):
            raise InputError(
                f"entry {key!r} of the batch is a {type(x).__name__}; leave only tensors in it (ids come as "
                '(ids, batch), or are named by ids="...")'
            )
    counts = {key: len(x) if x.dim() else None for key, x in entries.items()}
    if len(set(counts.values())) != 1 or None in counts.values():
        raise InputError(
            f"without a data set every entry of a batch needs one row for each example; got rows {counts}"
        )
    form = {
        "kind": kind,
        "entries": [[k, str(x.dtype).removeprefix("torch."), list(x.shape[1:])] for k, x in entries.items()],
    }
    n = next(iter(counts.values())) or 0
    parts = [
        x.detach().cpu().contiguous().view(torch.uint8).reshape(n, -1).numpy()
        if x.dim() > 1 or x.element_size() == 1
        else x.detach().cpu().contiguous().view(n, 1).view(torch.uint8).numpy()
        for x in entries.values()
    ]
    return json.dumps(form), np.concatenate(parts, 1)


def _batch(form: str, rows: np.ndarray) -> Batch:
    """The inverse: a batch of rows [row, byte] of one form."""
    said, entries, start = json.loads(form), dict[Any, Tensor](), 0
    for key, kind, shape in said["entries"]:
        dtype = getattr(torch, kind)
        size = dtype.itemsize * int(np.prod(shape))
        flat = torch.from_numpy(np.ascontiguousarray(rows[:, start : start + size]).reshape(-1).copy())
        entries[key] = flat.view(dtype).reshape(len(rows), *shape)
        start += size
    if said["kind"] == "tensor":
        return entries[0]
    return entries if said["kind"] == "dict" else tuple(entries.values())


def _size(form: str) -> int:
    """The bytes of a row. Errors: `ValueError` and the like for a form that is none."""
    said, size = json.loads(form), 0
    for key, kind, shape in said["entries"]:
        dtype = getattr(torch, kind, None)
        if not isinstance(dtype, torch.dtype) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(form)
        if said["kind"] != "dict" and type(key) is not int:
            raise ValueError(form)
        size += dtype.itemsize * prod(shape)
    return size


def _width(group: zarr.Group, name: str) -> int:
    return group[name].shape[1]  # type: ignore[union-attr,no-any-return]


def _names(ids: Sequence[Any]) -> list[Hashable]:
    """Ids as plain Python. Errors: those of `_name`; numbers that are too large."""
    found = list(ids) if set(map(type, ids)) <= {int} else [_name(each) for each in ids]
    refuse_large(found, "ids")
    return found


def _name(each: Any) -> Hashable:
    """An id as plain Python: text or a number."""
    each = each.item() if isinstance(each, Tensor | np.generic) else each
    if not isinstance(each, str | int | float) or isinstance(each, bool):
        raise InputError(f"ids: expected text or a number for each example, got {each!r}")
    if each != each or (isinstance(each, str) and each.endswith("\0")):
        raise InputError(f"ids: {each!r} names no example; give each a text or a number of its own")
    return each


def _digest(row: memoryview) -> bytes:
    return hashlib.blake2b(row, digest_size=16).digest()


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)[None]


def _text(row: np.ndarray) -> str:
    return row.tobytes().rstrip(b"\0").decode()


def _of_one_width(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The rows in their order, joined where neighbours are equally wide."""
    groups: list[list[np.ndarray]] = []
    for rows in parts:
        if groups and groups[-1][0].shape[1:] == rows.shape[1:]:
            groups[-1].append(rows)
        else:
            groups.append([rows])
    return [np.concatenate(group) for group in groups]
