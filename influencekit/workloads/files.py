"""Where the data files are: bundled ones, verified against their checksums, or the user's own full copies."""

import hashlib
import json
import zlib
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from influencekit._address import local
from influencekit.errors import InputError, StoreError

__all__ = ["bundled", "check_images", "find", "read_npz"]


def bundled(path: Path) -> Path:
    """The path itself, of a file that a package brings along, once it is as checksums.json beside it says.

    checksums.json is `{name: {"sha256": ...}}`. Errors: StoreError if the file is missing or damaged. Cost:
    one pass over the file, once a process.

    Example:

        >>> import hashlib, json, tempfile
        >>> from pathlib import Path
        >>> from influencekit.workloads import bundled
        >>> path = Path(tempfile.mkdtemp(), "data.csv")
        >>> size = path.write_bytes(b"1,2,3")
        >>> sums = {"data.csv": {"sha256": hashlib.sha256(b"1,2,3").hexdigest()}}
        >>> size = path.with_name("checksums.json").write_text(json.dumps(sums))
        >>> bundled(path) == path
        True
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

    Cost: no file is opened.

    Example:

        >>> import tempfile
        >>> from pathlib import Path
        >>> from influencekit.workloads import find
        >>> folder = tempfile.mkdtemp()
        >>> Path(folder, "images.csv").touch()
        >>> [path.name for path in find(folder, ("images.csv.gz",), what="These images")]
        ['images.csv']
    """
    folder = local(data_dir)
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
    """Named arrays of an npz file; nothing pickled is ever loaded.

    Errors: `InputError` for a file that is none, or that lacks one of the names.

    Example:

        >>> import numpy as np
        >>> from influencekit.workloads import read_npz
        >>> import tempfile
        >>> path = f"{tempfile.mkdtemp()}/data.npz"
        >>> np.savez(path, x=np.zeros((4, 2)), y=np.ones(4))
        >>> [array.shape for array in read_npz(path, "x", "y")]
        [(4, 2), (4,)]
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [archive[name] for name in names]
    except (KeyError, ValueError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path} should be an npz file with the arrays {', '.join(names)}: {error}"
        ) from None


def check_images(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    """Refuse images that are not MNIST's: x [n, 28, 28] and labels y [n], as read from `path`.

    Errors: `InputError`, which names the path and both shapes.

    Example:

        >>> import numpy as np
        >>> from influencekit.workloads import check_images
        >>> from pathlib import Path
        >>> check_images(Path("images.npz"), np.zeros((5, 28, 28)), np.zeros(5))
    """
    if x.shape != (*y.shape, 28, 28) or y.ndim != 1:
        found = f"shapes {list(x.shape)} and {list(y.shape)}"
        raise InputError(f"{path}: expected images [n, 28, 28] and their n labels, got {found}")
