"""Results that are handed back to the library: are they what a verb gave?"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from influencekit._arguments import short
from influencekit.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["array_of", "dataset_of"]


def dataset_of(
    who: str, what: str, given: Any, names: Collection[str] = (), attrs: Collection[str] = (),
    dims: Collection[str] = (),
) -> xr.Dataset:  # fmt: skip
    """`given`, a dataset with these variables or coordinates, attributes and dimensions.

    `what`: which verb gives such, in words. Errors: anything else, with what is missing.
    """
    import xarray as xr

    if not isinstance(given, xr.Dataset):
        raise InputError(f"{who}: expected {what}, a Dataset; got {short(given)}")
    missing = [n for n in names if n not in given.variables] + [n for n in attrs if n not in given.attrs]
    if missing := missing + [d for d in dims if d not in given.sizes]:
        raise InputError(f"{who}: expected {what}; this Dataset has no {', '.join(missing)}")
    return given


def array_of(who: str, what: str, given: Any, *dims: str) -> xr.DataArray:
    """`given`, a labelled array of numbers with just these dimensions. Errors: anything else."""
    import xarray as xr

    if not isinstance(given, xr.DataArray):
        raise InputError(f"{who}: expected {what}, a DataArray; got {short(given)}")
    if given.dims != dims or given.dtype.kind not in "fiu":
        raise InputError(f"{who}: expected {what}, got {given.dtype} {dict(given.sizes)}")
    return given
