"""`influencekit curate`: what to leave out of training, judged on examples that nobody chose on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from influencekit.cli.console import BEWARE, print_table, say, working
from influencekit.cli.formats import check_ending, save_dataset, write_csv
from influencekit.cli.output import check_places, new_file
from influencekit.cli.parameters import PATH, shared
from influencekit.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["curate"]


@click.command(short_help="What to leave out of training, and is the model better for it?")
@click.argument("store", type=PATH)
@click.option(
    "--choosers",
    default="dit",
    show_default=True,
    metavar="SPECS",
    help="Estimators that choose, side by side: dit,if,loo, with options if you like: dit,if:damping=0.1.",
)
@click.option(
    "--k",
    metavar="NUMBERS",
    help="How many examples to leave out: 5,10,20. [default: 1, 2, 5, 10 and 20 % of them]",
)
@click.option(
    "--trusted",
    metavar="FILE.py:NAME",
    help="Examples with right labels that the run was not trained on: a function of that file (or a value) "
    "which gives a batch or a data set. It is run. [default: the run's own test set]",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Of the split of trusted examples into those that choose and those that judge.",
)
@click.option(
    "--draws",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="Random sets of each size, for comparison.",
)
@click.option(
    "--out",
    type=PATH,
    metavar="FILE",
    help="A new file. .csv: every training example, the most harmful first, and which to drop, as `estimate "
    "--remove` and influencekit.remove read it; .zarr or .nc: the whole result.",
)
@shared("code", "device", "data-dir", "threads")
def curate(
    store: str, choosers: str, k: str | None, trusted: str | None, seed: int, draws: int, out: str | None,
    code: str | None, device: str, data_dir: str | None, threads: int,
) -> None:  # fmt: skip
    """Choose what to leave out of the run in STORE on one half of trusted examples, retrain without it, and
    judge on the other half.

    The effect is the mean loss without the set minus with it: negative = better. The verdict is "drop
    nothing" unless the interval on the held-out half lies below zero. Examples:

    \b
      influencekit curate run.zarr
      influencekit curate run.zarr --choosers dit,if --k 5,10,20 --out drop.csv
      influencekit curate mine.zarr --code train.py:parts --trusted train.py:trusted
      influencekit estimate run.zarr --remove drop.csv
    """
    check_ending(out)
    check_places({"--out": out})
    with new_file(out) as path:
        with working():
            import influencekit as ik
            from influencekit.cli.problems import reopen, use_device
            from influencekit.cli.user_code import value_from
            from influencekit.registry import make, split

            sizes = _numbers(k)
            methods: Any = [make("estimator", each) for each in split(choosers)]
            trajectory = reopen(store, data_dir, use_device(device, threads), code)
            given = None if trusted is None else value_from(trusted, "--trusted", "trusted")
            began = time.perf_counter()
            result = ik.curate(trajectory, given, methods, sizes, seed, draws)
            seconds = time.perf_counter() - began
        if path and path.suffix == ".csv":
            write_csv(_listed(result), path)
        elif path:
            save_dataset(result, path)
    _print(result, store, seconds)
    if out:
        say(f"saved in {out}")


def _numbers(k: str | None) -> tuple[int, ...] | None:
    if k is None:
        return None
    try:
        return tuple(int(each) for each in k.split(","))
    except ValueError:
        raise InputError(f"--k {k[:60]}: expected whole numbers, as in 5,10,20") from None


def _listed(result: xr.Dataset) -> Any:
    """A row for every training example, the most harmful first: id, class, score, and whether to drop it."""
    import pandas as pd

    labels = {"label": result.label.values} if "label" in result.coords else {}
    frame = pd.DataFrame(
        {"id": [str(each) for each in result.train.values.tolist()]}
        | labels
        | {n: result[n].values for n in ("influence_score", "is_influence_issue")}
    )
    return frame.sort_values("influence_score", kind="stable")


def _print(result: xr.Dataset, store: str, seconds: float) -> None:
    """A row for every chooser and k, and the verdict."""
    import pandas as pd

    rows = []
    for name in result.chooser.values.tolist():
        for size in result.k.values.tolist():
            one = result.sel(chooser=name, k=size)
            values = [float(one[n]) for n in ("effect", "low", "high", "choosing_effect", "predicted")]
            effect, low, high, choosing, predicted = (f"{value:+.3e}" for value in values)
            random = one.random.values
            row = [effect, f"{low} to {high}", choosing, predicted, f"{random.mean():+.3e}"]
            rows.append([name, str(size), *row, f"{random.min():+.3e} to {random.max():+.3e}"])
    head = ["chooser", "k", "held out", f"{100 * result.attrs['level']:g} % interval", "where chosen"]
    judges = int(result.held_out.sum())
    chose = result.sizes["trusted"] - judges
    say(
        (f"{store}: the mean loss without k examples minus with them", "bold"),
        f"; chosen on {chose} trusted examples, held out {judges} ({seconds:.1f} s)",
    )
    frame = pd.DataFrame(rows, columns=[*head, "sum of scores", "random", "random, range"])
    print_table(frame, left=1, gap=2)
    say()
    say(result.attrs["verdict"])
    if caution := result.attrs.get("caution"):
        say(BEWARE, caution)
