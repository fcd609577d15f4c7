"""A folder that keeps pieces of retraining from call to call: each whole or not there, of one run alone."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import xarray as xr

from influencekit import __version__
from influencekit._files import claim, save_zarr, whole
from influencekit._sealed import check_store, read_sealed, sealed
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.results import run_of
from influencekit.errors import StoreError
from influencekit.interfaces import Query

__all__ = ["KeptPieces", "run_head"]

SCHEMA = 1

_VERSION = "influencekit_version"


def run_head(trajectory: Trajectory, query: Query) -> dict[str, Any]:
    """Of which run pieces are: its settings, where it ends to the last bit, and the test set of the query.

    The end tells apart what settings do not, such as one other label or another loss. It also differs on
    another machine or with another number of threads, where training rounds otherwise.
    """
    _, end, test = run_of(trajectory, query).split("-")
    return {"run": trajectory.attrs["fingerprint"], "end of training": end, "test set": test}


class KeptPieces:
    """The file `first` says of what the folder is, `head`; `NAME.zarr` is a piece. Both have digests, and
    those of the pieces are bound to what `first` says. `form` is the entry that holds the format's number.

    Errors: a folder of something else, of another head, or that another process writes; a damaged piece; a
    full disk (what was kept stays).
    """

    def __init__(self, path: Path, first: str, form: str, head: Mapping[str, Any]) -> None:
        self.path, self._first, self._form = path, first, form
        text = sealed({form: SCHEMA, _VERSION: __version__, **head}, indent=1)
        self._release, self._bound = claim(path, first, text, "effects", lambda: self._compared(head))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def names(self) -> list[str]:
        """Of the pieces that are there."""
        return sorted(file.stem for file in self.path.glob("*.zarr"))

    def read(
        self, name: str, forms: Mapping[str, tuple[int, ...]], attrs: Sequence[str] = ()
    ) -> xr.Dataset | None:
        """A piece; None where it is not there. `forms`: its variables, with shapes in which -1 is any number;
        `attrs`: what it must have, too."""
        file = self.file(name)
        if not os.path.lexists(file):
            return None
        try:
            check_store(file, self._bound)
            piece = xr.open_zarr(file, consolidated=False, chunks=None).load()
            if not all(_fits(piece[each].shape, shape) for each, shape in forms.items()):
                raise ValueError("it has not the shape of these effects")
            if missing := {*attrs} - {*piece.attrs}:
                raise ValueError(f"it has no {', '.join(sorted(missing))}")
        except Exception as error:  # every codec has its own exceptions
            why = getattr(error, "strerror", None) or error
            raise StoreError(f"{file} is damaged ({why}); delete it, and it is retrained") from error
        return piece

    def write(self, name: str, piece: xr.Dataset) -> None:
        """Keep a piece."""
        file = self.file(name)
        try:
            with whole(file) as beside:
                save_zarr(piece, beside, whose=self._bound)
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(f"{file} cannot be written: {reason}; what was kept before stays") from error

    def file(self, name: str) -> Path:
        """Where a piece is."""
        return self.path / f"{name}.zarr"

    def _compared(self, mine: Mapping[str, Any]) -> str:
        """A digest of what the folder is of. Errors: it is of something else, naming what differs."""
        path, head = self.path, self.path / self._first
        try:
            theirs, known = read_sealed(head, indent=1)
            if (
                not known
                or theirs.keys() != {*mine, self._form, _VERSION}
                or not isinstance(theirs["run"], dict)
            ):
                raise ValueError("it has other entries")
        except (OSError, ValueError, TypeError) as error:
            why = getattr(error, "strerror", None) or error
            raise StoreError(
                f"{head} is damaged ({why}); delete {path}, and the runs are retrained"
            ) from error
        own = {self._form: SCHEMA, **json.loads(json.dumps(mine))}
        flat = [{**each, **each["run"]} for each in (theirs, own)]
        if wrong := [name for name in flat[1] if name != "run" and flat[0].get(name) != flat[1][name]]:
            there, here = (str(each.get(wrong[0])) for each in flat)
            shown = "" if max(len(there), len(here)) > 60 else f" (there {there}, here {here})"
            raise StoreError(
                f"{path} keeps the effects of something else: {', '.join(wrong)} differ{shown}; name a new "
                "folder"
            )
        return hashlib.sha256(json.dumps(own).encode()).hexdigest()


def _fits(shape: tuple[int, ...], form: tuple[int, ...]) -> bool:
    return len(shape) == len(form) and all(f in (-1, s) for s, f in zip(shape, form, strict=True))
