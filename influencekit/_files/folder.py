"""The folder of a store that one process writes to, and the same in memory."""

import os
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from stat import S_ISREG
from typing import Any, Protocol, Self

import zarr
from zarr.core.buffer import default_buffer_prototype

from influencekit._files.open_folder import HAS_DIR_FD, OpenFolder, identity
from influencekit._files.publishing import publish
from influencekit._files.scratch import PARTIAL, Scratch
from influencekit.errors import StoreError

__all__ = ["Files", "Folder", "Memory", "MovedError"]

_ROOT = "zarr.json"  # the document of the root, whose writing is a commit


class MovedError(StoreError):
    """What is being written is not where it was, or not all of it."""


class Files(Protocol):
    """Where the chunks and the metadata go."""

    @property
    def store(self) -> Any:
        """What zarr and xarray open."""

    def put(self, key: str, data: Any) -> None:
        """Write one file. A process that is killed meanwhile leaves what the file held before."""

    def release(self) -> None:
        """Let other processes write there; nothing more is put."""

    def reopen(self) -> None:
        """Go on after `release`. Errors: it is another folder, or another process has written there."""

    def remove(self) -> None:
        """Remove what this process made, and let go of it."""


class Folder:
    """Files below the folder that is at `root` now. A file is written beside its place and then renamed,
    which is one act.

    Everything goes into that folder, under whatever name it may have by then, and nothing into another one.
    No link below it is followed, and a folder below it that disappears is not made again. When the root's
    document is written, which is the commit, the folder must be at `root` still, with the folders of its
    arrays, and the document must be the one that was written last. `durable`: what a commit refers to is on
    the disk before it, and the commit itself when `put` returns.
    Errors: `OSError`; `MovedError`, which says where the folder is now.
    """

    def __init__(self, root: Path, durable: bool = False, made: Scratch | None = None) -> None:
        self.root, self.durable = root.absolute(), durable
        self._made = made  # by this process
        self._opened = made.opened if made else OpenFolder(self.root)
        self._beside = f".{token_hex(8)}{PARTIAL}"
        self._folders: dict[str, tuple[int, int]] = {}  # those of the arrays: what they are
        self._document: Any = None  # what the root's document is
        self._unsynced = set[str]()

    @classmethod
    def create(cls, goal: Path, durable: bool = False) -> Self:
        """A new folder, hidden until `publish` gives it the name `goal`."""
        scratch = Scratch(goal)
        return cls(scratch.path, durable, scratch)

    @property
    def store(self) -> str:
        return str(self.root)

    def publish(self, goal: Path) -> None:
        """Give a new folder its name. Errors: something is there (`InputError`)."""
        self.check()
        publish(self.root, goal)
        self.root = self._opened.path = goal.absolute()
        self._sync_above()

    def put(self, key: str, data: Any) -> None:
        folder, _, name = key.rpartition("/")
        try:
            self.check(arrays=key == _ROOT)
            if key == _ROOT:
                self._document = None  # until it is known again: this process changes it, whatever stops it
            if HAS_DIR_FD:
                self._put_inside(folder, name, data)
            else:
                self._put_by_path(self.root / key, data)
        except OSError:
            self.check()  # a folder that was removed is not the fault of the disk
            raise
        if key == _ROOT:
            self._document = self._seen()
            self.check()

    def _put_inside(self, folder: str, name: str, data: Any) -> None:
        if not folder:
            self._sync_folders()
        inside = self._open(folder)
        try:
            self._write(inside, name, data)
            if self.durable and not folder:
                os.fsync(inside)
            self._unsynced.add(folder)
        finally:
            os.close(inside)

    def _write(self, inside: int, name: str, data: Any) -> None:
        beside = name + self._beside
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            with open(os.open(beside, flags, 0o666, dir_fd=inside), "wb") as file:
                file.write(data)
                if self.durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(beside, name, src_dir_fd=inside, dst_dir_fd=inside)
        except BaseException:
            with suppress(OSError):
                os.unlink(beside, dir_fd=inside)
            raise

    def _put_by_path(self, target: Path, data: Any) -> None:
        """Where the system knows files by their paths alone."""
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(target.name + self._beside)
        try:
            beside.write_bytes(data)
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)

    def _open(self, folder: str) -> int:
        """A folder below the root, opened; made if it never was there."""
        fd, path = os.dup(self._opened.fd), ""
        for part in folder.split("/") if folder else ():
            try:
                above, path = path, f"{path}/{part}" if path else part
                if path not in self._folders:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=fd)
                        self._unsynced.add(above)
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
            self._remember(path, fd)
        return fd

    def _remember(self, path: str, fd: int) -> None:
        """What the folders of arrays are; those of chunks are too many to look at in every commit."""
        if path.count("/") < 2:
            self._folders.setdefault(path, identity(os.fstat(fd)))

    def _sync_folders(self) -> None:
        for folder in self._unsynced if self.durable else ():
            fd = self._open(folder)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        self._unsynced.clear()

    def _sync_above(self) -> None:
        """Have its own name on the disk, and those of the folders above it, which may be as new."""
        for above in self.root.parents if self.durable else ():
            with suppress(PermissionError):
                fd = os.open(above, os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    # the folder as a whole ----------------------------------------------------------------------------

    def check(self, arrays: bool = True) -> None:
        """Errors: it is not at its path any more, another process writes it, or one of its arrays is not
        there (`MovedError`)."""
        if not self._opened.is_here():
            now = self._opened.whereabouts()
            left = f"it is at {now} now: move it back, and resume" if now else "look for it where it went"
            raise MovedError(f"{self.root} was renamed, removed or replaced while it was written; {left}")
        if self._document is not None and self._seen() != self._document:
            raise MovedError(f"{self.root / _ROOT} was changed by another process while it was written")
        for path, known in self._folders.items() if arrays else ():
            if self._seen(path)[:2] != known:
                raise MovedError(f"{self.root / path} was removed or replaced while it was written")

    def _seen(self, path: str = _ROOT) -> tuple[int, ...]:
        """What is at a path below the root: its identity, and which state of it."""
        with suppress(OSError):
            fd = self._opened.fd
            stat = (
                os.stat(path, dir_fd=fd, follow_symlinks=False)
                if HAS_DIR_FD
                else os.stat(self.root / path, follow_symlinks=False)
            )
            return *identity(stat), stat.st_size, stat.st_mtime_ns
        return ()

    def hold(self) -> None:
        """Keep other processes from writing there. Errors: one does."""
        self._opened.hold()
        self._document = self._seen()

    def release(self) -> None:
        self._opened.close()

    def reopen(self) -> None:
        again = OpenFolder(self.root)
        before, self._opened = self._opened, again
        try:
            again.hold()
            if identity(again.stat) != identity(before.stat) or self._seen() != self._document:
                raise StoreError(f"{self.root} has been continued by another recording; open it anew")
        except StoreError:
            again.close()
            raise

    def remove(self) -> None:
        if self._made is not None:
            self._made.remove()
        self.release()

    def tidy(self) -> None:
        """Remove the files that a killed process had not finished; and know the folders that are there.

        With `durable`, what is there is on the disk then.
        """
        if not HAS_DIR_FD:
            for left in list(self.root.rglob("*" + PARTIAL)):
                left.unlink()
            return
        for base, _, names, inside in os.fwalk(".", dir_fd=self._opened.fd):
            for name in names:
                regular = S_ISREG(os.stat(name, dir_fd=inside, follow_symlinks=False).st_mode)
                if regular and name.endswith(PARTIAL):
                    os.unlink(name, dir_fd=inside)
                elif regular and self.durable:
                    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=inside), "rb") as file:
                        os.fsync(file.fileno())
            if self.durable:
                os.fsync(inside)
            if base != ".":
                self._remember(base.removeprefix("./"), inside)
        self._sync_above()


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

    def release(self) -> None:
        pass

    reopen = remove = release
