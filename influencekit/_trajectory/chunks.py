"""The chunks of an array: which of them hold which rows."""

from itertools import product
from typing import NamedTuple

import zarr

__all__ = ["Chunk", "chunks_of"]


class Chunk(NamedTuple):
    """One chunk: its key, its place among all of the array, its rows as far as they are asked for, and its
    columns if it has some."""

    key: str
    place: int
    rows: slice
    columns: tuple[slice, ...]

    def __str__(self) -> str:
        return f"{self.key} (rows {self.rows.start} to {self.rows.stop - 1})"


def chunks_of(array: zarr.Array, rows: slice) -> list[Chunk]:
    """The chunks that hold `rows`, in their order."""
    start, stop, _ = rows.indices(array.shape[0])
    long, *wide = array.chunks
    numbers = range(start // long, -(-stop // long)) if stop > start else range(0)
    beside = list(product(*(range(-(-n // each)) for n, each in zip(array.shape[1:], wide, strict=True))))
    return [
        Chunk(
            "/".join(map(str, ("c", number, *places))),
            number * len(beside) + k,
            slice(max(start, number * long), min(stop, (number + 1) * long)),
            tuple(slice(p * each, (p + 1) * each) for p, each in zip(places, wide, strict=True)),
        )
        for number in numbers
        for k, places in enumerate(beside)
    ]
