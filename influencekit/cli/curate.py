"""`influencekit curate`: what to leave out of training, judged on examples that nobody chose on."""

from __future__ import annotations

import time
from math import isnan
from typing import TYPE_CHECKING, Any

import click

from influencekit.cli.console import BEWARE, print_table, say, working
from influencekit.cli.formats import check_ending, save_dataset, write_csv
from influencekit.cli.output import check_places, new_file
from influencekit.cli.parameters import PATH, STORE, shared
from influencekit.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["curate"]


@click.command(short_help="What to leave out of training, and is the model better for it?")
@click.argument("store", type=STORE)
@click.option(
    "--choosers",
    default="dit",
    show_default=True,
    metavar="SPECS",
    help="Estimators that choose, side by side: dit,if,loo, with options if you like: dit,dit:centre=0.9,if; "
    "`mean` among them is the mean of the others.",
)
@click.option(
    "--k",
    metavar="NUMBERS",
    help="How many examples to leave out: 5,10,20. [default: 1, 2, 5, 10 and 20 % of them]",
)
@click.option(
    "--folds",
    type=int,
    default=5,
    show_default=True,
    metavar="N",
    help="The trusted examples are dealt into so many folds, each of which judges what the others chose. "
    "More of them let more examples choose, and retrain more sets: 7 choices of all sizes for 3, 16 for 5.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Of the folds, and of the random sets.",
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
    "--level",
    type=float,
    default=0.95,
    show_default=True,
    metavar="FRACTION",
    help="Of the interval that has to lie below zero. 0.9 recommends more often, and is wrong more often.",
)
@click.option(
    "--runs",
    type=click.IntRange(min=3),
    metavar="N",
    help="Also train N - 1 runs whose start is moved by a thousandth: sets are chosen by other runs than "
    "those in which they are judged, and the interval knows that runs differ. Costs N times as much.",
)
@click.option(
    "--keep",
    type=PATH,
    metavar="DIR",
    help="A folder that keeps what was retrained: a call that was stopped goes on, and other choosers, k and "
    "folds retrain only what is not there.",
)
@click.option(
    "--out",
    type=PATH,
    metavar="FILE",
    help="A new file. .csv: every training example, the most harmful first, and which to drop, as `estimate "
    "--remove` and influencekit.remove read it; .zarr or .nc: the whole result.",
)
@shared("trusted", "escape-formulas", "code", "device", "data-dir", "threads")
def curate(
    store: str, choosers: str, k: str | None, trusted: str | None, folds: int, seed: int, draws: int,
    level: float, runs: int | None, keep: str | None, out: str | None, escape_formulas: bool,
    code: str | None, device: str, data_dir: str | None, threads: int,
) -> None:  # fmt: skip
    """Choose what to leave out of the run in STORE by some of the trusted examples, retrain without it, and
    judge by the others.

    The effect is the mean loss without the set minus with it: negative = better. The verdict is "drop
    nothing" unless its interval lies below zero, by examples that had no part in the choice. Examples:

    \b
      influencekit curate run.zarr
      influencekit curate run.zarr --choosers dit,if --k 5,10,20 --out drop.csv
      influencekit curate mine.zarr --code train.py:parts --trusted train.py:trusted --keep kept
      influencekit estimate run.zarr --remove drop.csv
    """
    check_ending(out)
    check_places({"--out": out, "--keep": keep})
    with new_file(out) as path:
        with working():
            import influencekit as ik
            from influencekit._verbs.curate.choosers import choosers_of
            from influencekit.cli.problems import reopen, use_device
            from influencekit.cli.user_code import trusted_from
            from influencekit.registry import split

            sizes, methods = _numbers(k), split(choosers)
            choosers_of(methods)  # mistakes are found before the run is opened
            trajectory = reopen(store, data_dir, use_device(device, threads), code)
            given = trusted_from(trusted)
            began = time.perf_counter()
            result = ik.curate(
                trajectory, given, methods, sizes, seed, draws, level, folds=folds, runs=runs, folder=keep
            )
            seconds = time.perf_counter() - began
        if path and path.suffix == ".csv":
            write_csv(_listed(result), path, escape_formulas)
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
    from influencekit.cli.frames import pandas

    pd = pandas()
    labels = {"label": result.label.values} if "label" in result.coords else {}
    frame = pd.DataFrame(
        {"id": [str(each) for each in result.train.values.tolist()]}
        | labels
        | {n: result[n].values for n in ("influence_score", "is_influence_issue", "verified", "action")}
    )
    return frame.sort_values("influence_score", kind="stable")


def _print(result: xr.Dataset, store: str, seconds: float) -> None:
    """A row for every chooser and k, and the verdict."""
    from influencekit.cli.frames import pandas

    pd = pandas()
    rows = []
    for name in result.chooser.values.tolist():
        for size in result.k.values.tolist():
            one = result.sel(chooser=name, k=size)
            values = [float(one[n]) for n in ("effect", "low", "high", "choosing_effect", "predicted")]
            effect, low, high, choosing, predicted = (
                "-" if isnan(value) else f"{value:+.3e}" for value in values
            )
            random = one.random.values
            row = [effect, f"{low} to {high}", choosing, predicted, f"{random.mean():+.3e}"]
            rows.append([name, str(size), *row, f"{random.min():+.3e} to {random.max():+.3e}"])
    head = ["chooser", "k", "by others", f"{100 * result.attrs['level']:g} % interval", "where chosen"]
    runs = f" and {result.sizes['run']} runs" if result.sizes["run"] > 1 else ""
    say(
        (f"{store}: the mean loss without k examples minus with them", "bold"),
        f"; by {result.sizes['trusted']} trusted examples in {result.attrs['folds']} folds{runs}, none of "
        f"which judges what it chose ({seconds:.1f} s)",
    )
    frame = pd.DataFrame(rows, columns=[*head, "sum of scores", "random", "random, range"])
    print_table(frame, left=1, gap=2)
    say()
    say(result.attrs["verdict"])
    if dropped := int(result.is_influence_issue.sum()):
        sure = int(result.verified.sum())
        say(f"{sure} of these {dropped} are also in at least half of the sets that were judged")
    if caution := result.attrs.get("caution"):
        say(BEWARE, caution)
