"""The trajectory store: one chunked, compressed, checksummed zarr v3 group that xarray opens as it is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from influencekit._address import place
from influencekit._trajectory.checkpoints import only_weights
from influencekit._trajectory.chunks import Chunk, chunks_of
from influencekit._trajectory.digests import Checks, crc_of_file, crc_of_rows, digest_of_document
from influencekit._trajectory.schema import check_chunk, check_content, check_document, check_store, largest
from influencekit.errors import InputError, StoreError

__all__ = ["SCHEMA", "chunks", "open_group", "read", "shown"]

SCHEMA = 1


class _Folder(zarr.storage.LocalStore):
    """The folder of a store, wherever the program goes meanwhile. `given`: its path in the user's words."""

    given: Path | None = None


def open_group(store: Any) -> zarr.Group:
    """A store of ours, checked: a trajectory, of this schema.

    One that is being recorded, or was cut off, is what its last commit made it: the arrays end there.
    """
    if isinstance(store, str | Path):
        store = place(store)
    if isinstance(store, Path) and not store.exists():
        raise StoreError(f"no trajectory at {store}: nothing is there; make one with `influencekit record`")
    if words := only_weights(store):
        raise InputError(words)
    if isinstance(store, Path) and store.is_file():
        raise StoreError(
            f"{store} is a file, and a recorded run is a folder, such as run.zarr; unpack it first if it is "
            "an archive of one"
        )
    try:
        opened, digest = _opened(store)
        group = zarr.open_group(opened, mode="r", zarr_format=3)
        attrs = dict(group.attrs)
    except InputError:
        raise
    except (OSError, TypeError, ValueError, KeyError) as error:
        raise StoreError(
            f"{store} is not a zarr group that can be read ({_line(error)}); expected what "
            "`influencekit record` or a Tape wrote"
        ) from error
    if digest is not None and attrs.get("digest") != digest:
        return open_group(store)  # its writer has committed meanwhile
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


def _opened(store: Any) -> tuple[Any, str | None]:
    """What zarr opens, and the digest of its root, which was checked; None of a run in memory."""
    if isinstance(store, Path):
        folder = _Folder(store.absolute(), read_only=True)
        folder.given = store
        return folder, _digest(check_store(store, SCHEMA), store)
    if isinstance(store, str):
        return _opened_address(store)
    return store, None


def _opened_address(address: str) -> tuple[Any, str | None]:
    from influencekit._trajectory.remote import Remote

    remote = Remote(address)
    try:
        document = remote.document()
    except FileNotFoundError:
        raise StoreError(
            f"no trajectory at {address}: there is no zarr.json; is it the address of the store's folder?"
        ) from None
    arrays: list[Any] = []
    with _copy_again(True):
        check_document(document, address, SCHEMA, lambda *array: arrays.append(array[:3]))
        digest = _digest(document, address)
        if arrays and digest is None:
            raise StoreError(
                f"{address} was recorded by an influencekit before 0.4, which kept no digests; copy it to "
                "this machine to read it"
            )
        remote.check_there(arrays)
    return remote, digest


@contextmanager
def _copy_again(elsewhere: bool) -> Iterator[None]:
    """What is broken at an address may be the copy, and not the recording."""
    try:
        yield
    except StoreError as error:
        if not elsewhere:
            raise
        raise StoreError(str(error).replace("; record again", "; copy the store there again")) from error


def shown(group: zarr.Group) -> str:
    """Where a run is, for messages: the path that it was opened with."""
    store = group.store
    return str(getattr(store, "given", None) or getattr(store, "root", "the run in memory"))


def _digest(root: dict[str, Any], path: Path | str) -> str | None:
    """The digest of a root document; None before 0.4, which kept none. Errors: it is not right."""
    attrs = root.get("attributes")
    if not isinstance(attrs, dict) or attrs.get("influencekit_schema") != SCHEMA:
        return None
    if not attrs.keys() & {"checks", "digest"}:
        return None
    if attrs.get("digest") != (found := digest_of_document(root)):
        raise StoreError(
            f"{path}: its zarr.json is not as it was committed, something else has written it; record again"
        )
    return found


