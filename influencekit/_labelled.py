"""Results that are handed back to the library: are they what a verb gave?"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from influencekit._arguments import short
from influencekit.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["array_of", "check_run", "dataset_of"]

_PARTS = "starts or is trained otherwise", "ends in other parameters", "has another test set"


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


def check_run(theirs: Any, mine: str) -> None:
    """Refuse scores whose attribute `run` is not that of this run; None: of before 0.4, which had none."""
    if theirs is None:
        return
    parts, own = str(theirs).split("-"), mine.split("-")
    if len(parts) != len(own):
        raise InputError(
            f"scores of another run: their run is {short(theirs)}, {mine} here; estimate them anew"
        )
    for a, b, differs in zip(parts, own, _PARTS, strict=True):
        if a != b and "?" not in (a, b):
            raise InputError(
                f"scores of another run: this one {differs} (run is {short(theirs)} in them, {mine!r} here); "
                "estimate them anew"
            )


def array_of(who: str, what: str, given: Any, *dims: str) -> xr.DataArray:
    """`given`, a labelled array of numbers with just these dimensions. Errors: anything else."""
    import xarray as xr

    if not isinstance(given, xr.DataArray):
        raise InputError(f"{who}: expected {what}, a DataArray; got {short(given)}")
    if given.dims != dims or given.dtype.kind not in "fiu":
        raise InputError(f"{who}: expected {what}, got {given.dtype} {dict(given.sizes)}")
    return given
