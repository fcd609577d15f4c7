"""`influencekit plot`: the plots of scores that were saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from influencekit.cli.console import say
from influencekit.cli.output import new_folder
from influencekit.cli.parameters import shared
from influencekit.cli.progress import progress
from influencekit.errors import InfluenceKitError, InputError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["plot"]


@click.command(short_help="Draw saved scores as PNG files.")
@click.argument("scores", metavar="SCORES")
@click.option("--out", metavar="DIR", help="A new folder for the plots; SCORES-plots if you do not say.")
@shared("data-dir")
def plot(scores: str, out: str | None, data_dir: str | None) -> None:
    """Draw what compare --out or estimate --out saved: estimates against ground truth, the most harmful and
    most helpful examples of image data as pictures, influence over time where there are several windows, and
    what compare --evaluate found.

    SCORES is the folder of compare, or a .zarr or .nc file. Examples:

    \b
      influencekit plot results --out plots
      influencekit plot scores.zarr
    """
    path = Path(scores)
    result = _load(path)
    goal = out or str(path.with_name(f"{path.stem}-plots"))
    with new_folder(goal) as folder, progress():
        assert folder is not None
        from influencekit.cli.saving import draw
        from influencekit.evaluation import evaluation_of

        pictures, why = _pictures(result, data_dir)
        drawn = draw(result, pictures, folder)
        for file in sorted(path.glob("evaluation-*.zarr")):
            saved = _read(file)
            if (figure := evaluation_of(saved).plot(saved)) is not None:
                drawn.append(f"{file.stem}.png")
                figure.savefig(folder / drawn[-1])
        if not drawn:
            raise InfluenceKitError(f"{scores} holds nothing to draw: one window, no ground truth{why}")
    say(f"{', '.join(drawn)} in {goal}{why}")


def _load(path: Path) -> xr.Dataset:
    """Scores of ours. Errors: nothing there, another kind of file, no influence in it."""
    inside = path / "scores.zarr"
    file = inside if inside.exists() else path
    if not file.exists():
        raise InputError(f"no scores at {path}; make them with influencekit compare --out or estimate --out")
    result = _read(file)
    dims = ("estimator", "seed", "query", "window", "train")
    if "influence" not in result or set(result.influence.dims) != set(dims):
        raise InputError(
            f"{file} holds no influence scores; expected what compare --out or estimate --out wrote"
        )
    return result


def _read(file: Path) -> xr.Dataset:
    import xarray as xr

    try:
        if file.suffix == ".nc":
            return xr.load_dataset(file, engine="h5netcdf")
        return xr.open_zarr(file, consolidated=False).load()
    except Exception as error:
        raise InputError(f"{file} cannot be read as scores: {' '.join(str(error).split())[:120]}") from error


def _pictures(result: xr.Dataset, data_dir: str | None) -> tuple[Any, str]:
    """The training examples of the first seed as pictures; or None, and why in words."""
    from influencekit.cli.examples import pictures
    from influencekit.cli.problems import from_attrs

    info = {k[5:]: v for k, v in result.attrs.items() if k.startswith("info_")}
    try:
        workload = from_attrs(info, "the file", data_dir)
    except InfluenceKitError as error:
        return None, f"; no pictures of examples: {error}"
    ids = [str(i) for i in workload.train_ids or range(workload.n_train)]
    if ids != result.example.isel(seed=0).values.tolist():
        return None, "; no pictures of examples: the data are not those that were scored"
    return pictures(workload), ""
