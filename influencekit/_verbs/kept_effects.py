"""A folder of effects that were retrained for `ceiling`: a piece a run, each whole or not there."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import xarray as xr

from influencekit import __version__
from influencekit._files import claim, save_zarr, whole
from influencekit._sealed import check_store, read_sealed, sealed
from influencekit.errors import StoreError

__all__ = ["KeptEffects", "OneRun"]

SCHEMA = 1

_HEAD = "ceiling.json"
_FORM = "influencekit_effects", "influencekit_version"


class OneRun(NamedTuple):
    """What is kept of a run: `effects` [query, window, train], the query's `values` [query] at its end, its
    `accuracy`, and a digest of where it starts."""

    effects: np.ndarray
    values: np.ndarray
    accuracy: float
    start: str


class KeptEffects:
    """`ceiling.json` says of which run, query, windows and examples the effects are; `NAME.zarr` has those of
    one run. Both have digests, and those of the pieces are bound to what `ceiling.json` says.

    Errors: a folder of something else, of another run or query, or that another process writes; a damaged
    piece; a full disk (what was kept stays).
    """

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        self.path = path
        said = dict(zip(_FORM, (SCHEMA, __version__), strict=True))
        text = sealed({**said, **head}, indent=1)
        self._release, self._bound = claim(path, _HEAD, text, "effects", lambda: _compared(path, head))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def read(self, name: str, start: str, shape: tuple[int, ...]) -> OneRun | None:
        """What is there of a run that starts so; None where nothing is."""
        file = self._file(name)
        if not os.path.lexists(file):
            return None
        try:
            check_store(file, self._bound)
            piece = xr.open_zarr(file, consolidated=False, chunks=None)
            found = OneRun(
                piece["effects"].values, piece["values"].values, float(piece.attrs["accuracy"]),
                str(piece.attrs["start"]),
            )  # fmt: skip
            if found.effects.shape != shape or found.values.shape != shape[:1]:
                raise ValueError("it has not the shape of these effects")
        except Exception as error:  # every codec has its own exceptions
            why = getattr(error, "strerror", None) or error
            raise StoreError(f"{file} is damaged ({why}); delete it, and it is retrained") from error
        if found.start != start:
            raise StoreError(f"{file} is of a run that starts otherwise; name a new folder")
        return found

    def write(self, name: str, run: OneRun) -> None:
        """Keep the effects of a run."""
        piece = xr.Dataset(
            {"effects": (("query", "window", "train"), run.effects), "values": (("query",), run.values)},
            attrs={"accuracy": run.accuracy, "start": run.start},
        )
        file = self._file(name)
        try:
            with whole(file) as beside:
                save_zarr(piece, beside, whose=self._bound)
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(f"{file} cannot be written: {reason}; what was kept before stays") from error

    def _file(self, name: str) -> Path:
        return self.path / f"{name.replace(' ', '-')}.zarr"


def _compared(path: Path, mine: Mapping[str, Any]) -> str:
    """A digest of what the folder is of. Errors: it is of something else, naming what differs."""
    try:
        theirs, known = read_sealed(path / _HEAD, indent=1)
        if not known or theirs.keys() != {*mine, *_FORM} or not isinstance(theirs["run"], dict):
            raise ValueError("it has other entries")
    except (OSError, ValueError, TypeError) as error:
        why = getattr(error, "strerror", None) or error
        raise StoreError(
            f"{path / _HEAD} is damaged ({why}); delete {path}, and the runs are retrained"
        ) from error
    own = {_FORM[0]: SCHEMA, **json.loads(json.dumps(mine))}
    flat = [{**each, **each["run"]} for each in (theirs, own)]
    if wrong := [name for name in flat[1] if name != "run" and flat[0].get(name) != flat[1][name]]:
        there, here = (str(each.get(wrong[0])) for each in flat)
        shown = "" if max(len(there), len(here)) > 60 else f" (there {there}, here {here})"
        raise StoreError(
            f"{path} keeps the effects of something else: {', '.join(wrong)} differ{shown}; name a new folder"
        )
    return hashlib.sha256(json.dumps(own).encode()).hexdigest()
