"""Files, folders and stores that are whole or not there; a folder that one process writes to."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Protocol

import numpy as np
import xarray as xr
import zarr
from zarr.core.buffer import default_buffer_prototype

from influencekit.errors import InputError, StoreError

__all__ = ["Files", "Folder", "Memory", "NewStore", "hold", "is_held", "save_zarr", "whole"]

_PARTIAL = ".partial"  # the end of the name of what is being written


@contextmanager
def whole(goal: Path) -> Iterator[Path]:
    """A path that takes the place of `goal`, a file or an empty or absent folder, if the block ends well.

    One act of the file system; whatever stops the block leaves what was there before. What is written lies
    in a folder of its own beside the goal until then. Errors: `OSError`.
    """
    scratch = _scratch(goal)
    try:
        yield scratch / goal.name
        os.replace(scratch / goal.name, goal)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _scratch(goal: Path) -> Path:
    return Path(mkdtemp(prefix=f".{goal.name}.", suffix=_PARTIAL, dir=goal.absolute().parent))


def save_zarr(dataset: xr.Dataset, path: Path, mode: Any = "w-") -> None:
    """A labelled dataset as a zarr v3 group; `mode="a"` adds to one that is there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr 3 has no specification of strings and consolidated metadata
        dataset.to_zarr(path, mode=mode, zarr_format=3, consolidated=True)


class NewStore:
    """A labelled zarr store with arrays too large for memory, which appears at `path` when it is complete.

    `array` makes an array to be filled piece by piece, `commit` adds the labels and publishes the store, and
    `discard` removes what was written of one that was not. Errors: a path that exists; a full disk.

    Example:

        >>> import tempfile
        >>> import xarray as xr
        >>> from influencekit.extend import NewStore
        >>> path = f"{tempfile.mkdtemp()}/squares.zarr"
        >>> store = NewStore(path)
        >>> array = store.array("square", (3,), ("step",), "float64", (3,))
        >>> array[:] = [0.0, 1.0, 4.0]
        >>> store.commit(xr.Dataset(coords={"step": [0, 1, 2]}))
        >>> float(xr.open_zarr(path, chunks=None).square.sel(step=2))
        4.0
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists():
            raise InputError(f"{path} exists already; choose another path")
        try:
            self._scratch = _scratch(self.path)
        except OSError as error:
            raise self._refusal(error) from error
        self.folder = self._scratch / self.path.name

    def array(
        self, name: str, shape: Sequence[int], dims: Sequence[str], dtype: Any, chunks: Sequence[int],
        compressors: Any = "auto",
    ) -> zarr.Array:  # fmt: skip
        """An array in chunks; what is lost of it reads as NaN."""
        return zarr.create_array(
            str(self.folder), name=name, shape=tuple(shape), chunks=tuple(chunks), dtype=dtype,
            fill_value=np.nan, dimension_names=tuple(dims), compressors=compressors,
            config={"write_empty_chunks": True},
        )  # fmt: skip

    def commit(self, labels: xr.Dataset) -> None:
        """Add the small arrays, coordinates and attributes, and publish the store in one act."""
        try:
            save_zarr(labels, self.folder, mode="a")
            os.rename(self.folder, self.path)
        except OSError as error:
            raise self._refusal(error) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what is not published."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _refusal(self, error: OSError) -> StoreError:
        return StoreError(f"{self.path} cannot be written: {error.strerror or error}")


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


def is_held(folder: Path) -> bool:
    """Whether this process or another is writing there. Where the system has no such locks, False."""
    try:
        import fcntl
    except ImportError:
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
