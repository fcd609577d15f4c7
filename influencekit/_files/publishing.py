"""Give something the name that it is to have, if nothing has it yet: one act of the file system."""

import ctypes
import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from influencekit.errors import InputError

__all__ = ["publish"]

_NO_REPLACE = 1  # RENAME_NOREPLACE
_HERE = -100  # AT_FDCWD
_NOT_KNOWN = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}  # an old kernel, a file system without it
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}


def publish(source: Path, goal: Path) -> None:
    """Rename `source`, a folder or a file near `goal`, to `goal`.

    Of two processes that do this at once, one does it, and the other's `source` stays where it is. Errors:
    something is there, be it an empty folder or a link that leads nowhere (`InputError`); `OSError`.
    """
    try:
        if not _renamed(source, goal):
            _rename(source, goal)
    except OSError as error:
        if error.errno in _TAKEN and os.path.lexists(goal):
            raise InputError(f"{goal} exists already; choose another path") from error
        raise


def _renamed(source: Path, goal: Path) -> bool:
    """Rename in one act that replaces nothing; False where the system has none."""
    call = _renameat2()
    if call is None:
        return False
    if call(_HERE, os.fsencode(source), _HERE, os.fsencode(goal), _NO_REPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_KNOWN:
        return False
    raise OSError(number, os.strerror(number), str(goal))


def _renameat2() -> Any:
    with suppress(OSError, AttributeError, TypeError):  # TypeError: Windows has no library of the process
        return ctypes.CDLL(None, use_errno=True).renameat2
    return None


def _rename(source: Path, goal: Path) -> None:
    """Elsewhere: a file is linked; a folder takes the place of nothing but an empty one made just now."""
    if os.path.lexists(goal):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(goal))
    if not source.is_dir():
        try:
            os.link(source, goal)
            os.unlink(source)
            return
        except OSError as error:
            if error.errno not in _NOT_KNOWN | {errno.EPERM}:  # of a file system without links
                raise
    os.rename(source, goal)
