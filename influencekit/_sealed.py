"""Files that say what they should hold: JSON text with a digest of itself, and zarr stores file by file."""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

__all__ = ["check_store", "read_sealed", "seal_store", "sealed"]

_ROOT = "zarr.json"
_SEAL = "checksums"  # in the consolidated metadata: {"files", "whose", "metadata"}

_LIMIT = 64 << 20  # bytes of a JSON file


def sealed(content: Mapping[str, Any], indent: int | None = None) -> str:
    """JSON text of `content`, and behind it `digest`, the SHA-256 of the text without it.

    Example:

        >>> from influencekit.extend import sealed
        >>> sealed({"seed": 3})[:35]
        '{"seed": 3, "digest": "1391dc1f10fa'
    """
    digest = hashlib.sha256(json.dumps(content, indent=indent).encode()).hexdigest()
    return json.dumps({**content, "digest": digest}, indent=indent) + "\n"


def read_sealed(path: Path, indent: int | None = None) -> tuple[dict[str, Any], bool]:
    """What such a file holds, and whether it has a digest: older versions wrote none.

    One with a digest has to be, character by character, what `sealed` wrote. Errors: `OSError`, also for a
    link, a pipe or a huge file; `ValueError`, in words, for all that is damaged.

    Example:

        >>> import tempfile
        >>> from pathlib import Path
        >>> from influencekit.extend import read_sealed, sealed
        >>> path = Path(tempfile.mkdtemp()) / "cell.json"
        >>> _ = path.write_text(sealed({"seed": 3}))
        >>> read_sealed(path)
        ({'seed': 3}, True)
        >>> _ = path.write_text(path.read_text().replace("3", "4", 1))
        >>> read_sealed(path)
        Traceback (most recent call last):
        ...
        ValueError: it is not what was written: its digest is of another text
    """
    data = _small(path)
    try:
        text = data.decode()
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not JSON") from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__} where names and values belong")
    known = content.pop("digest", None)
    if known is not None and sealed(content, indent) != text:
        raise ValueError("it is not what was written: its digest is of another text")
    return content, known is not None


def seal_store(folder: Path, whose: str | None = None) -> None:
    """Add to the root metadata of a zarr store the digests of its files, a text, and a digest of all this.

    They stand in the consolidated metadata, where zarr lets them be. Attributes would go along where xarray
    writes a changed copy, and say that it is damaged.
    """
    doc = json.loads((folder / _ROOT).read_text(encoding="utf-8"))
    doc["consolidated_metadata"][_SEAL] = {"files": _file_digests(folder), "whose": whose}
    (folder / _ROOT).write_text(_signed(doc), encoding="utf-8")


def check_store(folder: Path, whose: str | None = None) -> None:
    """Compare a zarr store with its seal. One that has none only has to be made of files and folders.

    Errors: `OSError`, `ValueError` in words: a file that is changed, missing, new or no file; changed
    metadata; another text `whose`.
    """
    try:
        text = _small(folder / _ROOT).decode()
        doc = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{_ROOT} is not JSON") from error
    try:
        seal = doc["consolidated_metadata"][_SEAL]
    except (LookupError, TypeError):
        for path in folder.rglob("*"):
            if not (path.is_file() or path.is_dir()):
                raise ValueError(f"{path.relative_to(folder)} is not a regular file") from None
        return
    try:
        if text != _signed(doc):
            raise ValueError(f"{_ROOT} is not what was written")
        known, found = seal["files"], _file_digests(folder)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{_ROOT} is not what was written") from error
    except OSError as error:
        name = Path(error.filename).relative_to(folder).as_posix()
        raise ValueError(f"{name}: {error.strerror}") from error
    if wrong := sorted(name for name in {*known, *found} if known.get(name) != found.get(name)):
        what = "missing" if wrong[0] not in found else "not what was written"
        raise ValueError(f"{wrong[0]} is {what}")
    if seal["whose"] != whose:
        raise ValueError("it is of another folder")


def _signed(doc: dict[str, Any]) -> str:
    """Metadata as text, with their digest in the seal."""
    seal = doc["consolidated_metadata"][_SEAL]
    seal.pop("metadata", None)
    seal["metadata"] = hashlib.sha256(json.dumps(doc, indent=1).encode()).hexdigest()
    return json.dumps(doc, indent=1) + "\n"


def _file_digests(folder: Path) -> dict[str, str]:
    """{path below the folder: SHA-256} of files but the root. Errors: `OSError`, also for a link, a pipe."""
    found = {}
    for place, folders, names in os.walk(folder):
        for name in sorted(names + [f for f in folders if Path(place, f).is_symlink()]):
            with _regular(Path(place, name)) as file:
                found[Path(place, name).relative_to(folder).as_posix()] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    found.pop(_ROOT, None)
    return dict(sorted(found.items()))


def _small(path: Path) -> bytes:
    """What a file of metadata holds. Errors: `OSError`, also for a link, a pipe or a huge file."""
    with _regular(path) as file:
        data = file.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise OSError(errno.EFBIG, f"it has more than {_LIMIT >> 20} MiB", str(path))
    return data


def _regular(path: Path) -> BufferedReader:
    """Open a file to read it; nothing else is followed, or waited for."""
    more = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if stat.S_ISREG(os.lstat(path).st_mode):
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | more))
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))
