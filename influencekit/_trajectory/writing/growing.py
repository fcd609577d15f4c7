"""An array that grows by rows, cut into chunks, each of them compressed and with a checksum."""

import json
from array import array as Numbers
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec

from influencekit._files import Files, Memory
from influencekit._trajectory.digests import Checks, crc_of_file, crc_of_rows

__all__ = ["Column", "Growing"]


class Column(NamedTuple):
    """What an array holds: dims, of which the first grows; dtype; what stands where nothing was given."""

    dims: tuple[str, ...]
    dtype: Any
    fill: Any = 0


class Growing:
    """One array of one or two dims that is appended to, a row at a time.

    It is cut into chunks of `long` rows, and of `wide` columns where it has columns. A full chunk is written
    at once, the rest by `write`. A chunk that holds committed rows is only ever replaced by one that holds
    them too. Wider rows may come: the array then gets more columns, filled for the rows that were before.
    States (rows along "kept") are compressed by column: a parameter changes little from state to state.
    """

    def __init__(
        self, files: Files, name: str, column: Column, long: int, wide: int | None,
        by_column: bool | None = None,
    ) -> None:  # fmt: skip
        self.name, self.column, self.width = name, column, wide
        self.files, self._long, self._wide = files, long, wide
        self._across = 1  # chunks side by side
        self._start = 0  # the last chunk: its first row, its rows
        self._tail: list[np.ndarray] = []
        self._changed = False
        self._full = [Numbers("I")]  # checksums of the full chunks, for each of those side by side
        self._last: Sequence[int] = []  # of the last one
        self._chunk = (long,) if wide is None else (long, wide)
        self._encoded: dict[str, Any] = {}
        text = column.dtype is str
        large = column.dims[0] == "kept" and long == 1  # one state a chunk
        # zstd is slow: it finds no more in single states, and in memory a sweep reads what was just written
        cname: Literal["lz4", "zstd"] = "lz4" if large or isinstance(files, Memory) else "zstd"
        if by_column is None:
            by_column = column.dims[0] == "kept" and wide is not None and long > 1
        # one chunk in memory, into which zarr encodes: it defines the format, and the metadata
        self._encoder = zarr.create_array(
            zarr.storage.MemoryStore(self._encoded),
            shape=self._chunk,
            chunks=self._chunk,
            dtype=column.dtype,
            fill_value=None if text else column.fill,
            dimension_names=column.dims,
            filters=[TransposeCodec(order=(1, 0))] if by_column else None,
            compressors=[
                BloscCodec(cname=cname, clevel=1, shuffle="noshuffle" if text else "bitshuffle"),
                Crc32cCodec(),
            ],
            config={"write_empty_chunks": True},  # so that a chunk that is not there is one that was lost
        )
        self._meta = json.loads(self._encoded["zarr.json"].to_bytes())

    @classmethod
    def resume(
        cls, files: Files, name: str, array: Any, length: int, read: Callable[[slice], np.ndarray],
        checks: Checks | None,
    ) -> "Growing":  # fmt: skip
        """The array as it stands on disk, to be continued after its first `length` rows."""
        column = Column(array.metadata.dimension_names, array.dtype, array.fill_value)
        long, *wide = array.chunks
        by_column = any(isinstance(codec, TransposeCodec) for codec in array.metadata.codecs)
        new = cls(files, name, column, long, wide[0] if wide else None, by_column)
        if wide:
            new.width = array.shape[1]
            new._across = -(-array.shape[1] // wide[0])
        new._start = length // long * long
        new._tail = list(read(slice(new._start, length)))
        full, new._last = ([], []) if checks is None else (checks.full, checks.last)
        new._full = [Numbers("I", full[place :: new._across]) for place in range(new._across)]
        return new

    def __len__(self) -> int:
        return self._start + len(self._tail)

    def append(self, row: Any) -> None:
        """Add one row; it is not copied, and must not be changed any more."""
        row = np.asarray(row) if self.column.dtype is str else np.asarray(row, dtype=self.column.dtype)
        if self.width is not None and len(row) > self.width:
            self.widen(len(row))
        self._tail.append(row)
        self._changed = True
        if len(self._tail) == self._long:
            self.write()
            self._begin_chunk()

    def fill(self, values: np.ndarray) -> None:
        """Give an array that is still empty all its rows, on disk."""
        for first in range(0, len(values), self._long):
            self._tail, self._changed = values[first : first + self._long], True  # type: ignore[assignment]
            self.write()
            if len(self._tail) == self._long:
                self._begin_chunk()

    def _begin_chunk(self) -> None:
        """The last chunk is full, and never written again."""
        self._start, self._tail = self._start + self._long, []
        for full, crc in zip(self._full, self._last, strict=True):
            full.append(crc)

    def widen(self, width: int) -> None:
        """Have at least `width` columns."""
        if self.width is None or self._wide is None or width <= self.width:
            return
        self.width = width
        across = -(-width // self._wide)
        for place in range(self._across, across):
            numbers = range(self._start // self._long)
            self._full.append(Numbers("I", [self._put(number, place, []) for number in numbers]))
        self._across = across
        self._changed = self._changed or bool(self._tail)

    def write(self) -> None:
        """Put the last chunk on disk, if it has changed."""
        if self._changed:
            number = self._start // self._long
            self._last = [self._put(number, place, self._tail) for place in range(self._across)]
            self._changed = False

    def _put(self, number: int, place: int, rows: Sequence[np.ndarray] | np.ndarray) -> int:
        """Write a chunk, or an empty one beside full ones. The checksum by which it is known."""
        key, clipped = f"c/{number}", slice(None)
        if self._wide is not None:
            key += f"/{place}"
            columns = slice(place * self._wide, (place + 1) * self._wide)
            clipped = slice((self.width or 0) - columns.start)  # what is not beyond the array's width
            rows = rows[:, columns] if isinstance(rows, np.ndarray) else [row[columns] for row in rows]
        if isinstance(rows, np.ndarray) and rows.shape == self._chunk:
            block = rows
        elif len(rows) == self._long and all(row.shape == self._chunk[1:] for row in rows):
            block = rows[0][None] if len(rows) == 1 else np.asarray(rows)
        else:
            block = np.full(self._chunk, self.column.fill, dtype=self._encoder.dtype)
            for k, row in enumerate(rows):
                block[(k, slice(len(row))) if self._wide is not None else k] = row
        self._encoder[...] = block
        encoded = self._encoded.pop("c/0" if self._wide is None else "c/0/0").as_numpy_array()
        self.files.put(f"{self.name}/{key}", encoded)
        if 0 < len(rows) < self._long:
            return crc_of_rows(block[: len(rows)] if self._wide is None else block[: len(rows), clipped])
        return crc_of_file(encoded)

    def checks(self) -> Checks:
        """By what the chunks that are written are known."""
        full = [crc for row in zip(*self._full, strict=True) for crc in row]
        return Checks(len(self), full, self._last if len(self._tail) else [])

    def metadata(self, length: int | None = None) -> dict[str, Any]:
        """What zarr.json says of the array with its present rows, or with `length`."""
        shape = [len(self) if length is None else length]
        return {**self._meta, "shape": shape if self.width is None else [*shape, self.width]}
