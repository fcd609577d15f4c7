"""Where the data files are: bundled ones, verified against their checksums, or the user's own full copies."""

import hashlib
import json
import zlib
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from influencekit.errors import InputError, StoreError

__all__ = ["bundled", "check_images", "find", "read_npz"]


def bundled(path: Path) -> Path:
    """The path itself, of a file that a package brings along, once it is as checksums.json beside it says.

    checksums.json is `{name: {"sha256": ...}}`. Errors: StoreError if the file is missing or damaged. Cost:
    one pass over the file, once a process.
    """
    try:
        stat = path.stat()
    except OSError:
        raise StoreError(
            f"bundled data file {path.name} is missing from {path.parent}; install its package again"
        ) from None
    _verify(path, stat.st_size, stat.st_mtime_ns)
    return path


@lru_cache
def _verify(path: Path, size: int, changed: int) -> None:
    expected = json.loads(path.with_name("checksums.json").read_text())[path.name]["sha256"]
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise StoreError(
            f"bundled data file {path.name} ({size} bytes) is damaged: expected SHA-256 {expected[:12]}..., "
            f"found {found[:12]}...; install its package again"
        )


def find(data_dir: str, *choices: tuple[str, ...], what: str, hint: str = "") -> list[Path]:
    """The first choice of files that is complete in `data_dir`; where NAME.gz is missing, NAME will do.

    Errors: InputError naming the folder and every file looked for.
    """
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise InputError(f"data_dir {data_dir} is not a folder; expected one that holds {what}{hint}")
    for names in choices:
        plain = [folder / name.removesuffix(".gz") for name in names]
        packed = [folder / name for name in names]
        paths = [a if a.is_file() else b for a, b in zip(packed, plain, strict=True)]
        if all(path.is_file() for path in paths):
            return paths
    absent = [name for name in choices[0] if not (folder / name).is_file()]
    other = "".join(f" (or else {', '.join(names)})" for names in choices[1:])
    raise InputError(f"{what} needs {', '.join(absent)}{other} in data_dir {data_dir}, not found there{hint}")


def read_npz(path: Path, *names: str) -> list[np.ndarray]:
    """Named arrays of an npz file; nothing pickled is ever loaded."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [archive[name] for name in names]
    except (KeyError, ValueError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path} should be an npz file with the arrays {', '.join(names)}: {error}"
        ) from None


def check_images(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    """Errors: InputError unless x is [n, 28, 28] and y [n]."""
    if x.shape != (*y.shape, 28, 28) or y.ndim != 1:
        found = f"shapes {list(x.shape)} and {list(y.shape)}"
        raise InputError(f"{path}: expected images [n, 28, 28] and their n labels, got {found}")
