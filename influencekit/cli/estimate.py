"""`influencekit estimate`: scores of every training example of a recorded run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from influencekit.cli.console import working
from influencekit.cli.examples import by_seed
from influencekit.cli.formats import ENDINGS, check_ending, save_dataset
from influencekit.cli.output import check_places, new_file
from influencekit.cli.parameters import PATH, STORE, shared
from influencekit.cli.ranks import process_group, rank
from influencekit.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from influencekit._trajectory.trajectory import Trajectory
    from influencekit.interfaces import Estimator, Query

__all__ = ["estimate"]


@click.command(short_help="Which examples mattered in a recorded run?")
@click.argument("store", type=STORE)
@click.option(
    "--estimator",
    default="dit",
    show_default=True,
    metavar="SPEC",
    help="dit, sgd-influence, if, loo, ... with options if you like: if:damping=0.1, loo:examples=32.",
)
@shared("query", "window", "removal", "average")
@click.option(
    "--parts",
    is_flag=True,
    help="Score the parts of examples, such as tokens, where the loss tells them apart (ik.Parts); they are "
    "called ID[part].",
)
@click.option(
    "--out",
    type=PATH,
    metavar="FILE",
    help="A new file for the scores: .zarr, .nc (netCDF), .csv (most harmful first, where one way of the "
    "query is better), or .html, a report to look at.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="How many examples of both ends, harmful and helpful, are printed.",
)
@click.option(
    "--trust",
    type=click.Choice(["auto", "retrain", "smooth", "none"]),
    default="auto",
    show_default=True,
    help="Can the scores be believed? retrain = agreement with retraining without 16 random examples; smooth "
    "= does training answer in proportion when 4 random examples lose weight (two trainings); auto takes the "
    "first for small models, the second for large ones. Where retrain is low, it also says which windows can "
    "be believed.",
)
@click.option(
    "--verify-top",
    type=click.IntRange(min=1),
    metavar="N",
    help="Retrain without each of the N most harmful examples (with --parts: parts), and show estimate and "
    "truth side by side.",
)
@click.option("--harmful", "which", flag_value="harmful", help="--verify-top takes this end: the default.")
@click.option("--helpful", "which", flag_value="helpful", help="--verify-top takes the other end.")
@click.option(
    "--lowers",
    "which",
    flag_value="lowers",
    help="--verify-top takes those whose removal lowers the query most: the default where neither way of it "
    "is better, as for a prediction.",
)
@click.option("--raises", "which", flag_value="raises", help="Those whose removal raises it most.")
@click.option(
    "--remove",
    type=PATH,
    metavar="FILE",
    help="Predict the joint effect of a set of examples, retrain without all, half and a quarter of it, and "
    "say how far the prediction holds. One id a line; blank lines and lines that begin with # do not count. "
    "Or the table that `curate --out` wrote: those that it marks. With --parts: a table with the columns id "
    "and part, such as --verify-top --out FILE.csv writes, which marks the parts without which it is better.",
)
@click.option(
    "--runs",
    type=click.IntRange(min=3),
    metavar="N",
    help="--remove also trains N - 1 runs whose start is moved by a thousandth, and sums over the set there: "
    "if it was chosen by these scores, their own sum is biased.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only say what it would take, --verify-top included, from a few steps, as influencekit plan does. "
    "--remove is not in it, nor what --trust adds where the scores cannot be believed.",
)
@click.option(
    "--contributions",
    type=PATH,
    metavar="FILE.zarr",
    help="A new store for the contributions of every occurrence, of which the scores are sums: "
    "influencekit.sum_over_windows makes those of other windows, without a sweep.",
)
@shared("executor", "slices", "escape-formulas", "code", "device", "data-dir", "threads")
def estimate(
    store: str, estimator: str, query: str, window: str, removal: Any, average: str | None, parts: bool,
    out: str | None, top: int, trust: str, verify_top: int | None, which: Any, remove: str | None,
    runs: int | None, dry_run: bool, contributions: str | None, executor: str | None, slices: str | None,
    escape_formulas: bool, code: str | None, device: str, data_dir: str | None, threads: int,
) -> None:  # fmt: skip
    """Score every training example of the run in STORE, and print the most harmful and most helpful ones.

    A score is the query without the example minus the query with it: for a loss, negative means harmful; for
    a margin, positive does. Where neither way is better, removal lowers or raises the query. Examples:

    \b
      influencekit estimate run.zarr
      influencekit estimate run.zarr --verify-top 20
      influencekit estimate run.zarr --remove suspects.txt --runs 9
      influencekit estimate mine.zarr --code train.py:parts
      influencekit estimate run.zarr --estimator loo --executor processes:4
      influencekit estimate run.zarr --query prediction:example=3 --window step:10-40 --out scores.csv
      torchrun --nproc-per-node 2 -m influencekit estimate run.zarr --trust none
    """
    check_ending(out, endings=(*ENDINGS, ".html"))
    if runs and not remove:
        raise InputError("--runs says on how many runs the set of --remove is summed; name its file, too")
    if parts and (trust in ("retrain", "smooth") or str(out).endswith(".html")):
        raise InputError(
            "--parts goes without --trust and a report, which are about examples; --verify-top retrains "
            "without the top parts, --estimator loo:examples=32 without 32 random ones"
        )
    check_places({"--out": out, "--contributions": contributions, "--slices": slices})
    if contributions and not contributions.endswith(".zarr"):
        raise InputError(f"--contributions {contributions} must end in .zarr: it is a store")
    if dry_run and (ignored := [n for n, v in {"--out": out, "--contributions": contributions}.items() if v]):
        refusal = "--dry-run only says what it would take, and writes no file; leave out"
        raise InputError(f"{refusal} {' and '.join(ignored)}, or --dry-run")
    if dry_run:
        from influencekit.cli.plan import plan_of_store

        return plan_of_store(
            store, estimator, query, window, removal, code, device, data_dir, threads, verify_top, parts
        )
    with new_file(None if rank() else out) as path:
        with working():
            import influencekit as ik
            from influencekit._direction import better_of, which_end
            from influencekit._verbs.by_part import as_examples
            from influencekit.cli import retrained
            from influencekit.cli.problems import RunSource, reopen, use_device, workers
            from influencekit.registry import make

            asked, method = make("query", query), make("estimator", estimator)
            end = average and make("average", average)
            which = which_end(which, better_of(asked), f"query {query}")
            ids = retrained.read_ids(remove, parts) if remove else None
            with process_group(device) as group:
                chip = use_device(device, threads)
                who = workers(executor, slices, RunSource(store, data_dir, chip, code))
                trajectory = reopen(store, data_dir, chip, code)
                if ids:
                    retrained.check_ids(trajectory, ids)
                how = {"parts": parts, "executor": who, "group": group}
                scores = _scores(trajectory, asked, method, window, removal, end, contributions, **how)
            if rank():
                return
            trusted, said = _trust(trajectory, asked, method, scores, "none" if parts else trust)
            scores = scores.assign_attrs(said)
            verified = removed = None
            began = time.perf_counter()
            if verify_top:
                verified = ik.verify_top(
                    trajectory, asked, scores, verify_top, which, parts=parts, executor=who
                )
                verified.attrs["seconds"], began = time.perf_counter() - began, time.perf_counter()
            if ids:
                removed = ik.remove(trajectory, asked, ids, scores, runs=runs, executor=who)
                removed.attrs["seconds"] = time.perf_counter() - began
            result = shown = retrained.attach(by_seed(scores, trajectory, store), verified, removed)
            if parts:
                shown = by_seed(as_examples(scores), trajectory, store)
                shown = retrained.attach(shown, verified, removed)
            if path and path.suffix == ".html":
                from influencekit.cli.report import command_of

                page = ik.report(
                    trajectory, scores, verified, trusted, command=command_of(click.get_current_context())
                )
                path.write_text(page.html, encoding="utf-8")
        if path and path.suffix == ".csv":
            from influencekit.cli.saving import write_ranking

            write_ranking(shown, path, escape_formulas)
        elif path and path.suffix != ".html":
            save_dataset(result, path)
    from influencekit.cli.console import say
    from influencekit.cli.problems import tell_unsent
    from influencekit.cli.ranking import print_ranking

    tell_unsent(executor, scores, verified, removed)
    print_ranking(shown, top, bool(verify_top))
    if verified is not None:
        say()
        retrained.print_verified(shown, verified)
    if removed is not None:
        say()
        retrained.print_removed(removed, "parts" if parts else "examples")
    if out:
        say(f"saved in {out}")
    if contributions:
        say(f"contributions saved in {contributions}")


def _scores(
    trajectory: Trajectory, query: Query, estimator: Estimator, window: str, removal: Any, average: Any,
    contributions: str | None, *, parts: bool, executor: Any, group: Any,
) -> xr.Dataset:  # fmt: skip
    """The scores; with `contributions`, sums of what is written there."""
    import influencekit as ik
    from influencekit._direction import better_of, written
    from influencekit.windows import parse_windows

    if contributions is None:
        return ik.estimate(
            trajectory, query, estimator, window, removal, average, parts, executor=executor, group=group
        )
    chosen, steps = parse_windows(window, trajectory.plan.epoch.tolist(), removal), trajectory.steps
    at = sorted({t for w in chosen for t in w.evaluations(steps) if t})
    found = ik.contributions(trajectory, query, estimator, at, contributions, average, parts, group=group)
    found.attrs = {name: value for name, value in found.attrs.items() if name not in ("status", "done_from")}
    scores = ik.sum_over_windows(found, chosen)
    scores.influence.attrs |= written(better_of(query))
    return scores


def _trust(
    trajectory: Trajectory, query: Query, estimator: Estimator, scores: xr.Dataset, method: Any
) -> tuple[xr.Dataset | None, dict[str, Any]]:
    """What `trust` gave, and the attrs `trust` and `trust_...`: method, how, limit, ..., seconds; none for
    the truth, and for sets.

    Where it is low, and windows can be retrained together, other windows say what may be believed.
    """
    import influencekit as ik

    exact = ik.Claim.EXACT in estimator.claims
    if method == "none" or (method == "auto" and (exact or "intercept" in scores)):
        return None, {}
    began = time.perf_counter()
    found = ik.trust(trajectory, query, scores, method)
    about = {f"trust_{name}": value for name, value in found.attrs.items() if name != "caution"}
    about |= {f"trust_{n}": found[n].mean().item() for n in ("pearson", "spearman") if n in found}
    about |= {"trust_scale": found.check_value.sel(check="scale").item()}
    if found.sizes["window"] > 1:
        about["trust_by_window"] = found.trust.values.tolist()
    elif (
        found.overall < found.limit
        and found.method == "retrain"
        and ik.Claim.WINDOWED in estimator.claims
        and trajectory.ending is None
        and "average" not in scores.attrs
    ):
        about["trust_believed"] = ik.trust(trajectory, query, estimator, method, windows="horizons").believed
    else:
        del about["trust_believed"]  # of one window it says nothing more
    return found, {"trust": found.overall.item(), **about, "trust_seconds": time.perf_counter() - began}
