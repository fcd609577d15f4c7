"""`influencekit compare`: record, estimate, retrain, and say how well the estimates agree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from influencekit._address import place
from influencekit.cli.ceiling import Ceiling
from influencekit.cli.console import working, write
from influencekit.cli.examples import described
from influencekit.cli.formats import to_json
from influencekit.cli.output import check_places, new_folder, replaced_file
from influencekit.cli.parameters import PATH, Seeds, shared
from influencekit.cli.report import command_of
from influencekit.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from influencekit._trajectory.trajectory import Trajectory
    from influencekit.cli.problems import WorkloadSource
    from influencekit.interfaces import Estimator, Query

__all__ = ["compare"]


@click.command(short_help="How well do estimators agree with ground truth?")
@click.argument("workload", default="mnist-1v7-dnn", metavar="[WORKLOAD|STORE]")
@click.option(
    "--estimators",
    default="dit,if,loo",
    show_default=True,
    metavar="SPECS",
    help="Joined by commas, each with options if you like: dit,if:damping=0.1,dit:curvature=gauss-newton.",
)
@click.option(
    "--reference",
    default="loo",
    show_default=True,
    metavar="SPEC",
    help="The ground truth.",
)
@click.option(
    "--ceiling",
    type=Ceiling(),
    is_flag=False,
    flag_value="0.001",
    metavar="[FRACTION|seeds]",
    help="How well leave-one-out agrees with itself, and each estimate as a part of that. It is repeated "
    "over runs whose start is moved by this fraction of its size (0.001 if you do not say), or with other "
    "seeds of start and order on the same examples. Costs --ceiling-runs times loo.",
)
@click.option(
    "--ceiling-runs",
    type=int,
    default=8,
    show_default=True,
    metavar="R",
    help="How many runs, the first one among them, say what the ceiling is.",
)
@click.option(
    "--cross-seed",
    is_flag=True,
    help="Agreement of each seed's estimate with the other seeds' reference, too, where --seeds have the "
    "same examples: give a bundled WORKLOAD data_seed=0. --ceiling seeds shows it as well.",
)
@shared("query", "window", "removal", "average")
@click.option(
    "--seeds",
    type=Seeds(),
    default="0",
    show_default=True,
    metavar="SEEDS",
    help="0-15 (both included: 16 runs), 3, or 0-3,8. A seed decides the draw of the examples, the initial "
    "parameters and the order of the batches; with data_seed=0 in WORKLOAD, the last two.",
)
@shared("setting", "recorder", "device")
@click.option(
    "--loo-examples",
    type=int,
    metavar="N",
    help="Retrain without N examples, drawn at random, instead of without each; agreement is over these.",
)
@click.option(
    "--evaluate",
    metavar="NAMES",
    help="More than agreement, by retraining: lds, leave-k-out, brittleness, qld, mislabel-auc, taylor, or "
    "one of a plugin (influencekit list evaluations). Joined by commas, each with options if you like: "
    "lds:m=200,brittleness.",
)
@click.option(
    "--subsets",
    type=PATH,
    metavar="DIR",
    help="A folder for the models that --evaluate retrains (lds, leave-k-out, qld), and for what --ceiling "
    "repeats. What is there is not retrained: a call that was killed continues, another query or estimator "
    "costs no retraining of such models.",
)
@click.option(
    "--jaccard",
    "top",
    type=click.Choice(["signed", "abs", "harmful"]),
    default="signed",
    show_default=True,
    help="Which 30 % of the examples jaccard compares: the highest by signed value (for a loss the most "
    "helpful), by absolute value, or the most harmful.",
)
@click.option(
    "--out",
    type=PATH,
    metavar="DIR",
    help="A new folder for the scores (zarr), tables (CSV, JSON), plots (PNG) and a report of the first seed "
    "and estimator (HTML).",
)
@click.option(
    "--json",
    "json_file",
    type=PATH,
    metavar="FILE",
    help="The figures as JSON; - is stdout, and no table then.",
)
@shared("executor", "slices", "escape-formulas", "code", "data-dir", "threads")
@click.pass_context
def compare(
    ctx: click.Context, workload: str, estimators: str, reference: str, ceiling: Any, ceiling_runs: int,
    cross_seed: bool, query: str, window: str, removal: Any, average: str | None, seeds: list[int],
    setting: str | None, recorder: str, device: str,
    loo_examples: int | None, evaluate: str | None, subsets: str | None, top: Any, out: str | None,
    json_file: str | None, executor: str | None, slices: str | None, escape_formulas: bool, code: str | None,
    data_dir: str | None, threads: int,
) -> None:  # fmt: skip
    """Train WORKLOAD, or take the run in STORE; estimate the influence of every training example, retrain
    without each of them, and say how well the estimates agree with that.

    WORKLOAD is mnist-1v7-dnn unless you name another (influencekit list workloads), and may have options,
    as in mnist-1v7-lr:epochs=5. STORE is the path of a recorded run, such as that of your own loop. Examples:

    \b
      influencekit compare --estimators dit,if,loo
      influencekit compare mnist-1v7-dnn --seeds 0-15 --setting paper --out paper
      influencekit compare mnist-1v7-cnn --loo-examples 32
      influencekit compare mnist-1v7-dnn --estimators dit --ceiling 0.01
      influencekit compare --estimators dit --window each-epoch --removal window
      influencekit compare mnist-1v7-lr --evaluate lds,brittleness --subsets subsets
      influencekit compare mnist-1v7-lr --seeds 0-15 --executor processes:4 --slices slices
      influencekit compare run.zarr --code train.py:parts
    """
    json_file = "-" if json_file == "/dev/stdout" else json_file
    file = None if json_file == "-" else json_file
    check_places({"--out": out, "--json": file, "--subsets": subsets, "--slices": slices})
    with new_folder(out) as folder, replaced_file(file, "--json") as json_path:
        with working():
            from influencekit._verbs.compare import compare as verb
            from influencekit.cli.evaluations import save_evaluations
            from influencekit.cli.problems import (
                RunSource,
                WorkloadSource,
                is_store,
                reopen,
                tell_unsent,
                use_device,
                workers,
            )
            from influencekit.cli.summary import summarise
            from influencekit.evaluation import summary
            from influencekit.registry import make

            methods, truth, typed = _methods(estimators, reference, loo_examples)
            asked, chip = make("query", query), use_device(device, threads)
            training: dict[str, Any] = {"average": make("average", average) if average else None}
            if is_store(workload, code):
                workload = str(place(workload))
                _refuse_training_options(ctx, workload)
                run = reopen(workload, data_dir, chip, code)
                source: _Recorded | _Memory = _Recorded(workload, run)
                training["executor"] = workers(executor, slices, RunSource(workload, data_dir, chip, code))
                problem = run.workload
            else:
                training |= {"seeds": seeds, "recorder": make("recorder", recorder)}
                training["executor"] = workers(executor, slices)
                source = build = _Memory(WorkloadSource(workload, setting, data_dir, chip))
                problem = build(seeds[0])
            _check(problem, asked, window, removal)
            repeats = _repeats(ctx, ceiling, ceiling_runs, cross_seed, subsets)
            evaluating = _evaluating(evaluate, [*methods, truth], subsets, asked, problem, bool(ceiling))
            first = _First(evaluating) if folder else None
            result = verb(
                source.compared, methods, truth, asked, window, removal, each=first or evaluating, top=top,
                **training, **repeats,
            )  # fmt: skip
            result = source.describe(_named(result, typed))
            found = summarise(result)
            evaluations = evaluating.results(typed) if evaluating else {}
            if evaluations:
                found["evaluation"] = {k: summary(one) for k, one in evaluations.items()}
            if folder:
                from influencekit.cli.saving import save_comparison

                save_comparison(result, found, problem, folder, escape_formulas)
                save_evaluations(evaluations, folder, escape_formulas)
                assert first is not None
                first.report(result, folder, command_of(ctx))
        if json_path:
            json_path.write_text(to_json(found), encoding="utf-8")
    tell_unsent(executor, result)
    if json_file == "-":
        write(to_json(found))
        return
    from influencekit.cli.comparison import print_comparison

    print_comparison(result, found, evaluations, [name for name in (out, file) if name])


def _repeats(
    ctx: click.Context, ceiling: Any, runs: int, cross_seed: bool, subsets: str | None
) -> dict[str, Any]:
    """The arguments of the verb for the ceiling and other seeds. Errors: runs without a ceiling, a file where
    the folder `subsets` is to be."""
    from influencekit._files import in_the_way

    if subsets is not None and (error := in_the_way(Path(subsets))):
        raise InputError(f"--subsets {error}")
    typed = ctx.get_parameter_source("ceiling_runs") is click.core.ParameterSource.COMMANDLINE
    if ceiling is None and typed:
        raise InputError("--ceiling-runs says how often --ceiling repeats the retraining; add --ceiling")
    store = subsets if ceiling is not None else None
    return {"ceiling": ceiling, "runs": runs, "cross_seed": cross_seed, "store": store}


def _evaluating(
    evaluate: str | None, methods: list[Any], subsets: str | None, query: Query, workload: Any, kept: bool
) -> Any:
    """What runs the evaluations of every seed; None where none is asked for. `kept`: something else is kept
    in `subsets`."""
    from influencekit.cli.evaluations import Evaluations

    if evaluate is None:
        if subsets is not None and not kept:
            raise InputError("--subsets keeps what --evaluate retrains; say what with --evaluate lds")
        return None
    return Evaluations(evaluate, methods, subsets, query, workload)


class _First:
    """What `compare` calls with every seed: keeps the first run for the report, and calls another."""

    def __init__(self, then: Any) -> None:
        self._then = then
        self._run: Trajectory | None = None

    def __call__(self, seed: int, run: Trajectory, scores: xr.Dataset) -> None:
        self._run = self._run or run
        if self._then is not None:
            self._then(seed, run, scores)

    def report(self, result: xr.Dataset, folder: Path, command: str) -> None:
        """Write report.html."""
        import influencekit as ik
        from influencekit._report.comparison import of_comparison

        assert self._run is not None
        page = ik.report(self._run, **of_comparison(result, self._run), command=command)
        (folder / "report.html").write_text(page.html, encoding="utf-8")


class _Memory:
    """Builds workloads, and remembers of each seed's what the result should say of it."""

    def __init__(self, source: WorkloadSource) -> None:
        self._source, self._info = source, dict[int, dict[str, Any]]()
        self.compared = self

    def __call__(self, seed: int) -> Any:
        workload = self._source(seed)
        self._info[seed] = {**workload.info, "steps": workload.plan.steps}
        return workload

    def describe(self, result: xr.Dataset) -> xr.Dataset:
        """`result` with its ids by seed, and with what rebuilds the first seed's workload."""
        return described(result, self._info[int(result.seed[0])])


