"""The trajectory store: one chunked, compressed, checksummed zarr v3 group that xarray opens as it is."""

import json
import shutil
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from influencekit.errors import InputError, StoreError

__all__ = ["SCHEMA", "Writer", "chunks", "open_group", "read"]

SCHEMA = 1
_BLOCK = 8 << 20  # bytes of states written, and chunked, together


class Writer:
    """Writes a run step by step. `committed` steps are on disk and readable, whatever happens next.

    Arrays: theta and each optimizer slot [kept, param], kept [kept] (the number of each stored state),
    batch [step, slot] (-1 = no example), loss [step, slot], lr [step, group], epoch [step], train [train].
    """

    def __init__(
        self, path: str | Path | None, *, kept: list[int], slots: tuple[str, ...], size: int,
        dtype: Any, columns: Mapping[str, tuple[tuple[str, ...], np.ndarray]], attrs: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self.path = None if path is None else Path(path)
        if self.path is not None and self.path.exists():
            raise InputError(f"{path} exists already; choose another path, or delete it first")
        self.store = zarr.storage.MemoryStore() if self.path is None else str(self.path)
        self._kept, self._names = kept, ("theta", *slots)
        rows = max(1, min(len(kept), _BLOCK // (size * np.dtype(dtype).itemsize)))
        self._rows = rows
        self._buffer: list[list[np.ndarray]] = []
        self._losses: list[np.ndarray] = []
        self._written = 0
        self._lost = 0
        try:
            self.group = zarr.create_group(self.store, zarr_format=3)
            self.group.attrs.update(
                {
                    "influencekit_schema": SCHEMA,
                    "status": "recording",
                    "committed": 0,
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                    **attrs,
                }
            )
            for name in self._names:
                self._array(name, ("kept", "param"), (len(kept), size), dtype, np.nan, (rows, size))
            for name, (dims, values) in columns.items():
                kind = str if values.dtype.kind in "UOT" else values.dtype
                self._array(name, dims, values.shape, kind, None)[...] = values
            steps, slot = columns["batch"][1].shape
            self._array("loss", ("step", "slot"), (steps, slot), dtype, np.nan)
            self._array("kept", ("kept",), (len(kept),), "i8", None)[...] = np.array(kept)
        except OSError as error:
            self._abandon(error)

    def _array(
        self, name: str, dims: tuple[str, ...], shape: tuple[int, ...], dtype: Any, fill: Any,
        chunks: tuple[int, ...] | None = None,
    ) -> zarr.Array:  # fmt: skip
        shuffle: Any = "bitshuffle" if dtype is not str else "noshuffle"
        return self.group.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=tuple(max(1, n) for n in (chunks or shape)),
            fill_value=fill,
            dimension_names=dims,
            compressors=[BloscCodec(cname="zstd", clevel=1, shuffle=shuffle), Crc32cCodec()],
            config={"write_empty_chunks": True},  # so that a chunk that is not there is one that was lost
        )

    def state(self, number: int, tensors: list[np.ndarray]) -> None:
        """Hand over state `number` if it is to be kept: theta, then the slots."""
        done = self._written + len(self._buffer)
        if done < len(self._kept) and self._kept[done] == number:
            self._buffer.append(tensors)
            if len(self._buffer) == self._rows or done + 1 == len(self._kept):
                self.flush()

    def loss(self, losses: np.ndarray) -> None:
        """Hand over the losses [slot] of the next step."""
        self._losses.append(losses)

    def flush(self) -> None:
        """Put what was handed over on disk, then say that it is there."""
        try:
            if self._losses:
                lost = self._lost + len(self._losses)
                self._set("loss", slice(self._lost, lost), np.stack(self._losses))
                self._lost, self._losses = lost, []
            if self._buffer:
                stop = self._written + len(self._buffer)
                for k, name in enumerate(self._names):
                    self._set(name, slice(self._written, stop), np.stack([row[k] for row in self._buffer]))
                self._written, self._buffer = stop, []
            self.group.attrs["committed"] = self._lost
        except OSError as error:
            self._abandon(error)

    def _set(self, name: str, rows: slice, values: np.ndarray) -> None:
        array: Any = self.group[name]
        array[rows] = values

    def close(self, status: str = "complete", **attrs: Any) -> None:
        """Finish the store: `complete`, or `stopped` with a `reason`."""
        self.flush()
        try:
            self.group.attrs.update({"status": status, **attrs})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zarr: consolidated metadata is an extension of v3
                zarr.consolidate_metadata(self.store)
        except OSError as error:
            self._abandon(error)

    def _abandon(self, error: OSError) -> None:
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)
        where = f" to {self.path}" if self.path else ""
        raise StoreError(
            f"cannot write the trajectory{where}: {error.strerror or error}; nothing was left there"
        ) from error


def open_group(store: Any) -> zarr.Group:
    """A store of ours, checked: a trajectory, of this schema, finished."""
    if isinstance(store, str | Path) and not Path(store).exists():
        raise StoreError(f"no trajectory at {store}: nothing is there; make one with `influencekit record`")
    try:
        group = zarr.open_group(store, mode="r")
        attrs = dict(group.attrs)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise StoreError(f"{store} is not a zarr group that can be read ({_line(error)})") from error
    if "influencekit_schema" not in attrs:
        raise StoreError(
            f"{store} is a zarr group, but not an influencekit trajectory (no influencekit_schema)"
        )
    if attrs["influencekit_schema"] != SCHEMA:
        raise StoreError(
            f"{store} has trajectory schema {attrs['influencekit_schema']}, this version reads {SCHEMA}; "
            f"it was written by influencekit {attrs.get('influencekit_version', '?')}: record again, or "
            "use that version"
        )
    if attrs["status"] == "recording":
        raise StoreError(
            f"{store} is half-written: recording ended after {attrs['committed']} steps without being "
            "closed; record again"
        )
    return group


def read(group: zarr.Group, name: str, rows: slice = slice(None)) -> np.ndarray:
    """Rows of one array; a missing, broken or altered chunk is an error that names it."""
    array = group.get(name)
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{_where(group)}: the array {name!r} is missing; record again")
    for key, part in _chunks(array, rows):
        folder = getattr(group.store, "root", None)
        if folder is not None and not (Path(folder) / array.path / key).exists():
            raise StoreError(f"{_where(group)}: chunk {name}/{key}{_rows(part)} is missing; record again")
    try:
        return np.asarray(array[rows])
    except Exception as error:  # every codec has its own exceptions
        for key, part in _chunks(array, rows):
            try:
                array[part]
            except Exception as reason:
                raise StoreError(
                    f"{_where(group)}: chunk {name}/{key}{_rows(part)} is corrupted ({_line(reason)}); "
                    "record again"
                ) from reason
        raise StoreError(f"{_where(group)}: the array {name!r} cannot be read ({_line(error)})") from error


def chunks(group: zarr.Group) -> list[tuple[str, str, slice]]:
    """Every chunk that a recording should have: the array's name, the chunk's key, its rows.

    A run that was stopped has not written the states after its last step.
    """
    committed: Any = group.attrs["committed"]
    stored = int((read(group, "kept") <= committed).sum())
    found = []
    for name, array in sorted(group.arrays()):
        dims = array.metadata.dimension_names  # type: ignore[union-attr]
        rows = slice(0, committed) if name == "loss" else slice(None)
        if dims and dims[0] == "kept":
            rows = slice(0, stored)
        found += [(name, key, part) for key, part in _chunks(array, rows)]
    return found


def _chunks(array: zarr.Array, rows: slice) -> list[tuple[str, slice]]:
    """Keys and rows of the chunks that hold `rows`; arrays are cut along their first dimension only."""
    start, stop, _ = rows.indices(array.shape[0])
    long, tail = array.chunks[0], "/0" * (array.ndim - 1)
    first, last = start // long, -(-stop // long)
    return [
        (f"c/{k}{tail}", slice(max(start, k * long), min(stop, (k + 1) * long))) for k in range(first, last)
    ]


def _where(group: zarr.Group) -> str:
    return str(getattr(group.store, "root", "the trajectory in memory"))


def _rows(rows: slice) -> str:
    return f" (rows {rows.start} to {rows.stop - 1})"


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
