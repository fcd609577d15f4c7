"""What the stores of embeddings hold, and how they are opened."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from influencekit import InputError, StoreError
from influencekit.extend import Layout, NewStore, check_result, local
from influencekit_dvemb.projection import Projection

__all__ = ["attributes", "feature_layers", "new_array", "opened"]

_CHUNK = 4 << 20  # bytes


def new_array(
    store: NewStore, name: str, shape: Sequence[int], dims: Sequence[str], dtype: Any
) -> zarr.Array:
    """An array of a new store in chunks along its first dim, not compressed: it would not shrink."""
    row = max(1, int(np.prod(shape[1:])) * np.dtype(dtype).itemsize)
    chunks = (max(1, _CHUNK // row), *(max(1, n) for n in shape[1:]))
    return store.array(name, shape, dims, dtype, chunks, compressors=None)


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
    elif ((path := local(found)) / "zarr.json").exists():
        check_result(path)
        store = xr.open_zarr(path, chunks=None)
    else:
        raise StoreError(f"nothing at {found}: expected a store with the array {what!r}")
    if what not in store or "layers" not in store.attrs:
        raise InputError(
            f"expected a store with the array {what!r} made by influencekit-dvemb; this one has "
            f"{', '.join(map(str, store.data_vars)) or 'none'}"
        )
    return store
