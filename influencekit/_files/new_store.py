"""Stores that xarray opens, written whole or piece by piece, and there when they are complete."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from influencekit._address import local
from influencekit._files.publishing import publish
from influencekit._files.scratch import Scratch, sweep
from influencekit._sealed import check_store, seal_store
from influencekit.errors import InputError, StoreError

__all__ = ["NewStore", "check_result", "save_zarr"]

_CHECKED = (ZstdCodec(level=0), Crc32cCodec())  # the checksum is of the compressed bytes


def save_zarr(dataset: xr.Dataset, path: Path, mode: Any = "w-", whose: str | None = None) -> None:
    """A labelled dataset as a zarr v3 group, sealed; `mode="a"` adds to one that is there.

    Every chunk has a checksum, so that xarray refuses a changed one; `check_store` compares all files.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr 3 has no specification of strings and consolidated metadata
        dataset.to_zarr(
            path,
            mode=mode,
            zarr_format=3,
            consolidated=True,
            encoding={name: {"compressors": _CHECKED} for name in dataset.variables},
        )
    seal_store(Path(path), whose)


def check_result(path: Path) -> None:
    """Compare a store of results with the digests that it was saved with; before 0.4 there were none.

    Errors: `StoreError` that names the file. What is no store is left to who opens it.

    Example:

        >>> import tempfile
        >>> from pathlib import Path
        >>> import xarray as xr
        >>> from influencekit.extend import NewStore, check_result
        >>> path = Path(tempfile.mkdtemp()) / "squares.zarr"
        >>> NewStore(path).commit(xr.Dataset({"square": ("step", [0, 1, 4])}))
        >>> check_result(path)
    """
    if not os.path.lexists(path / "zarr.json"):
        return
    try:
        check_store(path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise StoreError(f"{path} is damaged: {why}; make it again") from error


class NewStore:
    """A labelled zarr store with arrays too large for memory, which appears at `path` when it is complete.

    `array` makes an array to be filled piece by piece, `commit` adds the labels and publishes the store, and
    `discard` removes what was written of one that was not. Errors: a path that exists, also one that came to
    be meanwhile; a full disk.

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
        self.path = local(path)
        if os.path.lexists(self.path):
            sweep(self.path.absolute().parent, self.path.name)
            raise InputError(f"{path} exists already; choose another path")
        try:
            self._scratch = Scratch(self.path)
        except OSError as error:
            raise self._refusal(error) from error
        self.folder = self._scratch.path

    def array(
        self, name: str, shape: Sequence[int], dims: Sequence[str], dtype: Any, chunks: Sequence[int],
        compressors: Any = _CHECKED,
    ) -> zarr.Array:  # fmt: skip
        """An array in chunks; what is lost of it reads as NaN, and a damaged chunk is an error."""
        return zarr.create_array(
            str(self.folder), name=name, shape=tuple(shape), chunks=tuple(chunks), dtype=dtype,
            fill_value=np.nan, dimension_names=tuple(dims), compressors=compressors,
            config={"write_empty_chunks": True},
        )  # fmt: skip

    def commit(self, labels: xr.Dataset) -> None:
        """Add the small arrays, coordinates and attributes, and publish the store in one act."""
        try:
            save_zarr(labels, self.folder, mode="a")
            if not self._scratch.opened.is_here(follow=False):
                raise StoreError(f"{self.folder} was renamed, removed or replaced while {self.path} was made")
            publish(self.folder, self.path)
        except OSError as error:
            raise self._refusal(error) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what is not published."""
        self._scratch.remove()

    def _refusal(self, error: OSError) -> StoreError:
        return StoreError(f"{self.path} cannot be written: {error.strerror or error}")
