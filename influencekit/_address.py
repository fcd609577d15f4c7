"""What a user may write where a file or a folder is meant: a path of this machine; or to read, an address."""

import errno
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from influencekit.errors import InputError

__all__ = ["local", "place"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::|:/)")  # two letters at least: C:/ is a drive
_FILE = re.compile(r"(?i:file):(//(localhost)?)?(?=/(?!/))")
_REMOTE = re.compile(r"(?i:s3|gs|https?)://")
_HERE = {"localhost", "127.0.0.1", "::1"}


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
            f"{text} is an address; recorded runs are read from s3://, gs:// and https:// addresses, and all "
            "else is a file or a folder here: choose a path of this machine, and copy it from or to there"
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


def place(path: Any) -> Path | str:
    """Where to read a recorded run: the path that is meant (`local`), or an address as it is (s3://bucket/...,
    gs://bucket/..., https://host/...), without a slash at its end.

    Errors: `InputError` as of `local`, for http:// of another machine, and for addresses with a password, a
    query or a fragment.
    """
    text = os.fsdecode(path) if isinstance(path, str | bytes) else ""
    if not _REMOTE.match(text):
        return local(path)
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{text[:200]} is no address that can be read ({error})") from None
    secret = parts.username is not None or parts.password is not None
    if secret or parts.query or parts.fragment or not host or not text.isprintable() or " " in text:
        shown = "the address" if secret or parts.query else repr(text[:200])  # there may be a key in it
        raise InputError(
            f"{shown}: expected s3://bucket/run.zarr, gs://bucket/run.zarr or https://host/run.zarr, without "
            "user, password, query and spaces; credentials are read from the environment (docs/store.md)"
        )
    if parts.scheme.lower() == "http" and host not in _HERE:
        raise InputError(
            f"{text[:200]}: what comes over http may be changed on its way; use https, or a tunnel to "
            "http://localhost"
        )
    return f"{parts.scheme.lower()}://{text.partition('://')[2].rstrip('/')}"
