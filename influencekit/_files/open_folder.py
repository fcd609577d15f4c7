"""A folder that is open, so that it stays the same one whatever becomes of its name; and its lock."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from weakref import WeakSet

from influencekit.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["HAS_DIR_FD", "OpenFolder", "hold", "identity", "is_held"]

HAS_DIR_FD = os.open in os.supports_dir_fd  # not on Windows

_PATIENCE = 0.2  # seconds in which a look at the lock (`is_held`) is over


def identity(stat: os.stat_result) -> tuple[int, int]:
    """What a file or folder is, under any name."""
    return stat.st_dev, stat.st_ino


class OpenFolder:
    """The folder that was at `path` when it was opened. `follow`: through a link at the end of `path`.

    A forked child does not have it: a worker that outlives its parent must not keep the lock.
    Errors: `OSError`.
    """

    def __init__(self, path: Path, follow: bool = True) -> None:
        self.path, self.fd = path, -1
        if HAS_DIR_FD:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | (0 if follow else os.O_NOFOLLOW))
        self.stat = os.fstat(self.fd) if HAS_DIR_FD else os.stat(path, follow_symlinks=follow)
        _OPEN.add(self)

    def close(self) -> None:
        """Let go of it, and of its lock. May be called again."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def lock(self, patience: float = _PATIENCE) -> bool | None:
        """Whether this process has it for itself now; None where the file system has no locks."""
        until = time.monotonic() + patience
        while fcntl is not None and self.fd >= 0:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() >= until:
                    return False
                time.sleep(0.01)
            except OSError:
                break
        return None

    def hold(self) -> None:
        """Keep other processes from writing there, until it is closed or this one ends.

        Where the file system has no locks, nothing is held. Errors: another process holds it.
        """
        if self.lock() is False:
            raise StoreError(f"{self.path} is being written by another process; wait for it, or end it")

    def is_here(self, follow: bool = True) -> bool:
        """Whether its path still leads to it."""
        try:
            return identity(os.stat(self.path, follow_symlinks=follow)) == identity(self.stat)
        except OSError:
            return False

    def whereabouts(self) -> str | None:
        """The path that it has now, as far as the system says; None where it was removed."""
        try:
            now = os.readlink(f"/proc/self/fd/{self.fd}")
            return now if identity(os.stat(now)) == identity(self.stat) else None
        except OSError:
            return None


_OPEN = WeakSet[OpenFolder]()


def _forked() -> None:
    for folder in list(_OPEN):
        folder.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def hold(folder: Path) -> Callable[[], None]:
    """Keep other processes from writing there, until the returned function is called or this one ends.

    Errors: another process holds it. Where the file system has no locks, nothing is held.

    Example:

        >>> import tempfile
        >>> from pathlib import Path
        >>> from influencekit.extend import hold
        >>> folder = Path(tempfile.mkdtemp())
        >>> release = hold(folder)  # a second call fails until this one is over
        >>> release()
    """
    if fcntl is None:
        return lambda: None
    opened = OpenFolder(folder)
    try:
        opened.hold()
    except StoreError:
        opened.close()
        raise
    return opened.close


def is_held(folder: Path) -> bool:
    """Whether this process or another is writing there. Where the file system has no locks, False."""
    if fcntl is None:
        return False
    looked = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(looked, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(looked)
    return False
