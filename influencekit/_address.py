"""What a user may write where a file or a folder is meant: a path of this machine, and nothing else."""

import errno
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from influencekit.errors import InputError

__all__ = ["local"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::|:/)")  # two letters at least: C:/ is a drive
_FILE = re.compile(r"(?i:file):(//(localhost)?)?(?=/(?!/))")


def local(path: Any) -> Path:
    """The path that is meant: `~` and `file://` are expanded.

    Errors: `InputError` for an address elsewhere (s3://, gs://, memory://, http://, zip::...), an empty path,
    a zero byte, a name too long for the file system, a `~` of nobody, and what is no path at all.

    Example:

        >>> from influencekit.extend import local
        >>> local("file:///data/run.zarr").as_posix()
        '/data/run.zarr'
    """
    if not isinstance(path, str | bytes | os.PathLike):
        raise InputError(f"expected a path, got {type(path).__name__}")
    text = os.fsdecode(path)
    if match := _FILE.match(text):
        text = unquote(text[match.end() :])
    elif _SCHEME.match(text):
        raise InputError(
            f"{text} is an address, and stores and results are local files and folders: choose a path of "
            "this machine, and copy it from or to there"
        )
    if not text or "\0" in text:
        raise InputError(f"expected a path, got {f'{text}, which holds a zero byte' if text else 'no text'}")
    try:
        found = Path(text).expanduser()
        os.lstat(found)
    except RuntimeError:
        raise InputError(f"{text}: there is no such user; write ./{text} for a file of that name") from None
    except UnicodeEncodeError:  # halves of surrogate pairs
        raise InputError(f"{text[:40]} is no name of a file; choose another path") from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise InputError(f"{text[:40]}...: {error.strerror}; choose another path") from error
    return found
