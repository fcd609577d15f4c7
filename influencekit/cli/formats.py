"""The texts and files that results are written as: JSON, CSV, zarr, netCDF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influencekit.cli.summary import without_nan
from influencekit.errors import InputError, StoreError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["ENDINGS", "check_ending", "read_dataset", "save_dataset", "to_json", "write_csv"]

ENDINGS = (".zarr", ".nc", ".csv")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def check_ending(out: str | None, option: str = "--out", endings: Sequence[str] = ENDINGS) -> None:
    """Errors: a file whose name does not end as one of the formats does."""
    if out and Path(out).suffix not in endings:
        raise InputError(f"{option} {out}: expected a name that ends in {', '.join(endings)}")


def to_json(value: Any) -> str:
    """JSON text that every reader takes and no terminal acts upon: no NaN, control characters as escapes."""
    import json

    lines = json.dumps(without_nan(value), indent=2, ensure_ascii=False).split("\n")
    return "\n".join(line if line.isprintable() else "".join(map(_in_json, line)) for line in lines) + "\n"


def _in_json(character: str) -> str:
    import json

    return character if character.isprintable() else json.dumps(character)[1:-1]


def write_csv(frame: pd.DataFrame, path: Path, escape_formulas: bool = False) -> None:
    """A frame as a CSV file with a head, in UTF-8; its index is not written, and NaN is `nan`.

    `escape_formulas`: an apostrophe before texts that a spreadsheet would compute.
    """
    if escape_formulas:
        frame = frame.map(
            lambda cell: f"'{cell}" if str(cell).startswith(_FORMULA) and isinstance(cell, str) else cell
        )
    frame.to_csv(path, index=False, na_rep="nan", lineterminator="\r\n", errors="backslashreplace")


def read_dataset(file: Path, what: str = "scores") -> xr.Dataset:
    """What `save_dataset` wrote. Errors: nothing there, or another kind of file."""
    import xarray as xr

    from influencekit._files import check_result

    try:
        if file.suffix == ".nc":
            if not file.is_file():
                raise ValueError("it is not a regular file")
            return xr.load_dataset(file, engine="h5netcdf")
        check_result(file)
        return xr.open_zarr(file, consolidated=False).load()
    except StoreError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:120]
        raise InputError(
            f"{file} cannot be read as {what}: expected the .zarr folder or .nc file that --out wrote ({why})"
        ) from error


def save_dataset(dataset: Any, path: Path) -> None:
    """An xarray dataset as zarr, or as netCDF where the name ends so. Errors: no netCDF library."""
    if path.suffix != ".nc":
        from influencekit._files import save_zarr

        save_zarr(dataset, path)
        return
    try:
        # made in memory, because HDF5 ends the process where it cannot close a file on a full disk
        path.write_bytes(dataset.to_netcdf(engine="h5netcdf"))
    except (ImportError, ValueError) as error:
        if isinstance(error, ValueError) and "h5netcdf" not in str(error):
            raise
        raise InputError(
            f"{path.name}: netCDF needs h5netcdf and h5py: pip install 'influencekit[netcdf]'"
        ) from error
