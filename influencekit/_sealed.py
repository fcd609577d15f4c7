"""Files that say what they should hold: JSON text with a digest of itself, and folders file by file."""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

__all__ = ["file_digests", "read_sealed", "sealed"]

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
    with _regular(path) as file:
        data = file.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise OSError(errno.EFBIG, f"it has more than {_LIMIT >> 20} MiB")
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


def file_digests(folder: Path) -> dict[str, str]:
    """{path below the folder: SHA-256} of every file. Errors: `OSError`, also for a link or a pipe."""
    found = {}
    for place, folders, names in os.walk(folder):
        for name in sorted(names + [f for f in folders if Path(place, f).is_symlink()]):
            with _regular(Path(place, name)) as file:
                found[Path(place, name).relative_to(folder).as_posix()] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    return dict(sorted(found.items()))


def _regular(path: Path) -> BufferedReader:
    """Open a file to read it; nothing else is followed, or waited for."""
    more = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if stat.S_ISREG(os.lstat(path).st_mode):
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | more))
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))
