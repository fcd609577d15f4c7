"""`influencekit compare`: record, estimate, retrain, and say how well the estimates agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from influencekit.cli.console import write
from influencekit.cli.output import new_file, new_folder, to_json
from influencekit.cli.parameters import Seeds, shared
from influencekit.cli.progress import progress
from influencekit.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from influencekit.cli.problems import WorkloadSource
    from influencekit.interfaces import Estimator, Query

__all__ = ["compare"]


@click.command(short_help="How well do estimators agree with ground truth?")
@click.argument("workload", default="mnist-1v7-dnn")
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
@shared("query", "window", "removal", "average")
@click.option(
    "--seeds",
    type=Seeds(),
    default="0",
    show_default=True,
    metavar="SEEDS",
    help="0-15 (both included: 16 runs), 3, or 0-3,8. A seed decides the draw of the examples, the initial "
    "parameters and the order of the batches.",
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
    help="More than agreement, by retraining: lds, leave-k-out, brittleness, mislabel-auc, taylor, or one of "
    "a plugin (influencekit list evaluations). Joined by commas, each with options if you like: "
    "lds:m=200,brittleness.",
)
@click.option(
    "--subsets",
    metavar="DIR",
    help="A folder for the models that --evaluate retrains (lds, leave-k-out). What is there is not "
    "retrained: a call that was killed continues, another query or estimator costs no retraining.",
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
    metavar="DIR",
    help="A new folder for the scores (zarr), tables (CSV, JSON) and plots (PNG).",
)
@click.option(
    "--json", "json_file", metavar="FILE", help="The figures as JSON; - is stdout, and no table then."
)
@shared("data-dir", "threads")
def compare(
    workload: str, estimators: str, reference: str, query: str, window: str, removal: Any,
    average: str | None, seeds: list[int], setting: str | None, recorder: str, device: str,
    loo_examples: int | None, evaluate: str | None, subsets: str | None, top: Any, out: str | None,
    json_file: str | None, data_dir: str | None, threads: int,
) -> None:  # fmt: skip
    """Train WORKLOAD, estimate the influence of every training example, retrain without each of them, and
    say how well the estimates agree with that.

    WORKLOAD is mnist-1v7-dnn unless you name another (influencekit list workloads), and may have options,
    as in mnist-1v7-lr:epochs=5. Examples:

    \b
      influencekit compare --estimators dit,if,loo
      influencekit compare mnist-1v7-dnn --seeds 0-15 --setting paper --out paper
      influencekit compare mnist-1v7-cnn --loo-examples 32
      influencekit compare --estimators dit --window each-epoch --removal window
      influencekit compare mnist-1v7-lr --evaluate lds,brittleness --subsets subsets
    """
    file = None if json_file == "-" else json_file
    with new_folder(out) as folder, new_file(file, "--json", replace=True) as json_path:
        with progress():
            import influencekit as ik
            from influencekit.cli.evaluations import save_evaluations
            from influencekit.cli.problems import WorkloadSource, use_device
            from influencekit.cli.summary import summarise
            from influencekit.evaluation import summary
            from influencekit.registry import make

            methods, truth, typed = _methods(estimators, reference, loo_examples)
            asked, keeps = make("query", query), make("recorder", recorder)
            end = average and make("average", average)
            source = WorkloadSource(workload, setting, data_dir, use_device(device, threads))
            build = _Memory(source)
            problem = build(seeds[0])
            _check(problem, asked, window, removal)
            evaluating = _evaluating(evaluate, [*methods, truth], subsets, asked, problem)
            result = ik.compare(
                build, methods, truth, asked, window, removal, seeds, keeps, evaluating, top, end
            )
            result = build.describe(_named(result, typed))
            found = summarise(result)
            evaluations = evaluating.results(typed) if evaluating else {}
            if evaluations:
                found["evaluation"] = {k: summary(one) for k, one in evaluations.items()}
            if folder:
                from influencekit.cli.examples import pictures
                from influencekit.cli.saving import save_comparison

                save_comparison(result, found, pictures(problem), folder)
                save_evaluations(evaluations, folder)
        if json_path:
            json_path.write_text(to_json(found), encoding="utf-8")
    if json_file == "-":
        write(to_json(found))
        return
    from influencekit.cli.comparison import print_comparison

    print_comparison(result, found, evaluations, [name for name in (out, file) if name])


def _evaluating(
    evaluate: str | None, methods: list[Any], subsets: str | None, query: Query, workload: Any
) -> Any:
    """What runs the evaluations of every seed; None where none is asked for."""
    from influencekit.cli.evaluations import Evaluations

    if evaluate is None:
        if subsets is not None:
            raise InputError("--subsets keeps what --evaluate retrains; say what with --evaluate lds")
        return None
    return Evaluations(evaluate, methods, subsets, query, workload)


class _Memory:
    """Builds workloads, and remembers of each seed's what the result should say of its examples."""

    def __init__(self, source: WorkloadSource) -> None:
        self._source, self._labels, self._info = source, {}, {}  # type: ignore[var-annotated]

    def __call__(self, seed: int) -> Any:
        from influencekit.cli.examples import classes

        workload = self._source(seed)
        self._labels[seed] = classes(workload)
        self._info[seed] = {**workload.info, "steps": workload.plan.steps}
        return workload

    def describe(self, result: xr.Dataset) -> xr.Dataset:
        """`result` with the examples' `label` [seed, train] and what rebuilds the first seed's workload."""
        labels = [self._labels[int(s)] for s in result.seed.values]
        info = self._info[int(result.seed[0])]
        if all(label is not None for label in labels):
            result = result.assign_coords(label=(("seed", "train"), labels))
        return result.assign_attrs({f"info_{k}": v for k, v in info.items()})


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
