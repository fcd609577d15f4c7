"""The writer of a run: it takes steps and states in their order and commits them to disk."""

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import zarr

from influencekit._files import Files, Folder, Memory, MovedError, sweep
from influencekit._signals import deferred
from influencekit._trajectory.store import SCHEMA, open_group, read
from influencekit._trajectory.writing.background import Background
from influencekit._trajectory.writing.growing import Column
from influencekit._trajectory.writing.ledger import Ledger
from influencekit.errors import InputError, StoreError

__all__ = ["COLUMNS", "Kept", "Writer"]

SECONDS = 5.0  # what was handed over is committed after this time at the latest
BYTES = 64 << 20  # or as soon as it is this much
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MEMORY = 256 << 20  # a loop that is this much ahead of the disk waits for it

# the usual arrays along step; a dtype of None is the model's
COLUMNS: Mapping[str, Column] = {
    "batch": Column(("step", "slot"), "i8", -1),
    "coefficient": Column(("step", "slot"), "f8", 0.0),
    "loss": Column(("step", "slot"), None, np.nan),
    "part": Column(("step", "slot"), "i8", -1),
    "lr": Column(("step", "group"), "f8", np.nan),
    "epoch": Column(("step",), "i8", -1),
}


class Kept(NamedTuple):
    """A stored state, from which a run is resumed: its number, its tensors by name, its snapshot (JSON)."""

    number: int
    tensors: dict[str, np.ndarray]
    snapshot: Any