class _Recorded:
    """A recorded run, in the place of workloads that are trained."""

    def __init__(self, store: str, run: Trajectory) -> None:
        self._store, self.compared = store, run

    def describe(self, result: xr.Dataset) -> xr.Dataset:
        """`result` with its ids by seed, and with the store that it is of."""
        run = self.compared
        return described(result, {**run.workload.info, "steps": run.steps}, self._store)


def _refuse_training_options(ctx: click.Context, store: str) -> None:
    """Errors: options of training, typed for a run that was trained."""
    for option in ("seeds", "setting", "recorder"):
        if ctx.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE:
            raise InputError(
                f"--{option} is for workloads, which are trained anew, and {store} is a recorded run; leave "
                "it out"
            )


def _named(result: xr.Dataset, typed: dict[str, str]) -> xr.Dataset:
    """`result` with the estimators called as they were typed: `loo` stays `loo` with --loo-examples."""
    names = [typed[name] for name in result.estimator.values.tolist()]
    return result.assign_coords(estimator=names).assign_attrs(reference=typed[result.attrs["reference"]])


def _methods(
    estimators: str, reference: str, loo_examples: int | None
) -> tuple[list[Estimator], Estimator, dict[str, str]]:
    """The estimators and the reference as objects, with `examples=N` for those that take a subset, and
    {label: label as typed}. Errors: an estimator that is named twice."""
    from dataclasses import fields, replace

    from influencekit.registry import label, make, split

    typed = methods = [make("estimator", spec) for spec in [*split(estimators), reference]]
    if loo_examples is not None:
        takes = ["examples" in {f.name for f in fields(m)} for m in methods]
        if not any(takes):
            raise InputError("--loo-examples: none of the estimators is loo, so there is nothing to restrict")
        methods = [replace(m, examples=loo_examples) if t else m for m, t in zip(methods, takes, strict=True)]
    names = [label(method) for method in methods]
    if twice := [name for k, name in enumerate(names[:-1]) if name in names[:k]]:
        raise InputError(f"--estimators {estimators}: {twice[0]} stands twice; name it once")
    return methods[:-1], methods[-1], dict(zip(names, map(label, typed), strict=True))


def _check(workload: Any, query: Query, window: str, removal: Any) -> None:
    """Find mistakes in the query and the windows before anything is trained."""
    from influencekit.windows import parse_windows

    query.labels(workload)
    parse_windows(window, workload.plan.epoch.tolist(), removal)
