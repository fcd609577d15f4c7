"""The folder that all workers see: slices that are done, and the manifests by which they are merged."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from influencekit._files import keep_out_of_stores, save_zarr, sweep, unmade, whole
from influencekit._sealed import check_store, read_sealed, sealed
from influencekit.errors import InputError, StoreError

__all__ = ["SliceFolder", "named"]

SCHEMA = 1

_FIRST = "slices.json"
_PATIENCE = 60.0  # seconds in which a file of another machine's comes into sight


def _comes(file: Path, patience: float) -> bool:
    """Whether a file is there, or comes into sight: a shared file system may need a while."""
    until = time.monotonic() + patience
    while not os.path.lexists(file):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def named(of: Mapping[str, Any]) -> str:
    """The name of a slice: a digest of what it is of."""
    return f"{of['what']}-{_digest(of)[:16]}"


def _digest(of: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()


class SliceFolder:
    """`slices.json` says that it is one; `WHAT-DIGEST.zarr` is a slice, bound to what it is of; a
    `manifest-DIGEST.json` names the slices of one call in their order.

    Several calls may use a folder at once: a slice has the same name and the same content for all. Errors:
    a folder of something else, a damaged slice, a full disk (`StoreError`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def make(self) -> None:
        """Make it, if it is not there."""
        keep_out_of_stores(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            sweep(self.path)
            if not os.path.lexists(self.path / _FIRST):
                if any(self.path.iterdir()):
                    raise StoreError(f"{self.path} is not a folder of slices; name a new one")
                with whole(self.path / _FIRST) as beside:
                    beside.write_text(sealed({"influencekit_slices": SCHEMA}, indent=1), encoding="utf-8")
            content, known = read_sealed(self.path / _FIRST, indent=1)
            if not known or content != {"influencekit_slices": SCHEMA}:
                raise StoreError(f"{self.path} has slices of another version; name a new folder")
        except (OSError, ValueError) as error:
            raise unmade(self.path, error) from error

    def check_seen(self) -> None:
        """Errors: a worker does not see the folder."""
        if not _comes(self.path / _FIRST, _PATIENCE):
            raise InputError(
                f"a worker does not see {self.path}: slices need a folder that all workers see; name another"
            )

    def keep_manifest(self, slices: Sequence[Mapping[str, Any]]) -> None:
        """Write down which slices a call is merged from, and what they are of."""
        text = sealed({"influencekit_slices": SCHEMA, "slices": {named(of): of for of in slices}}, indent=1)
        file = self.path / f"manifest-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        try:
            if not os.path.lexists(file):
                with whole(file) as beside:
                    beside.write_text(text, encoding="utf-8")
        except OSError as error:
            raise unmade(self.path, error) from error

    def file(self, of: Mapping[str, Any]) -> Path:
        """Where a slice is."""
        return self.path / f"{named(of)}.zarr"

    def has(self, of: Mapping[str, Any]) -> bool:
        """Whether a slice is there."""
        return os.path.lexists(self.file(of))

    def read(self, of: Mapping[str, Any]) -> xr.Dataset:
        """A slice that was written, here or by another machine. Errors: it is damaged, or does not come."""
        file = self.file(of)
        if not _comes(file, _PATIENCE):
            raise StoreError(
                f"{file} was written by a worker and is not seen here: slices need a folder that all workers "
                "see; name another"
            )
        try:
            check_store(file, _digest(of))
            return xr.open_zarr(file, consolidated=False, chunks=None).load()
        except Exception as error:  # every codec has its own exceptions
            why = getattr(error, "strerror", None) or error
            raise StoreError(f"{file} is damaged ({why}); delete it, and it is done again") from error

    def write(self, of: Mapping[str, Any], content: xr.Dataset) -> None:
        """Keep a slice. One that another worker has written meanwhile stays."""
        try:
            with whole(self.file(of)) as beside:
                save_zarr(content, beside, whose=_digest(of))
        except OSError as error:
            if not self.has(of):
                raise unmade(self.path, error) from error
