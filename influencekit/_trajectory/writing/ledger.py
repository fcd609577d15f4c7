"""The arrays and attributes of a store that is being written, and the one act that commits them."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from influencekit._files import Files, Folder, Memory
from influencekit._trajectory.digests import Checks, digest_of_document
from influencekit._trajectory.store import open_group, read
from influencekit._trajectory.writing.growing import Column, Growing
from influencekit.errors import StoreError

__all__ = ["Ledger"]

_BLOCK = 8 << 20  # bytes of states in one chunk
_ROWS = 1000  # steps, or kept states, in one chunk at most
_TABLE = 1 << 20  # bytes of a table in one chunk
_WIDEST = 1 << 30  # bytes of one row in one chunk: Blosc takes less than 2 GiB


class Ledger:
    """What a store holds. Rows are added in the order of the run; `commit` says that they are there.

    The root's zarr.json has the attributes and, as consolidated metadata, the shape of every array. It is
    written last and in one act: whoever opens the store sees the rows of one commit, of every array, and no
    others, whatever else the chunks hold already. `columns`: the growing arrays; `expected`: the number of
    steps and of kept states where known in advance.
    """

    def __init__(
        self, files: Files, columns: Mapping[str, Column], attrs: Mapping[str, Any],
        expected: tuple[int | None, int | None] = (None, None),
    ) -> None:  # fmt: skip
        self.files: Files = files
        self.columns, self.attrs = dict(columns), dict(attrs)
        self._expected = expected
        self.may_go_on = False  # whether a complete run says how to continue it, too
        self._docs: dict[str, Any] = {}
        # what is committed of every array; memory needs none, and an older store goes on without
        self._checks: dict[str, Any] | None = None if isinstance(files, Memory) else {}
        self._written: dict[str, Any] = {}
        self._grown: dict[str, Growing] = {}
        self._steps, self._states = 0, 0
        # of the last kept state: its number, the lengths of the tables, the snapshot
        self.last: dict[str, Any] = {"state": None, "tables": {}, "snapshot": None}

    @classmethod
    def resume(cls, files: Folder) -> "Ledger":
        """The store as it was committed last, to be continued."""
        path = files.root
        group = open_group(path)
        attrs: dict[str, Any] = dict(group.attrs)
        if "resume" not in attrs:
            raise StoreError(f"{path} does not say how to resume it; record again, to another path")
        said, checks = attrs.pop("resume"), attrs.pop("checks", None)
        attrs.pop("digest", None)
        columns = {
            name: Column(tuple(dims), kind, float(fill) if isinstance(fill, str) else fill)
            for name, (dims, kind, fill) in said.pop("columns").items()
        }
        new = cls(files, columns, attrs, tuple(said.pop("expected")))
        new.last, new._checks = said, checks
        new._docs = json.loads((path / "zarr.json").read_bytes())["consolidated_metadata"]["metadata"]
        new._steps = int(attrs["committed"])
        for name, column in columns.items():
            if name in new._docs:
                array: Any = group[name]
                length = new._steps if column.dims[0] == "step" else array.shape[0]
                rows = partial(read, group, name)  # whose errors name the chunk
                known = None if checks is None else Checks.parse(checks[name])
                new._grown[name] = Growing.resume(new.files, name, array, length, rows, known)
        new._states = len(new._grown["kept"])
        return new

    # rows -------------------------------------------------------------------------------------------

    def fix(self, name: str, dims: tuple[str, ...], values: np.ndarray) -> None:
        """An array that is known in advance, and does not grow."""
        text = values.dtype.kind in "UOT"
        column = Column(dims, str if text else values.dtype, "" if text else 0)
        long = max(1, min(len(values), _ROWS) if dims[0] == "step" else len(values))
        array = Growing(self.files, name, column, long, max(1, values.shape[1]) if values.ndim > 1 else None)
        array.fill(values)
        self._docs[name] = array.metadata(len(values))
        if self._checks is not None:
            self._checks[name] = array.checks().as_json()

    def add(self, name: str, row: Any) -> None:
        """One row of one growing array."""
        row = np.asarray(row)
        self.array(name, row.shape[0] if row.ndim else None).append(row)

    def step(self, row: Mapping[str, Any]) -> None:
        if "step" in self.columns:
            self.add("step", self._steps)
        for name, value in row.items():
            self.add(name, value)
        self._steps += 1

    def state(self, number: int, tensors: Mapping[str, np.ndarray], said: Mapping[str, Any]) -> None:
        self.add("kept", number)
        for name, value in tensors.items():
            self.add(name, value)
        self._states += 1
        self.last = dict(said)

    def rows(self, name: str, values: np.ndarray) -> None:
        for row in values:
            self.add(name, row)

    def array(self, name: str, width: int | None) -> Growing:
        """The growing array, made when its first row tells how wide it is."""
        if name not in self._grown:
            column = self.columns[name]
            along, (steps, states) = column.dims[0], self._expected
            each = np.dtype(column.dtype).itemsize * (width or 1)
            if along == "step":
                long = min(_ROWS, steps or _ROWS, _TABLE // each)  # the last chunk is written again and again
            elif along == "kept":
                long = min(_ROWS, states or _ROWS, _BLOCK // max(1, each))
            else:
                long = min(_ROWS, _TABLE // max(1, each))
            wide = None if width is None else max(1, min(width, _WIDEST // np.dtype(column.dtype).itemsize))
            self._grown[name] = Growing(self.files, name, column, max(1, long), wide)
            if width is not None:
                self._grown[name].widen(width)
        return self._grown[name]

    # the commit -------------------------------------------------------------------------------------

    def commit(self, **attrs: Any) -> int:
        """Put everything on disk and say so. Returns the number of committed steps.

        No step is committed before a state from which it can be replayed.
        """
        committed = self._steps if self._states else 0
        widths: dict[str, int] = {}
        for array in self._grown.values():
            if array.width is not None:
                dim = array.column.dims[1]
                widths[dim] = max(widths.get(dim, 0), array.width)
        for name, array in self._grown.items():
            array.widen(widths.get(array.column.dims[-1], 0))
            array.write()
            length = self._expected[0] if array.column.dims[0] == "step" else None
            self._docs[name] = array.metadata(length)
            if self._checks is not None:
                nothing = array.column.dims[0] == "step" and not committed  # it may come again, and differ
                self._checks[name] = (Checks(0, [], []) if nothing else array.checks()).as_json()
        for name, doc in self._docs.items():  # for whoever opens one array alone
            if self._written.get(name) != doc:
                self.files.put(f"{name}/zarr.json", json.dumps(doc, indent=1).encode())
                self._written[name] = doc
        self.attrs |= {"committed": committed, **attrs}
        whole = self.attrs["status"] == "complete"
        columns = {n: [c.dims, np.dtype(c.dtype).str, _number(c.fill)] for n, c in self.columns.items()}
        resume = {"columns": columns, "expected": self._expected, **self.last}
        root = {
            "attributes": self.attrs if whole and not self.may_go_on else {**self.attrs, "resume": resume},
            "zarr_format": 3,
            "node_type": "group",
            "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": self._docs},
        }
        if self._checks is not None:
            root = json.loads(json.dumps(root))  # the content of the file, whose keys are text
            root["attributes"]["checks"] = self._checks
            root["attributes"]["digest"] = digest_of_document(root)
        self.files.put("zarr.json", json.dumps(root, indent=1).encode())
        return committed


def _number(fill: Any) -> Any:
    """JSON has no NaN."""
    fill = np.asarray(fill).item()
    return fill if fill == fill else "nan"
