"""A folder of effects that were retrained for `ceiling`: a piece a run, each whole or not there."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import xarray as xr

from influencekit._verbs.kept_pieces import KeptPieces
from influencekit.errors import StoreError

__all__ = ["KeptEffects", "OneRun"]


class OneRun(NamedTuple):
    """What is kept of a run: `effects` [query, window, train], its `accuracy`, and a digest of where it
    starts."""

    effects: np.ndarray
    accuracy: float
    start: str


class KeptEffects:
    """`ceiling.json` says of which run, query, windows and examples the effects are; `NAME.zarr` has those of
    one run. Errors: those of `KeptPieces`; a run that starts elsewhere."""

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        self._pieces = KeptPieces(path, "ceiling.json", "influencekit_effects", head)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pieces.__exit__(kind, error, trace)

    def read(self, name: str, start: str, shape: tuple[int, ...]) -> OneRun | None:
        """What is there of a run that starts so; None where nothing is."""
        piece = self._pieces.read(_named(name), {"effects": shape}, ("accuracy", "start"))
        if piece is None:
            return None
        found = OneRun(piece["effects"].values, float(piece.attrs["accuracy"]), str(piece.attrs["start"]))
        if found.start != start:
            file = self._pieces.file(_named(name))
            raise StoreError(f"{file} is of a run that starts otherwise; name a new folder")
        return found

    def write(self, name: str, run: OneRun) -> None:
        """Keep the effects of a run."""
        piece = xr.Dataset(
            {"effects": (("query", "window", "train"), run.effects)},
            attrs={"accuracy": run.accuracy, "start": run.start},
        )
        self._pieces.write(_named(name), piece)


def _named(run: str) -> str:
    return run.replace(" ", "-")
