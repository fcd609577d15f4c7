"""Files that are whole or not there, and a folder that one process at a time writes to."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import zarr
from zarr.core.buffer import default_buffer_prototype

from influencekit.errors import StoreError

__all__ = ["Files", "Folder", "Memory", "hold"]

_PARTIAL = ".partial"  # the end of the name of a file that is being written


class Files(Protocol):
    """Where the chunks and the metadata go."""

    @property
    def store(self) -> Any:
        """What zarr and xarray open."""

    def put(self, key: str, data: Any) -> None:
        """Write one file. A process that is killed meanwhile leaves what the file held before."""


class Folder:
    """Files below a folder. A file is written beside its place and then renamed, which is one act."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def store(self) -> str:
        return str(self.root)

    def put(self, key: str, data: Any) -> None:
        target = self.root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(target.name + _PARTIAL)
        try:
            with open(beside, "wb") as file:
                file.write(data)
            os.replace(beside, target)
        except OSError:
            beside.unlink(missing_ok=True)
            raise

    def tidy(self) -> None:
        """Remove what a killed process had not finished."""
        for file in list(self.root.rglob("*" + _PARTIAL)):
            file.unlink()


class Memory:
    """The same in memory."""

    def __init__(self) -> None:
        self._files: dict[str, Any] = {}
        self._store = zarr.storage.MemoryStore(self._files)

    @property
    def store(self) -> zarr.storage.MemoryStore:
        return self._store

    def put(self, key: str, data: Any) -> None:
        self._files[key] = default_buffer_prototype().buffer.from_bytes(bytes(data))


def hold(folder: Path) -> Callable[[], None]:
    """Keep other processes from writing there, until the returned function is called or this one ends.

    Errors: another process holds it. Where the system has no such locks, nothing is held.
    """
    try:
        import fcntl
    except ImportError:
        return lambda: None
    held = [os.open(folder, os.O_RDONLY)]

    def release() -> None:
        while held:
            os.close(held.pop())

    try:
        fcntl.flock(held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        release()
        raise StoreError(f"{folder} is being written by another process; wait for it, or end it") from error
    except OSError:  # a file system without locks
        release()
    # a worker that was forked would keep it after this process was killed
    os.register_at_fork(after_in_child=release)
    return release
