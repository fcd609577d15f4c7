"""Read a JSON document of a store: a regular file, of bounded size and depth, each key once."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from influencekit.errors import StoreError

__all__ = ["MOST_BYTES", "parse_document", "read_document", "require_file", "require_folder"]

MOST_BYTES = 64 << 20  # of a document
_PARTS = 300_000  # values and keys of a document
_DEPTH = 64
_WHOLE = 1 << 64  # numbers without a fraction are smaller


def require_file(path: Path, where: str) -> int:
    """The size of a regular file. Errors: what stands there instead; `OSError` where nothing does."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(
            f"{where} is {_kind(found.st_mode)}, and not a file; a store holds files and folders only"
        )
    return found.st_size


def require_folder(path: Path, where: str) -> None:
    """Errors: a link, or anything else that is no folder; `OSError` where nothing is there."""
    mode = os.lstat(path).st_mode
    if not stat.S_ISDIR(mode):
        raise StoreError(f"{where} is {_kind(mode)}, and not a folder; a store holds files and folders only")


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISLNK, "a link"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
        (stat.S_ISDIR, "a folder"), (stat.S_ISREG, "a file"),
    )  # fmt: skip
    return next((words for test, words in kinds if test(mode)), "a device")


def read_document(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Errors: `StoreError` that says what is wrong; `OSError` for no such file.

    Cost: that of reading it; refused are more than 64 MiB, 300,000 values, a depth of 64, a key that
    stands twice, and numbers of more than 64 bits.
    """
    size = require_file(path, str(path))
    if size > MOST_BYTES:
        raise StoreError(
            f"{path} has {size:,} bytes, and the description of a store has at most {MOST_BYTES:,}"
        )
    return parse_document(path.read_bytes(), str(path))


def parse_document(data: bytes, path: str) -> dict[str, Any]:
    """The object in the bytes of a JSON file. Errors: as of `read_document`."""
    if sum(data.count(mark) for mark in b",[{") > _PARTS:
        raise StoreError(f"{path} holds more than {_PARTS:,} values, and the description of a store does not")
    try:
        found = json.loads(data, object_pairs_hook=_once)
        _check(found, "it", 0)
    except RecursionError:
        raise StoreError(f"{path} is nested too deeply: more than {_DEPTH} levels") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is not JSON that can be read ({str(error)[:120]})") from None
    if not isinstance(found, dict):
        raise StoreError(f"{path} holds {type(found).__name__}, expected an object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twice[:60]!r} stands twice")
    return found


def _check(value: Any, name: str, depth: int) -> None:
    """`name`: of the nearest object's key."""
    if depth > _DEPTH:
        raise RecursionError
    if isinstance(value, dict):
        for key, each in value.items():
            _check(each, key, depth + 1)
    elif isinstance(value, list):
        for each in value:
            _check(each, name, depth + 1)
    elif type(value) is int and abs(value) >= _WHOLE:
        raise ValueError(f"{name[:60]!r} has a number of more than 64 bits")
