"""`influencekit report`: one HTML file to look at, of a recorded run."""

from __future__ import annotations

import os
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from influencekit.cli.console import BEWARE, say, working
from influencekit.cli.formats import check_ending, read_dataset
from influencekit.cli.output import check_places, new_file
from influencekit.cli.parameters import PATH, STORE, shared

if TYPE_CHECKING:
    import xarray as xr

    from influencekit._trajectory.trajectory import Trajectory
    from influencekit.interfaces import Estimator, Query

__all__ = ["command_of", "report"]

_WINDOWS = 60  # epochs; of more, the whole run is one window


@click.command(short_help="One HTML file to look at: which examples did what, and is it true?")
@click.argument("store", type=STORE)
@click.option("--estimator", default="dit", show_default=True, metavar="SPEC", help="dit, if, loo, ...")
@shared("query")
@click.option(
    "--window",
    default="auto",
    show_default=True,
    metavar="WINDOWS",
    help="When in training: as of estimate, or auto: each epoch, where the estimator can and there are at "
    "most 60, so that the report shows when an example mattered; else the whole run.",
)
@shared("removal", "average")
@click.option(
    "--out", type=PATH, default="report.html", show_default=True, metavar="FILE.html", help="A new file."
)
@click.option(
    "--verify",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    help="Retrain without each of the N examples at both ends, so that the truth stands beside the estimate.",
)
@click.option(
    "--points",
    type=click.IntRange(min=0),
    default=16,
    show_default=True,
    metavar="N",
    help="Show the N worst test examples with the training examples that made them so. Costs the estimator's "
    "time for N queries.",
)
@click.option(
    "--trust",
    type=click.Choice(["auto", "retrain", "smooth", "none"]),
    default="auto",
    show_default=True,
    help="Can the scores be believed? As of estimate.",
)
@click.option(
    "--ceiling",
    type=click.IntRange(min=2),
    metavar="RUNS",
    help="How well retraining agrees with itself: leave-one-out of all examples, repeated over so many runs "
    "whose start is moved by a thousandth. Its means and intervals stand beside the scores. Costs RUNS times "
    "loo.",
)
@click.option(
    "--suspects",
    type=PATH,
    metavar="FILE",
    help="What `influencekit suspects --out FILE.zarr` (or .nc) wrote of this run; a list of its own.",
)
@click.option(
    "--curate",
    type=PATH,
    metavar="FILE",
    help="The same of `influencekit curate --out`; its drops are issues.",
)
@click.option(
    "--show",
    metavar="FILE.py:NAME",
    help="A function of an example that gives text, a picture of PIL or a figure of matplotlib. It is run. "
    "Or one of the words picture, tokens, row, wave, none. [default: by the shape of the input]",
)
@click.option("--names", metavar="FILE.py:NAME", help="Names of the columns of a table, or of the tokens.")
@click.option(
    "--issues",
    type=PATH,
    metavar="FILE",
    help="Also a table of all examples: .csv or .parquet (needs pyarrow).",
)
@click.option("--card", type=PATH, metavar="FILE.md", help="Also a card for a hub of data sets.")
@click.option("--title", metavar="TEXT", help="The title of the page.")
@shared("code", "device", "data-dir", "threads")
@click.pass_context
def report(
    ctx: click.Context, store: str, estimator: str, query: str, window: str, removal: Any,
    average: str | None, out: str, verify: int, points: int, trust: str, ceiling: int | None,
    suspects: str | None, curate: str | None,
    show: str | None, names: str | None, issues: str | None, card: str | None, title: str | None,
    code: str | None, device: str, data_dir: str | None, threads: int,
) -> None:  # fmt: skip
    """Score the run in STORE, retrain to test the scores, and write a page that shows the examples with their
    labels, predictions and effects. The page is one file: it needs no network.

    \b
      influencekit report run.zarr
      influencekit report run.zarr --out digits.html --verify 20 --points 0
      influencekit report mine.zarr --code train.py:parts --show train.py:picture
    """
    files = {
        "--out": (out, (".html",)),
        "--issues": (issues, (".csv", ".parquet")),
        "--card": (card, (".md",)),
    }
    for option, (name, endings) in files.items():
        check_ending(name, option, endings)
    given = {"suspected": ("--suspects", suspects), "curated": ("--curate", curate)}
    for option, name in given.values():
        check_ending(name, option, (".zarr", ".nc"))
    check_places({option: name for option, (name, _) in files.items()})
    with ExitStack() as stack:
        paths = [(stack.enter_context(new_file(name, option)), name) for option, (name, _) in files.items()]
        with working():
            import influencekit as ik
            from influencekit._report.marks import marks_of
            from influencekit._report.scores import whole
            from influencekit._report.twins import write
            from influencekit._report.words import counted
            from influencekit._verbs.results import windows_of
            from influencekit.cli.problems import reopen, use_device
            from influencekit.cli.user_code import value_from
            from influencekit.registry import make

            asked, method = make("query", query), make("estimator", estimator)
            end = make("average", average) if average else None
            words = show if show is None or ":" not in show else value_from(show, "--show", "show", False)
            named = None if names is None else value_from(names, "--names", "names")
            run = reopen(store, data_dir, use_device(device, threads), code)
            lists = {
                who: read_dataset(Path(name), option[2:]) for who, (option, name) in given.items() if name
            }
            marks_of(run, list(lists.items()))  # before the run is scored and retrained
            windows = window if window != "auto" else "full" if end else _auto(run, method)
            scores = ik.estimate(run, asked, method, windows, removal, end)
            retrained, trusted = _tested(run, asked, method, scores, verify, trust)
            again = None
            untested = _untested(scores, method, verify, trust, ceiling)
            if ceiling is not None and not untested:
                span = windows_of(whole(scores))
                again = ik.ceiling(run, asked, ceiling, windows=span, average=end)
            there = run.workload.test is not None
            page = ik.report(
                run, scores, retrained, trusted, again, points=points if there else None, show=words,
                names=named, title=title, command=command_of(ctx), **lists,
            )  # fmt: skip
            table = (
                None
                if issues is None
                else Path(os.path.relpath(issues, Path(card or issues).parent)).as_posix()
            )
            for path, name in paths:
                if path is not None and name is not None:
                    write(page.record, page.html, page.issues, path, Path(name).suffix, table)
    for warning in filter(None, (*page.record.warnings, untested)):
        say(BEWARE, warning)
    marked, size = int(page.issues.is_influence_issue.sum()), len(page.html.encode()) / 1e6
    names_of_files = ", ".join(name for _, name in paths if name)
    shown = counted(len(page.record.examples), "example")
    say(f"saved in {names_of_files} ({size:.1f} MB): {shown}, {marked} of them issues")


