"""The files of a store: that they are files, as many as the shapes need, and hold no more than they say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from math import prod
from pathlib import Path
from struct import Struct

import zarr
from numcodecs import blosc  # type: ignore[import-untyped]

from influencekit._trajectory.schema.arrays import Described
from influencekit._trajectory.schema.document import require_file, require_folder
from influencekit.errors import StoreError

__all__ = ["check_chunk", "check_content", "check_files", "largest", "needed_chunks"]

_HEADER = Struct("<4x3I")  # of Blosc: bytes of the content, of a block, of the file
_CHECKSUM = 4
_SMALL = 8 << 20  # bytes that any file may become
_TEXT = 1 << 30  # bytes of a file of text
_RATIO = 1000  # and a larger content is at most so many times its file


def check_files(root: Path, name: str, array: Described, rows: int, store: str) -> None:
    """Whether the folders of an array have what its first `rows` rows need. Cost: listing two folders.

    Errors: `StoreError` that names the first chunk which is missing, or a link in the place of a folder.
    """
    needed = _counts(array, rows)
    if not all(needed):
        return
    for folder, count in zip((Path(name, "c"), Path(name, "c", "0")), needed, strict=False):
        try:
            require_folder(root / name, f"{store}: {name}")
            require_folder(root / folder, f"{store}: {folder}")
            with os.scandir(root / folder) as entries:
                there = {entry.name: entry for entry in entries if entry.name.isdecimal()}
        except (FileNotFoundError, NotADirectoryError):
            there = {}
        if len(there) < count:
            first = next(k for k in range(count) if str(k) not in there)
            chunk = Path(folder, str(first), *["0"] * (len(needed) - len(folder.parts) + 1))
            raise StoreError(
                f"{store}: chunk {chunk} (of {count} that the shape {list(array.shape)} needs; {len(there)} "
                "are there) is missing; record again"
            )
        for entry in there.values() if len(needed) == len(folder.parts) else ():
            if not entry.is_dir(follow_symlinks=False):
                require_folder(Path(entry.path), f"{store}: {folder / entry.name}")


def _counts(array: Described, rows: int) -> list[int]:
    return [-(-n // long) for n, long in zip((rows, *array.shape[1:]), array.chunks, strict=True)]


def needed_chunks(array: Described, rows: int) -> Iterator[str]:
    """The keys of the chunks that the first `rows` rows of an array need, in their order."""
    return ("/".join(map(str, ("c", *place))) for place in product(*map(range, _counts(array, rows))))


def check_chunk(file: Path, array: zarr.Array, what: str) -> None:
    """Whether a chunk's file is a file, and becomes what a chunk of the array is.

    Cost: reading its first bytes; of text, the whole. Errors: `StoreError` that begins with `what`.
    """
    try:
        size = require_file(file, what)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{what} is missing; record again") from None
    text = array.dtype.kind not in "iuf"
    with open(file, "rb") as opened:
        data = opened.read(-1 if text and size < _SMALL * _RATIO else 16)
    check_content(data, size, array, what)


def check_content(data: bytes, size: int, array: zarr.Array, what: str) -> None:
    """The same of a chunk of `size` bytes of which the first 16, or of text all, are here."""
    text, expected = array.dtype.kind not in "iuf", prod(array.chunks) * array.dtype.itemsize
    if len(data) < 16:
        raise _corrupted(what, f"it has {size} bytes")
    content, _, stored = _HEADER.unpack_from(data)
    if stored != size - _CHECKSUM:
        raise _corrupted(what, f"it should have {stored + _CHECKSUM} bytes, and has {size}")
    if content > max(_SMALL, size * _RATIO) or (content != expected and not text):
        raise _corrupted(what, f"its {size} bytes would become {content}")
    if text:
        try:
            count = int.from_bytes(blosc.decompress(data[:-_CHECKSUM])[:4], "little")
        except Exception as error:
            raise _corrupted(what, str(error)[:60]) from error
        if count != array.chunks[0]:
            raise _corrupted(what, f"it holds {count} texts")


def largest(array: zarr.Array) -> int:
    """The bytes that a chunk's file may have: what cannot be compressed becomes a little longer."""
    return max(_SMALL, 2 * prod(array.chunks) * array.dtype.itemsize if array.dtype.kind in "iuf" else _TEXT)


def _corrupted(what: str, why: str) -> StoreError:
    return StoreError(f"{what} is corrupted ({why}); record again")
