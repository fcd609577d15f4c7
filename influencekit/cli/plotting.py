"""`influencekit plot`: the plots of scores that were saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from influencekit.cli.console import say, working
from influencekit.cli.formats import read_dataset
from influencekit.cli.output import check_places, new_folder
from influencekit.cli.parameters import PATH, shared
from influencekit.errors import InfluenceKitError, InputError

if TYPE_CHECKING:
    import xarray as xr

    from influencekit._training.workload import Workload

__all__ = ["plot"]


@click.command(short_help="Draw saved scores as PNG files.")
@click.argument("scores", type=PATH, metavar="SCORES")
@click.option(
    "--out", type=PATH, metavar="DIR", help="A new folder for the plots; SCORES-plots if you do not say."
)
@shared("code", "data-dir")
def plot(scores: str, out: str | None, code: str | None, data_dir: str | None) -> None:
    """Draw what compare --out or estimate --out saved: estimates against ground truth, the most harmful and
    most helpful examples of image data as pictures, influence over time where there are several windows, and
    what compare --evaluate found.

    SCORES is the folder of compare, or a .zarr or .nc file. The store of a run will do, too: it is scored
    first, by dit in each epoch. A .zarr says what its files hold, and one that was damaged is refused; a .nc
    is taken as it is. Examples:

    \b
      influencekit plot results --out plots
      influencekit plot scores.zarr
      influencekit plot run.zarr --code train.py:parts
    """
    path = Path(scores)
    run = _is_run(path)
    result = None if run else _load(path)
    goal = out or str(path.with_name(f"{path.stem}-plots"))
    check_places({"--out": goal})
    with new_folder(goal) as folder, working():
        assert folder is not None
        from influencekit.cli.saving import draw
        from influencekit.evaluation import evaluation_of

        workload: Workload | None
        if result is None:
            result, workload, why = *_scored(scores, data_dir, code), ""
        else:
            workload, why = _workload(result, data_dir, code)
        drawn = draw(result, workload, folder)
        for file in sorted(path.glob("evaluation-*.zarr")):
            saved = read_dataset(file)
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
    result = read_dataset(file)
    dims = ("estimator", "seed", "query", "window", "train")
    if "influence" not in result or set(result.influence.dims) != set(dims):
        raise InputError(
            f"{file} holds no influence scores; expected what compare --out or estimate --out wrote"
        )
    return result


def _is_run(path: Path) -> bool:
    """Whether this is the store of a recorded run, not of scores."""
    from influencekit._trajectory.store import open_group

    try:
        open_group(path)
    except InfluenceKitError:
        return False
    return True


def _scored(store: str, data_dir: str | None, code: str | None) -> tuple[xr.Dataset, Workload]:
    """The scores of a run in each epoch, and its workload."""
    import influencekit as ik
    from influencekit.cli.examples import by_seed
    from influencekit.cli.problems import reopen

    run = reopen(store, data_dir, code=code)
    return by_seed(ik.estimate(run, windows="each-epoch"), run, store), run.workload


def _workload(result: xr.Dataset, data_dir: str | None, code: str | None) -> tuple[Workload | None, str]:
    """The workload of the first seed, whose examples may be pictures; or None, and why in words."""
    from influencekit.cli.problems import from_attrs, reopen

    info = {k[5:]: v for k, v in result.attrs.items() if k.startswith("info_")}
    try:
        if "store" in result.attrs and code is not None:
            workload = reopen(result.attrs["store"], data_dir, code=code).workload
        else:
            workload = from_attrs(info, "the file", data_dir)
    except InfluenceKitError as error:
        return None, f"; no pictures of examples: {error}"
    ids = [str(i) for i in workload.train_ids or range(workload.n_train)]
    if ids != result.example.isel(seed=0).values.tolist():
        return None, "; no pictures of examples: the data are not those that were scored"
    return workload, ""
