"""A folder that keeps pieces of a result from call to call: one process writes it, its first file says what
it is of."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from influencekit._files.open_folder import hold
from influencekit._files.scratch import sweep, whole
from influencekit.errors import StoreError

__all__ = ["claim", "in_the_way", "keep_out_of_stores", "unmade"]

T = TypeVar("T")


def claim(
    path: Path, first: str, text: str, what: str, look: Callable[[], T]
) -> tuple[Callable[[], None], T]:
    """Hold the folder at `path`, made if it is not there, and give what releases it and what `look` finds.

    The file `first` is written with `text` where the folder is empty. Errors: a folder inside a store; one
    without this file that is not empty, so not one of `what`; one that another process holds, or that cannot
    be written; those of `look`, after which the folder is released.
    """
    release: Callable[[], None] = lambda: None  # noqa: E731
    try:
        keep_out_of_stores(path)
        path.mkdir(parents=True, exist_ok=True)
        release = hold(path)
        sweep(path)
        if not os.path.lexists(path / first):
            if any(path.iterdir()):
                raise StoreError(f"{path} is not a folder of {what}; name a new one")
            with whole(path / first) as beside:
                beside.write_text(text, encoding="utf-8")
        return release, look()
    except BaseException as error:
        release()
        if isinstance(error, OSError):
            raise unmade(path, error) from error
        raise


def keep_out_of_stores(path: Path) -> None:
    """Errors: a folder inside a zarr store, where each file is one of the store's own."""
    for above in path.absolute().parents:
        if (above / "zarr.json").is_file():
            raise StoreError(f"{path} lies inside the store {above}; name a folder elsewhere")


def unmade(path: Path, error: Exception) -> StoreError:
    """The error for a folder that could not be made, or written to; a file in its place is named."""
    said = getattr(error, "strerror", None) or error
    return in_the_way(path) or StoreError(f"{path} cannot be written: {said}")


def in_the_way(path: Path) -> StoreError | None:
    """The error for a file that stands where a folder is to be, or above it."""
    there = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if there.is_dir():
        return None
    where = "is a file" if there == path else f"lies below {there}, which is a file"
    return StoreError(f"{path} {where}: expected a folder that keeps what is done; name one, or a new path")
