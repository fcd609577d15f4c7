"""The files of this plugin: those that it brings along, and readers of IDX and text files."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from influencekit.errors import InputError
from influencekit.workloads import bundled

__all__ = ["DATA", "bundled_file", "read_idx", "text_lines"]

DATA = Path(__file__).parent / "data"


def bundled_file(name: str) -> Path:
    """The path of a file of data/, verified. Errors: StoreError if it is missing or damaged."""
    return bundled(DATA / name)


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an IDX file, packed with gzip or not (images [n, rows, columns], labels [n])."""
    content = _content(path)
    dims = content[3] if len(content) >= 4 else 0
    header = 4 + 4 * dims
    shape = struct.unpack(f">{dims}I", content[4:header]) if len(content) >= header else ()
    if content[:3] != b"\0\0\x08" or len(content) - header != np.prod(shape, dtype=np.int64):
        raise InputError(f"{path} should be an IDX file of unsigned bytes; it is something else or cut short")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, packed with gzip or not."""
    try:
        return _content(path).decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path} should be UTF-8 text") from None


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is not a complete gzip file: {error}") from None