class Writer:
    """Takes the steps and states of a run in their order; a thread of its own writes them.

    Whatever is handed over is not copied, and must not be changed afterwards. `committed` steps are on disk
    and can be read, and so is a state from which they can be replayed, whatever happens next: the process may
    be killed. A step is committed after `SECONDS` at the latest, or when `BYTES` have come together.
    `steps` were handed over; `resumed` is the state from which a resumed run continues.
    """

    def __init__(self, path: Path | None, ledger: Ledger, fresh: bool) -> None:
        self.path, self.committed, self.steps = path, 0, 0
        self.resumed: Kept | None = None
        self._ledger, self._fresh = ledger, fresh
        self._last = -1  # the number of the last state
        self._place: dict[str, int] = {}  # the next row of every table
        self._known: dict[str, np.ndarray] = {}  # rows since `resumed` that the store has, to come again
        self._first: dict[str, int] = {}  # where those of tables begin
        self._names = {
            along: {n for n, c in ledger.columns.items() if c.dims[0] == along and n != along}
            for along in ("step", "kept")
        }
        self._again = 0  # steps that the store had when it was resumed
        self._background = self._thread()

    def _thread(self) -> Background:
        return Background(self._work, self._fail, seconds=SECONDS, size=BYTES, room=_MEMORY)

    @classmethod
    def create(
        cls, path: str | Path | None, *, size: int, dtype: Any, slots: Sequence[str] = (),
        columns: Mapping[str, Column] = {}, fixed: Mapping[str, tuple[tuple[str, ...], np.ndarray]] = {},
        attrs: Mapping[str, Any] = {}, steps: int | None = None, states: int | None = None,
        durable: bool = False,
    ) -> "Writer":  # fmt: skip
        """A new store at `path`, or in memory (None).

        size, dtype, slots: of theta [param] and of the optimizer's slots of every state. `columns`: the other
        arrays that grow, by name; those along "step" get a value with every step, those along "kept" with
        every state, the rest are tables, for `rows`. `fixed`: (dims, values) of what is known in advance,
        such as the ids "train". `steps` and `states`: the lengths of the run where known; arrays along step
        have the whole length then. `durable`: what is committed also outlives a loss of power. Errors: a path
        that exists, or comes to be meanwhile; a disk that cannot be written (nothing is left there).
        """
        grow = {
            **{name: Column(("kept", "param"), dtype, np.nan) for name in ("theta", *slots)},
            "kept": Column(("kept",), "i8"),
            **({} if "step" in fixed else {"step": Column(("step",), "i8")}),
            **{name: column._replace(dtype=column.dtype or dtype) for name, column in columns.items()},
        }
        about = {
            "influencekit_schema": SCHEMA,
            "status": "recording",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "start": 0,
            **attrs,
        }
        # a store appears at its path once it can be opened: a killed process leaves a whole one, or none
        target = None if path is None else Path(path)
        if target is not None and os.path.lexists(target):
            sweep(target.absolute().parent, target.name)
            raise InputError(f"{path} exists already; choose another path")
        files: Files = Memory()
        try:
            if target is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                files = Folder.create(target, durable)
            ledger = Ledger(files, grow, about, (steps, states))
            writer = cls(target, ledger, fresh=True)
            for name, (dims, values) in fixed.items():
                ledger.fix(name, dims, values)
            for name, column in grow.items():
                if column.dims == ("kept", "param"):
                    ledger.array(name, size)
            ledger.array("kept", None)
            ledger.commit()
            if target is not None and isinstance(files, Folder):
                files.publish(target)
        except BaseException as error:
            files.remove()
            if isinstance(error, OSError):
                raise _unwritten(path, error, _left(files)) from error
            raise
        return writer

    @classmethod
    def resume(cls, path: str | Path, durable: bool = False) -> "Writer":
        """Continue the store at `path` from its last kept state, which is `resumed` (None: from the start).

        The steps since that state are to be handed over again; what the store has of them stays, and is
        compared: another batch or another loss is refused. Errors: no store of ours there, a complete one
        (unless it was closed as one that may go on), one that another process is writing.
        """
        path = Path(path)
        open_group(path)
        try:
            files = Folder(path, durable)
        except OSError as error:
            raise StoreError(f"cannot resume {path}: {error.strerror or error}") from error
        try:
            files.hold()
            attrs = open_group(path).attrs
            if attrs["status"] == "complete" and "resume" not in attrs:
                raise StoreError(f"{path} is complete: there is nothing to resume")
            sweep(files.root.parent, path.name)
            files.tidy()
            writer = cls(path, Ledger.resume(files), fresh=False)
            writer._return(open_group(path))
            files.check()  # what was read is what is written on
        except BaseException as error:
            files.release()
            if isinstance(error, OSError):
                raise StoreError(f"cannot resume {path}: {error.strerror or error}") from error
            raise
        return writer

    def _return(self, group: zarr.Group) -> None:
        """Go to the last stored state."""
        self.committed = int(self._ledger.attrs["committed"])
        said, columns = self._ledger.last, self._ledger.columns
        self._begin_again()
        if (number := said["state"]) is not None:
            last = len(read(group, "kept")) - 1
            states = [n for n, c in columns.items() if c.dims[0] == "kept" and n != "kept" and n in group]
            tensors = {name: read(group, name, slice(last, last + 1))[0] for name in states}
            self.resumed = Kept(number, tensors, said["snapshot"])
            self.steps = self._last = number
            self._again, self._place = self.committed, dict(said["tables"])
        for name, column in columns.items():
            if name in group and column.dims[0] != "kept":
                along = column.dims[0] == "step"
                rows = slice(self.steps, self.committed) if along else slice(self._place.get(name, 0), None)
                self._known[name], self._first[name] = read(group, name, rows), rows.start

    def _begin_again(self) -> None:
        self._ledger.attrs["status"] = "recording"
        self._ledger.may_go_on = False
        for said in ("reason", "reloaded", "caution"):
            self._ledger.attrs.pop(said, None)

    def reopen(self) -> None:
        """Go on after `close`, in the same process. Errors: the store was changed in between."""
        self._ledger.files.reopen()
        self._begin_again()
        self._background = self._thread()

    # what the run hands over ------------------------------------------------------------------------

    def step(self, row: Mapping[str, Any]) -> None:
        """The next step that was finished: for every column along step an array, a list or a number."""
        self._expect("step", row)
        if self.steps < self._again:
            self._compare({name: np.asarray(value) for name, value in row.items()})
        else:
            size = sum(8 * len(v) if isinstance(v, list) else np.asarray(v).nbytes for v in row.values())
            self._background.give(("step", dict(row)), 500 + size)
        self.steps += 1

    def state(self, number: int, tensors: Mapping[str, np.ndarray], snapshot: Any = None) -> None:
        """State `number` (before update `number`), to be kept: theta, the slots, every column along kept.

        `snapshot`: JSON that is needed to resume from here; that of the last kept state is in the attrs.
        """
        if number > self._last:  # the others are in the store that is resumed
            self._expect("kept", tensors)
            self._last = number
            said = {"state": number, "tables": dict(self._place), "snapshot": snapshot}
            size = sum(x.nbytes for x in tensors.values())
            self._background.give(("state", number, dict(tensors), said), size)

    def rows(self, name: str, values: np.ndarray) -> int:
        """Append rows to a table; the number of the first. They are there before any later step is."""
        first = self._place.get(name, 0)
        self._place[name] = first + len(values)
        known = self._known.get(name, values[:0])[first - self._first.get(name, 0) :][: len(values)]
        again = values[: len(known)]
        if known.ndim > 1 and values.shape[1] < known.shape[1]:  # wider rows came later
            again = np.pad(again, ((0, 0), (0, known.shape[1] - values.shape[1])))
        if len(known) and not np.array_equal(known, again):
            self._refuse(f"row {first} of {name!r}")
        if len(known) < len(values):
            self._background.give(("rows", name, values[len(known) :]), values.nbytes)
        return first

    def placed(self, name: str) -> int:
        """How many rows of a table have been handed over."""
        return self._place.get(name, 0)

    def flush(self) -> None:
        """Wait until everything that was handed over is committed."""
        self._background.flush()

    @deferred()
    def close(self, status: str = "complete", may_go_on: bool = False, **attrs: Any) -> None:
        """Commit everything and release the store: `complete`, `stopped` with a `reason`, or `recording`.

        may_go_on: a complete run says how it is continued.
        """
        if status == "complete" and self.steps < self._again:
            self.leave()
            raise StoreError(
                f"{self.path} has {self._again} steps, and the resumed run ended after {self.steps}; resume "
                "it for as many epochs as it was begun with"
            )
        left = self._background.end()
        self._ledger.may_go_on = may_go_on
        try:
            self._work(left, status=status, **attrs)  # in one act with the status
        except Exception as error:
            self._fail(error)
        self._ledger.files.release()

    @deferred()
    def leave(self) -> None:
        """Release the store as it was committed last. A process that was forked has nothing to release."""
        if self.forked:
            return
        with suppress(StoreError):  # it may have failed already
            self._background.end()
        self._ledger.files.release()

    def remove(self) -> None:
        """End without a store, where this writer made one."""
        with suppress(StoreError):
            self._background.end()
        self._ledger.files.remove()

    @property
    def forked(self) -> bool:
        """Whether this is a process that was forked from the one that records, to which the store belongs."""
        return self._background.forked

    @property
    def store(self) -> Any:
        """What zarr and xarray open."""
        return self._ledger.files.store

    @property
    def group(self) -> zarr.Group:
        """The store as it was committed last."""
        return open_group(self.store)

    # in the thread ----------------------------------------------------------------------------------

    def _work(self, things: Sequence[tuple[Any, ...]], **attrs: Any) -> None:
        for kind, *what in things:
            getattr(self._ledger, kind)(*what)
        self.committed = self._ledger.commit(**attrs)

    # checks, and what goes wrong ----------------------------------------------------------------------------

    def _expect(self, along: str, given: Mapping[str, Any]) -> None:
        if given.keys() != self._names[along]:
            names = ", ".join(sorted(self._names[along]))
            raise InputError(f"expected values of {names} with every {along}, got {', '.join(sorted(given))}")

    def _compare(self, row: Mapping[str, np.ndarray]) -> None:
        """A step that the store has already: it must be the same, but for rounding (other machines)."""
        t = self.steps
        for name, value in row.items():
            old = self._known[name][t - self.resumed.number]  # type: ignore[union-attr]
            new = np.full_like(old, self._ledger.columns[name].fill)
            if value.ndim != old.ndim or (old.ndim and len(value) > len(old)):
                self._refuse(f"{name!r} of step {t}")
            new[(slice(len(value)),) if old.ndim else ()] = value
            if name == "loss":  # NaN where it was not seen, which a replay of the step may see
                new = np.where(np.isnan(old), np.nan, new)
                old = np.where(np.isnan(new), np.nan, old)
            near = old.dtype.kind == "f" and np.allclose(old, new, rtol=1e-3, atol=1e-5, equal_nan=True)
            if not near and not np.array_equal(old, new):
                self._refuse(f"{name!r} of step {t}")

    def _refuse(self, what: str) -> NoReturn:
        raise StoreError(
            f"{self.path}: {what} differs between the recording and the resumed run; resume it with the "
            "same model, data, order and random seeds"
        )

    def _fail(self, error: Exception) -> NoReturn:
        files = self._ledger.files
        if isinstance(error, MovedError):
            files.release()
            raise MovedError(f"{error}; {self.committed} steps of it are committed") from error
        if self._fresh and not self.committed:
            files.remove()
            raise _unwritten(self.path, error, _left(files)) from error
        files.release()
        full = getattr(error, "errno", None) in _FULL
        then = "make room, and resume" if full else "resume it where it can be written"
        left = f"its first {self.committed} steps are safe: {then}"
        raise _unwritten(self.path, error, left) from error


def _left(files: Files) -> str:
    """What is there after `remove`, which fails too where a disk has become read-only."""
    if isinstance(files.store, str) and os.path.lexists(files.store):
        return f"what was begun could not be removed: {files.store} is there, without a step; remove it"
    return "nothing was left there"


def _unwritten(path: str | Path | None, error: Exception, left: str) -> StoreError:
    where = "" if path is None else f" to {path}"
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__  # a MemoryError says nothing
    return StoreError(f"cannot write the trajectory{where}: {why}; {left}")
