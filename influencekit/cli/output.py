"""What is left on disk, whole or not at all: a folder, a file, and the CSV and JSON texts in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influencekit.cli.summary import without_nan
from influencekit.errors import InfluenceKitError, InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["new_file", "new_folder", "save_dataset", "to_json", "write_csv"]


@contextmanager
def new_folder(path: str | None, option: str = "--out") -> Iterator[Path | None]:
    """A temporary folder beside `path` that takes its place when the block ends well, else disappears.

    Made before the work begins, so that what cannot be written is known before it is computed. Errors:
    `path` is there and not an empty folder, or cannot be made.
    """
    if path is None:
        yield None
        return
    goal = Path(path)
    if goal.exists() and (not goal.is_dir() or any(goal.iterdir())):
        kind = "a folder that is not empty" if goal.is_dir() else "a file"
        raise InputError(f"{option} {path} is {kind}; choose a new one")
    with _beside(goal, option) as partial:
        partial.mkdir()
        yield partial
        if goal.exists():
            goal.rmdir()  # empty; a rename onto it is not for every system


@contextmanager
def new_file(path: str | None, option: str = "--out", replace: bool = False) -> Iterator[Path | None]:
    """As `new_folder`, for one file (or one zarr store); `replace`: over a file that is there."""
    if path is None:
        yield None
        return
    goal = Path(path)
    if goal.is_dir() or (goal.exists() and not replace):
        raise InputError(f"{option} {path} exists already; choose another name")
    with _beside(goal, option) as partial:
        yield partial


@contextmanager
def _beside(goal: Path, option: str) -> Iterator[Path]:
    from influencekit._files import whole

    parents = [p for p in goal.absolute().parents if not p.exists()]
    scratch = None
    try:
        goal.absolute().parent.mkdir(parents=True, exist_ok=True)
        with whole(goal) as partial:
            scratch = partial.parent
            yield partial
        parents = []
    except OSError as error:
        if scratch is not None and error.filename is not None:
            if not str(error.filename).startswith(str(scratch)):
                raise
        left = "" if scratch is None else "; nothing was left there"
        raise InfluenceKitError(
            f"{option} {goal} cannot be written: {error.strerror or error}{left}"
        ) from error
    finally:
        for parent in parents:  # made above, innermost first, for something that did not come to be
            with suppress(OSError):
                parent.rmdir()


def to_json(value: Any) -> str:
    """JSON text that every reader takes and no terminal acts upon: no NaN, control characters as escapes."""
    import json

    lines = json.dumps(without_nan(value), indent=2, ensure_ascii=False).split("\n")
    return "\n".join(line if line.isprintable() else "".join(map(_in_json, line)) for line in lines) + "\n"


def _in_json(character: str) -> str:
    import json

    return character if character.isprintable() else json.dumps(character)[1:-1]


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """A frame as a CSV file with a head, in UTF-8; its index is not written, and NaN is `nan`."""
    frame.to_csv(path, index=False, na_rep="nan", lineterminator="\r\n")


def save_dataset(dataset: Any, path: Path) -> None:
    """An xarray dataset as zarr, or as netCDF where the name ends so. Errors: no netCDF library."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr 3: strings and consolidated metadata have no specification yet
        if path.suffix != ".nc":
            dataset.to_zarr(path, zarr_format=3)
            return
        try:
            dataset.to_netcdf(path, engine="h5netcdf")
        except (ImportError, ValueError) as error:
            if isinstance(error, ValueError) and "h5netcdf" not in str(error):
                raise
            raise InputError(
                f"{path.name}: netCDF needs h5netcdf and h5py: pip install 'influencekit[netcdf]'"
            ) from error
