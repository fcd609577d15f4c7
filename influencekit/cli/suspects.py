"""`influencekit suspects`: which labels are wrong, by the score that finds planted wrong labels best."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from influencekit.cli.console import BEWARE, print_table, say, working
from influencekit.cli.formats import check_ending, save_dataset, write_csv
from influencekit.cli.output import check_places, new_file
from influencekit.cli.parameters import PATH, STORE, shared

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["suspects"]


@click.command(short_help="Which labels are wrong?")
@click.argument("store", type=STORE)
@click.option(
    "--scores",
    metavar="SPECS",
    help="Scores that compete, with options if you like: final-loss,out-of-fold:folds=8. [default: "
    "final-loss, aum and out-of-fold, and with trusted examples dit]",
)
@click.option(
    "--top",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    help="How many of the most suspicious are shown, and retrained without and with another label.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=2),
    default=4,
    show_default=True,
    metavar="N",
    help="How often wrong labels are planted and the run is trained with them.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is drawn.")
@click.option(
    "--out",
    type=PATH,
    metavar="FILE",
    help="A new file. .csv: every training example, the most suspicious first, and what to do with it, as "
    "`estimate --remove` and influencekit.remove read it; .zarr or .nc: the whole result.",
)
@shared("trusted", "escape-formulas", "code", "device", "data-dir", "threads")
def suspects(
    store: str, scores: str | None, trusted: str | None, top: int, repeats: int, seed: int, out: str | None,
    escape_formulas: bool, code: str | None, device: str, data_dir: str | None, threads: int,
) -> None:  # fmt: skip
    """Find wrong labels in the training examples of the run in STORE, by the score that finds planted wrong
    labels best in the same data.

    Some labels are flipped, the run is trained again with them, and every score says which it suspects. The
    verdict says how many labels look wrong, which score leads, and how many of the marked ones should be
    wrong. Effects are on the mean loss of trusted examples: after minus before, negative = better. Examples:

    \b
      influencekit suspects run.zarr
      influencekit suspects run.zarr --top 30 --out wrong.csv
      influencekit suspects mine.zarr --code train.py:parts --trusted train.py:trusted
      influencekit estimate run.zarr --remove wrong.csv
    """
    check_ending(out)
    check_places({"--out": out})
    with new_file(out) as path:
        with working():
            import influencekit as ik
            from influencekit.cli.problems import reopen, use_device
            from influencekit.cli.user_code import trusted_from
            from influencekit.registry import make

            methods: Any = None if scores is None else [make("estimator", each) for each in scores.split(",")]
            trajectory = reopen(store, data_dir, use_device(device, threads), code)
            given = trusted_from(trusted)
            began = time.perf_counter()
            result = ik.suspects(trajectory, given, methods, repeats=repeats, verify=top, seed=seed)
            seconds = time.perf_counter() - began
        frame = _frame(result)
        if path and path.suffix == ".csv":
            write_csv(_listed(result, frame), path, escape_formulas)
        elif path:
            save_dataset(result, path)
    _print(result, frame, store, top, seconds)
    if out:
        say(f"saved in {out}")


def _frame(result: xr.Dataset) -> pd.DataFrame:
    """A row for every training example, the most suspicious first."""
    from influencekit.cli.frames import pandas

    pd = pandas()
    names = ["given", "predicted", "suspicion", "learnt", "action"]
    if not result.attrs["trusted"]:
        names.remove("suspicion")  # nobody knows it
    columns: dict[str, Any] = {n: result[n].values for n in names if n in result}
    frame = pd.DataFrame({"id": [str(each) for each in result.train.values.tolist()]} | columns)
    return frame.iloc[result["rank"].values.argsort(kind="stable")]


def _listed(result: xr.Dataset, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the file: what the result has by example, and the marks under the name that lists have."""
    own = [name for name in _BY_EXAMPLE if name in result]
    columns = {name: result[name].values[frame.index] for name in own}
    listed = frame.assign(**columns, is_influence_issue=columns["is_label_issue"])
    return listed.assign(rank=listed["rank"].astype("Int64"))


_BY_EXAMPLE = ("rank", "remove_effect", "relabel_effect", "is_label_issue")


def _print(result: xr.Dataset, frame: pd.DataFrame, store: str, top: int, seconds: float) -> None:
    """How the scores find planted labels, the most suspicious examples with effects, and the verdict."""
    from influencekit.cli.frames import pandas

    pd = pandas()
    rows = []
    for name in result.by.values.tolist():
        one = result.sel(by=name)
        auc, low, high, precision = (float(one[n]) for n in ("auc", "auc_low", "auc_high", "precision"))
        lead = "leads" if name == result.attrs["lead"] else ""
        rows.append([name, f"{auc:.3f}", f"{low:.3f} to {high:.3f}", f"{100 * precision:.0f} %", lead])
    say(
        (f"{store}: what scores find of planted {result.attrs['planted']}", "bold"),
        f" ({seconds:.1f} s)",
    )
    head = ["score", "auc", f"{100 * result.attrs['level']:g} % interval", "found of as many", ""]
    print_table(pd.DataFrame(rows, columns=head), left=1, gap=2)
    if top:
        shown = frame.head(min(top, result.sizes["k"])).copy()  # the others have no rank
        if "suspicion" in shown:
            shown["suspicion"] = ["-" if v != v else f"{v:.2f}" for v in shown["suspicion"]]
        if "learnt" in shown:
            shown["learnt"] = ["never" if v != v else f"{v:.0f}" for v in shown["learnt"]]
        for name in ("remove_effect", "relabel_effect"):
            if name in result:
                values = result[name].values[shown.index]
                shown[name.replace("_", " ")] = ["-" if v != v else f"{v:+.2e}" for v in values]
        say()
        print_table(shown.reset_index(drop=True), "the most suspicious examples", left=1, gap=2)
        _print_sets(result)
    say()
    say(result.attrs["verdict"])
    if caution := result.attrs.get("caution"):
        say(BEWARE, caution)


def _print_sets(result: xr.Dataset) -> None:
    """What acting on all of them at once does."""
    for name in result["set"].values.tolist() if "set" in result.coords else ():
        one = result.sel(set=name)
        done = []
        for action in ("remove", "relabel"):
            if f"{action}_set" in one:
                values = [float(one[f"{action}_set{end}"]) for end in ("", "_low", "_high")]
                done.append(f"{action} {values[0]:+.2e} ({values[1]:+.2e} to {values[2]:+.2e})")
        say(f"the {int(one.set_size)} {name} together: {', '.join(done)}")
