"""Where results go on disk, whole or not at all: a new folder, a new file, a file that is replaced."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import permutations
from pathlib import Path

from influencekit.errors import InfluenceKitError, InputError

__all__ = ["check_places", "new_file", "new_folder", "replaced_file"]


_FILLED = ("--subsets", "--keep", "--slices")  # folders that keep what calls do


def check_places(places: dict[str, str | None]) -> None:
    """Refuse {option: path}s that are the same, one inside another, or inside a store; a folder that is
    filled from call to call may be none itself."""
    real = {option: Path(os.path.realpath(path)) for option, path in places.items() if path is not None}
    for option, path in real.items():
        for folder in (path, *path.parents) if option in _FILLED else path.parents:
            if (folder / "zarr.json").is_file():
                where = "is a store" if folder == path else f"lies inside the store {folder}"
                raise InputError(f"{option} {places[option]} {where}; choose a path elsewhere")
    for (one, path), (other, folder) in permutations(real.items(), 2):
        if path == folder or folder in path.parents:
            where = "is the same path as" if path == folder else "lies inside"
            raise InputError(f"{one} {places[one]} {where} {other} {places[other]}; choose another path")


_NEW = ".influencekit-new"  # in a folder that is being filled


@contextmanager
def new_folder(path: str | None, option: str = "--out") -> Iterator[Path | None]:
    """A temporary folder beside `path` that takes its place when the block ends well, else disappears.

    Made before the work begins, so that what cannot be written is known before it is computed. An empty
    folder that is there is filled at the end, and stays what it is: a mount, a link. Errors: `path` is there
    and not an empty folder, or cannot be made.
    """
    if path is None:
        yield None
        return
    goal = Path(path)
    _sweep(goal)
    _sweep(goal / _NEW)
    there = goal.is_dir()
    if there and (goal / _NEW).is_dir() and not (goal / _NEW).is_symlink():
        with _told(goal, option):  # a process that was killed was filling it, with what is whole
            _fill(goal)
    if os.path.lexists(goal) and not (there and not any(goal.iterdir())):
        kind = "a folder that is not empty" if there else "a file"
        raise InputError(f"{option} {path} is {kind}; choose a new one")
    with _told(goal, option), _whole(goal / _NEW if there else goal, new=True) as partial:
        partial.mkdir()
        yield partial
    if there:
        with _told(goal, option):
            _fill(goal)


def _fill(goal: Path) -> None:
    for each in (goal / _NEW).iterdir():
        each.rename(goal / each.name)
    (goal / _NEW).rmdir()


@contextmanager
def new_file(path: str | None, option: str = "--out") -> Iterator[Path | None]:
    """As `new_folder`, for one file (or one zarr store)."""
    if path is None:
        yield None
        return
    _sweep(Path(path))
    if os.path.lexists(path):
        raise InputError(f"{option} {path} exists already; choose another name")
    with _told(Path(path), option), _whole(Path(path), new=True) as partial:
        yield partial


@contextmanager
def replaced_file(path: str | None, option: str) -> Iterator[Path | None]:
    """As `new_file`, over a file that is there, which keeps its mode; through a link, what it leads to.

    What is no file of a disk (a pipe, a device) is never replaced, but written to.
    """
    if path is None:
        yield None
        return
    goal = Path(path)
    try:
        there = os.stat(goal)
    except OSError:
        there = None
    if there is not None and stat.S_ISDIR(there.st_mode):
        raise InputError(f"{option} {path} is a folder; choose another name")
    with _told(goal, option):
        if there is not None and not os.access(goal, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if there is not None and not stat.S_ISREG(there.st_mode):
            yield goal
            return
        with _whole(Path(os.path.realpath(goal))) as partial:
            yield partial
            if there is not None:
                partial.chmod(stat.S_IMODE(there.st_mode))


def _sweep(goal: Path) -> None:
    """Remove what killed processes left beside it."""
    from influencekit._files import sweep

    sweep(goal.absolute().parent, goal.name)


@contextmanager
def _whole(goal: Path, new: bool = False) -> Iterator[Path]:
    """A path that takes the place of `goal`, whose folder is made, and removed if nothing comes to be."""
    from influencekit._files import whole

    parents = [p for p in goal.absolute().parents if not p.exists()]
    try:
        goal.absolute().parent.mkdir(parents=True, exist_ok=True)
        with whole(goal, new) as partial:
            yield partial
        parents = []
    finally:
        for parent in parents:  # innermost first
            with suppress(OSError):
                parent.rmdir()


@contextmanager
def _told(goal: Path, option: str) -> Iterator[None]:
    """Errors of the file system about `goal`, or about what is made beside it, in one line."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(goal.absolute().parent)):
            raise
        raise InfluenceKitError(
            f"{option} {goal} cannot be written: {error.strerror or error}; nothing was left there"
        ) from error