def _auto(run: Trajectory, method: Estimator) -> str:
    """Each epoch, where that can be done and shown."""
    from influencekit import Claim

    epochs = len(set(run.plan.epoch.tolist()))
    return "each-epoch" if Claim.WINDOWED in method.claims and epochs <= _WINDOWS else "full"


def _untested(scores: xr.Dataset, method: Estimator, verify: int, trust: str, ceiling: int | None) -> str:
    """What was asked to test the scores and cannot be, as their windows are not one span; else nothing."""
    from influencekit import Claim
    from influencekit._report.scores import span_of

    window, words = span_of(scores)
    exact = Claim.EXACT in method.claims
    asked = [("--verify", verify and not exact), ("--trust", trust != "none" and not exact)]
    options = [name for name, there in [*asked, ("--ceiling", ceiling)] if there]
    if window is not None or not options:
        return ""
    return (
        f"{', '.join(options)} left out: {words}, is no window that can be retrained; ask for one window, "
        "such as --window full"
    )


def _tested(
    run: Trajectory, query: Query, method: Estimator, scores: xr.Dataset, count: int, trust: Any
) -> tuple[list[xr.Dataset], xr.Dataset | None]:
    """What retraining says: of both ends, and of some examples at random. None of it for what is exact, or
    where the windows are not one span."""
    import influencekit as ik
    from influencekit._direction import better_of, ends
    from influencekit._report.scores import span_of, whole

    if ik.Claim.EXACT in method.claims:
        return [scores], None
    if span_of(scores)[0] is None:
        return [], None
    one = whole(scores)
    retrained = []
    if count:
        for which, _ in ends(better_of(query)):
            retrained.append(ik.verify_top(run, query, one, count, which))
    return retrained, None if trust == "none" or "intercept" in scores else ik.trust(run, query, one, trust)


def command_of(ctx: click.Context) -> str:
    """The command as it was typed, as a shell takes it."""
    parts = [ctx.command_path]
    for param in ctx.command.params:
        if ctx.get_parameter_source(param.name or "") is not click.core.ParameterSource.COMMANDLINE:
            continue
        value = ctx.params[param.name or ""]
        if isinstance(param, click.Option):
            parts.append(param.opts[0])
            if param.is_flag:
                continue
        parts.append(",".join(map(str, value)) if isinstance(value, list) else str(value))
    return " ".join([parts[0], *map(shlex.quote, parts[1:])])
