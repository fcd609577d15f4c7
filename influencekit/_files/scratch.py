"""Hidden folders in which things are made until they are whole, and what killed processes left of them."""

import hashlib
import os
import re
import secrets
import shutil
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from influencekit._files.open_folder import OpenFolder
from influencekit._files.publishing import publish

__all__ = ["PARTIAL", "Scratch", "sweep", "whole"]

PARTIAL = ".partial"  # the end of the name of what is being written

_LEFT = re.compile(r"\.(?P<goal>.+)\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{16}\.partial")
_LONGEST = 180  # bytes of a goal's name in that of its hidden folder, of the 255 that a name may have
_DAY = 86400.0


class Scratch:
    """A new folder beside `goal`, hidden and of a name of its own, locked while this process uses it.

    What killed processes left beside `goal` is removed before (`sweep`). Errors: `OSError`.
    """

    def __init__(self, goal: Path) -> None:
        parent = goal.absolute().parent
        sweep(parent, goal.name)
        self._process = os.getpid()
        while True:
            name = f".{_short(goal.name)}.{_host()}-{self._process}-{secrets.token_hex(8)}{PARTIAL}"
            path = parent / name
            with suppress(FileExistsError):  # what is there already is not ours
                path.mkdir()
                try:
                    self.opened = OpenFolder(path, follow=False)
                except OSError:  # too many open files
                    path.rmdir()
                    raise
                if self.opened.lock() is not False and self.opened.is_here(follow=False):
                    return
                self.opened.close()  # another process took it for one that was left

    @property
    def path(self) -> Path:
        """Where it is; or the name that it was given since."""
        return self.opened.path

    def remove(self) -> None:
        """Remove it with all that is in it, if it is where it was, and this is the process that made it."""
        if os.getpid() == self._process and self.opened.is_here(follow=False):
            shutil.rmtree(self.path, ignore_errors=True)
        self.opened.close()


@contextmanager
def whole(goal: Path, new: bool = False) -> Iterator[Path]:
    """A path that takes the place of `goal`, a file or an empty or absent folder, if the block ends well.

    One act of the file system; whatever stops the block leaves what was there before. What is written lies
    in a folder of its own beside the goal until then. `new`: nothing may be there, also not since the block
    began (`InputError`). Errors: `OSError`.

    Example:

        >>> import tempfile
        >>> from pathlib import Path
        >>> from influencekit.extend import whole
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with whole(path) as beside:
        ...     _ = beside.write_text("all of it, or nothing")
        >>> path.read_text()
        'all of it, or nothing'
    """
    scratch = Scratch(goal)
    try:
        made = scratch.path / goal.name
        yield made
        if new:
            publish(made, goal)
        else:
            os.replace(made, goal)
    finally:
        scratch.remove()


def sweep(parent: Path, goal: str | None = None) -> None:
    """Remove the hidden folders of processes that are gone: those made for the name `goal`, or all.

    Only folders of this user that a `Scratch` made. One whose process lives is locked. Where there are no
    locks, one of this machine goes if no process has its number; and one of another machine, which may not
    see our locks, goes if it has not changed for a day and is not locked.

    Example:

        >>> import os
        >>> import tempfile
        >>> from pathlib import Path
        >>> from influencekit.extend import sweep
        >>> folder = Path(tempfile.mkdtemp())
        >>> sweep(folder)
        >>> os.listdir(folder)
        []
    """
    with suppress(OSError):
        for name in os.listdir(parent):
            found = _LEFT.fullmatch(name)
            if found is not None and (goal is None or found["goal"] == _short(goal)):
                with suppress(OSError):
                    _remove_left(parent / name, found["host"] == _host(), int(found["pid"]))


def _remove_left(path: Path, ours: bool, process: int) -> None:
    opened = OpenFolder(path, follow=False)
    try:
        locked = opened.lock(patience=0)
        if locked is None:
            gone = ours and not _lives(process)
        else:
            gone = locked and (ours or time.time() - opened.stat.st_mtime > _DAY)
        mine = not hasattr(os, "getuid") or opened.stat.st_uid == os.getuid()
        if gone and mine and opened.is_here(follow=False):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        opened.close()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


@cache
def _host() -> str:
    """This machine, or container, as far as the numbers of its processes go."""
    own = socket.gethostname()
    with suppress(OSError):
        own += os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(own.encode()):08x}"


def _short(name: str) -> str:
    encoded = os.fsencode(name)
    return name if len(encoded) <= _LONGEST else hashlib.sha256(encoded).hexdigest()[:32]