def read(group: zarr.Group, name: str, rows: slice = slice(None)) -> np.ndarray:
    """Rows of one array; a missing, broken, altered or exchanged chunk is an error that names it.

    Cost: where these rows are in the last chunk and it is not full, all its committed rows are read.
    """
    array = group.get(name)
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{shown(group)}: the array {name!r} is missing; record again")
    with _copy_again(hasattr(group.store, "hold")):
        return _read(group, array, name, rows)


def _read(group: zarr.Group, array: zarr.Array, name: str, rows: slice) -> np.ndarray:
    start, stop, _ = rows.indices(array.shape[0])
    low, high = start, max(start, stop)
    checks = _checks(group, name)
    last = checks.rows // array.chunks[0] * array.chunks[0]
    if low < checks.rows and last < min(high, checks.rows):  # a chunk that is not full is known by its rows
        low, high = min(low, last), max(high, checks.rows)
    found = chunks_of(array, slice(low, high))
    ends = _ends(group, array, found)
    values = _decoded(group, array, slice(low, high), found)
    for chunk, end in zip(found, ends, strict=True):
        beyond = chunk.place - len(checks.full)
        if beyond < 0:
            same = end is None or checks.full[chunk.place] == crc_of_file(end)
        else:
            mine = values[last - low : checks.rows - low]
            same = beyond >= len(checks.last) or checks.last[beyond] == crc_of_rows(mine[:, *chunk.columns])
        if not same:
            raise StoreError(
                f"{shown(group)}: chunk {name}/{chunk} is not the one that was committed, something else "
                "has written it or put it there; record again"
            )
    return values[start - low : max(start, stop) - low]


def _decoded(group: zarr.Group, array: Any, rows: slice, found: list[Chunk]) -> np.ndarray:
    try:
        return np.asarray(array[rows])
    except Exception as error:  # every codec has its own exceptions
        for chunk in found:
            try:
                array[chunk.rows]
            except Exception as reason:
                raise StoreError(
                    f"{shown(group)}: chunk {array.basename}/{chunk} is corrupted ({_line(reason)}); "
                    "record again"
                ) from reason
        raise StoreError(
            f"{shown(group)}: the array {array.basename!r} cannot be read ({_line(error)})"
        ) from error


def chunks(group: zarr.Group) -> list[tuple[str, str, slice]]:
    """Every chunk that a recording should have: the array's name, the chunk's key, its rows.

    A run that was stopped has written nothing for the steps that it did not come to.
    """
    attrs: dict[str, Any] = dict(group.attrs)
    found = []
    for name, array in sorted(group.arrays()):
        dims = array.metadata.dimension_names  # type: ignore[union-attr]
        rows = attrs["committed"] if dims and dims[0] == "step" else None
        if "checks" in attrs:
            rows = _checks(group, name).rows
        found += [(name, chunk.key, chunk.rows) for chunk in chunks_of(array, slice(0, rows))]
    return found


def _checks(group: zarr.Group, name: str) -> Checks:
    """What was committed of an array: nothing in memory, or by versions before 0.4, which did not say it."""
    said: Any = group.attrs.get("checks")
    try:
        return Checks(0, [], []) if said is None else Checks.parse(said[name])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{shown(group)}: no checksums of the array {name!r}; record again") from error


def _ends(group: zarr.Group, array: Any, found: list[Chunk]) -> list[bytes | None]:
    """The last bytes of the files or objects of chunks; nothing of a run in memory.

    Errors: one is missing, or would not become what a chunk of the array is. Cost: of objects, fetching them.
    """
    keys = [f"{array.basename}/{chunk.key}" for chunk in found]
    what = [f"{shown(group)}: chunk {array.basename}/{chunk}" for chunk in found]
    if (hold := getattr(group.store, "hold", None)) is not None:
        objects = hold(keys, largest(array))
        for data, each in zip(objects, what, strict=True):
            check_content(data, len(data), array, each)
        return [data[-4:] for data in objects]
    if (root := getattr(group.store, "root", None)) is None:
        return [None] * len(found)
    files = [Path(root) / key for key in keys]
    for file, each in zip(files, what, strict=True):
        check_chunk(file, array, each)
    return [_end(file) for file in files]


def _end(file: Path) -> bytes:
    with open(file, "rb") as opened:
        opened.seek(max(0, os.fstat(opened.fileno()).st_size - 4))
        return opened.read(4)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
