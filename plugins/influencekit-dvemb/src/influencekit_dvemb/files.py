"""Stores that are whole or not there."""

import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import xarray as xr
import zarr

from influencekit import InputError, StoreError
from influencekit.training.layout import Layout
from influencekit_dvemb.projection import Projection

__all__ = ["Beside", "attributes", "feature_layers", "opened"]

_CHUNK = 4 << 20  # bytes


class Beside:
    """A store that is written beside its place, and moved there by `commit`, in one act.

    What is stopped before, by an error or by `kill -9`, leaves nothing at the place itself. `discard` removes
    what was written. Errors: a path that exists.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists():
            raise InputError(f"{path} exists already; choose another path, or delete it first")
        try:
            self.folder = Path(mkdtemp(prefix=f".{self.path.name}.", dir=self.path.absolute().parent))
        except OSError as error:
            raise StoreError(f"cannot write to {path}: {error.strerror or error}") from error

    def array(self, name: str, shape: tuple[int, ...], dims: Sequence[str], dtype: Any) -> zarr.Array:
        """An array in chunks along its first dim; NaN wherever a chunk is lost.

        It is not compressed: it would not shrink.
        """
        row = max(1, int(np.prod(shape[1:])) * np.dtype(dtype).itemsize)
        chunks = (max(1, _CHUNK // row), *(max(1, n) for n in shape[1:]))
        return zarr.create_array(
            str(self.folder), name=name, shape=shape, chunks=chunks, dtype=dtype, fill_value=np.nan,
            dimension_names=dims, compressors=None, config={"write_empty_chunks": True},
        )  # fmt: skip

    def commit(self, rest: xr.Dataset) -> None:
        """Add the small arrays, coordinates and attributes, and move all of it to its place."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zarr 3 has no specification of what xarray writes
                rest.to_zarr(self.folder, mode="a", zarr_format=3, consolidated=True)
            os.rename(self.folder, self.path)
        except OSError as error:
            raise StoreError(f"cannot write to {self.path}: {error.strerror or error}") from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what is still beside the place."""
        shutil.rmtree(self.folder, ignore_errors=True)


def feature_layers(projection: Projection) -> list[str]:
    """The layer of every feature."""
    return [layer.name for layer in projection.layers for _ in range(layer.features)]


def attributes(projection: Projection, layout: Layout) -> dict[str, Any]:
    """What it takes to project a gradient in the same way again."""
    return {
        "influencekit_dvemb": 1,
        "layers": projection.described(),
        "parameters": [[n, list(s)] for n, s in zip(layout.names, layout.shapes, strict=True)],
        "projection_seed": projection.seed,
    }


def opened(found: xr.Dataset | str | Path, what: str) -> xr.Dataset:
    """A store of this package, given as a path or as xarray opened it, that has the array `what`."""
    if isinstance(found, xr.Dataset):
        store = found
    elif Path(found).exists():
        store = xr.open_zarr(found, chunks=None)
    else:
        raise StoreError(f"nothing at {found}: expected a store with the array {what!r}")
    if what not in store or "layers" not in store.attrs:
        raise InputError(
            f"expected a store with the array {what!r} made by influencekit-dvemb; this one has "
            f"{', '.join(map(str, store.data_vars)) or 'none'}"
        )
    return store
