"""The trajectory store: one chunked, compressed, checksummed zarr v3 group that xarray opens as it is."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from influencekit._address import local
from influencekit._trajectory.checkpoints import only_weights
from influencekit._trajectory.schema import check_chunk, check_store
from influencekit.errors import InputError, StoreError

__all__ = ["SCHEMA", "chunks", "open_group", "read"]

SCHEMA = 1


def open_group(store: Any) -> zarr.Group:
    """A store of ours, checked: a trajectory, of this schema.

    One that is being recorded, or was cut off, is what its last commit made it: the arrays end there.
    """
    if isinstance(store, str | Path) and not (store := local(store)).exists():
        raise StoreError(f"no trajectory at {store}: nothing is there; make one with `influencekit record`")
    if words := only_weights(store):
        raise InputError(words)
    try:
        if isinstance(store, str | Path):
            check_store(Path(store), SCHEMA)
        group = zarr.open_group(store, mode="r", zarr_format=3)
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
    return group


def read(group: zarr.Group, name: str, rows: slice = slice(None)) -> np.ndarray:
    """Rows of one array; a missing, broken or altered chunk is an error that names it."""
    array = group.get(name)
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{_where(group)}: the array {name!r} is missing; record again")
    for key, part in _chunks(array, rows):
        folder = getattr(group.store, "root", None)
        if folder is not None:
            check_chunk(Path(folder, name, key), array, f"{_where(group)}: chunk {name}/{key}{_rows(part)}")
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

    A run that was stopped has written nothing for the steps that it did not come to.
    """
    committed: Any = group.attrs["committed"]
    found = []
    for name, array in sorted(group.arrays()):
        dims = array.metadata.dimension_names  # type: ignore[union-attr]
        rows = slice(0, committed) if dims and dims[0] == "step" else slice(None)
        found += [(name, key, part) for key, part in _chunks(array, rows)]
    return found


def _chunks(array: zarr.Array, rows: slice) -> list[tuple[str, slice]]:
    """Keys and rows of the chunks that hold `rows`."""
    start, stop, _ = rows.indices(array.shape[0])
    long, *wide = array.chunks
    numbers = range(start // long, -(-stop // long)) if stop > start else range(0)
    across = [range(-(-size // each)) for size, each in zip(array.shape[1:], wide, strict=True)]
    return [
        ("/".join(map(str, ("c", k, *rest))), slice(max(start, k * long), min(stop, (k + 1) * long)))
        for k, *rest in product(numbers, *across)
    ]


def _where(group: zarr.Group) -> str:
    return str(getattr(group.store, "root", "the trajectory in memory"))


def _rows(rows: slice) -> str:
    return f" (rows {rows.start} to {rows.stop - 1})"


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
