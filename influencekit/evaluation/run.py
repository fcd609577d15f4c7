"""The verb: several evaluations of several estimators, as `influencekit compare --evaluate` asks for them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from influencekit._address import local
from influencekit._arguments import checked, short, whole_number
from influencekit._bars import with_progress
from influencekit._executors.session import Workers
from influencekit._labelled import dataset_of
from influencekit._specs import options_of
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import averaged
from influencekit._verbs.executor import with_executor
from influencekit._verbs.results import Windows, require_run, windows_among, windows_of
from influencekit.errors import InputError
from influencekit.evaluation.scoring import estimators_of, holes, ready, scored
from influencekit.interfaces import Average, Estimator, Evaluation, Query
from influencekit.progress import track
from influencekit.registry import label, listed, make, resolve
from influencekit.windows import Removal

__all__ = ["check", "evaluate", "evaluation_of", "evaluations_of", "over_seeds", "summary"]

_WHAT = "a result of evaluate(...)"

Evaluations = str | Evaluation | Sequence[str | Evaluation]


@with_progress
@with_executor
@checked
def evaluate(
    trajectory: Trajectory,
    evaluations: Evaluations | Mapping[str, Evaluation] = "lds",
    query: Query | str = "test-loss",
    estimators: Estimator | str | Sequence[Estimator | str] | None = None,
    windows: Windows = None,
    removal: Removal = "global",
    *,
    average: Average | str | Any = None,
    scores: xr.Dataset | None = None,
    subsets: str | Path | None = None,
    executor: Workers | str | Any = None,
) -> dict[str, xr.Dataset]:
    """What scores are worth: {evaluation as it was written: its result}, each with a dimension `estimator`.

    `evaluations`: specs joined by commas, objects (`LDS(m=30)`), or several of them. `estimators`: specs or
    objects, "dit" unless you say. `scores`: those of these estimators, where they are there already, which
    then bring their windows: what `estimate` returns, or one seed of what `compare` returns; without
    `estimators`, all that are in them. `subsets`: a folder for retrained models, with one folder in it for
    each evaluation that keeps some. `executor`: the sets of lds, leave-k-out and qld are retrained there: see
    `ik.Workers`.

    An estimator that an evaluation cannot take is left out of it, and the result's attr `left_out` says why:
    scores of some examples only (loo:examples=32); no claim of first order (taylor). Attr `caution`: what is
    to be known of the run and the estimators, if anything is. Windows, removals and `average` are those of
    `estimate`. Cost: the scores once, and what each evaluation says.

    Errors: names and options; an evaluation that none of the estimators can take, or that needs them and was
    given scores alone; scores of another run or query; those of the evaluations.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.evaluation import LDS
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> found = ik.evaluate(run, "lds:m=12,taylor", estimators=["dit", "if"])
        >>> found["lds:m=12"].lds.dims, found["taylor"].attrs["left_out"]
        (('estimator', 'query', 'window'), 'if does not claim first order')
        >>> list(LDS().table(found["lds:m=12"]).rows)
        ['lds', 'from', 'to']
    """
    require_run(trajectory)
    subsets = None if subsets is None else local(subsets)
    asked = evaluations_of(evaluations)
    given = ("dit",) if estimators is None and scores is None else estimators
    methods = {} if given is None else estimators_of(given)
    query, trajectory = resolve("query", query), averaged(trajectory, average)
    if scores is not None and windows is not None:
        raise InputError("the scores bring their own windows; give windows, or scores, not both")
    check(asked, methods, trajectory.workload)
    if scores is None:
        chosen = windows_among(trajectory.plan.epoch.tolist(), windows, removal)
        known = scored(trajectory, query, methods, chosen)
    else:
        known = ready(trajectory, query, scores)
        known = known.sel(estimator=list(methods)) if methods else known
    partial = holes(known)
    found = {}
    for spec, one in track(asked.items(), "evaluations", len(asked)):
        name = label(one).partition(":")[0]
        refused = {n: why for n, method in methods.items() if (why := one.refuses(method))}
        out = {**partial, **refused}
        usable = [n for n in known.estimator.values.tolist() if n not in out]
        if not usable:
            raise InputError(f"{name}: {next(iter(out))} {next(iter(out.values()))}; nothing is left")
        some = {n: method for n, method in methods.items() if n in usable}
        folder = None if subsets is None else _folder(subsets, spec, one)
        own = known.sel(estimator=usable)
        result = one.run(trajectory, query, own, some, windows_of(own), folder)
        said = "; ".join(f"{n} {why}" for n, why in out.items())
        beware = _caution(trajectory, some, scores)
        found[spec] = result.assign_attrs(
            {
                "evaluation": name,
                **({"left_out": said} if said else {}),
                **({"caution": beware} if beware else {}),
            }
        )
    return found


def _caution(trajectory: Trajectory, methods: Mapping[str, Estimator], scores: xr.Dataset | None) -> str:
    """What to know of the run, then of each estimator by name, then what ready scores say themselves."""
    said = [
        trajectory.caution,
        *(f"{n}: {own}" for n, m in methods.items() if (own := m.caution(trajectory))),
    ]
    if scores is not None:
        known = str(scores.attrs.get("caution", ""))
        said.append(known.removeprefix(trajectory.caution).removeprefix("; "))
    return "; ".join(dict.fromkeys(filter(None, said)))


def evaluations_of(evaluations: Evaluations | Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """{evaluation as it was written: itself}. Errors: unknown names and options, values, the same twice."""
    if isinstance(evaluations, Mapping):
        return {str(spec): resolve("evaluation", one) for spec, one in evaluations.items()}
    found: dict[str, Evaluation] = {}
    for one in listed("evaluations", evaluations):
        spec = one if isinstance(one, str) else label(one)
        if spec in found:
            raise InputError(f"evaluation '{spec}' is asked for twice")
        found[spec] = resolve("evaluation", one)
    return found


def check(
    evaluations: Mapping[str, Evaluation], estimators: Mapping[str, Estimator], workload: Workload
) -> None:
    """Find mistakes before anything is trained. Errors: options that do not fit the data or estimators."""
    for one in evaluations.values():
        one.check(workload, estimators)


def evaluation_of(result: xr.Dataset) -> Evaluation:
    """What can show this result: the evaluation of its name. Errors: its plugin is not installed.

    Example:

        >>> import influencekit as ik
        >>> from influencekit import evaluation
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> found = ik.evaluate(run, "lds:m=4", estimators=["dit"])
        >>> type(evaluation.evaluation_of(found["lds:m=4"])).__name__
        'LDS'
    """
    dataset_of("evaluation_of", _WHAT, result, attrs=("evaluation",))
    found: Evaluation = make("evaluation", result.attrs["evaluation"])
    return found


def summary(result: xr.Dataset, evaluation: Evaluation | None = None) -> dict[str, Any]:
    """One result as plain numbers, for JSON: `{"evaluation", its attrs, "estimators": {NAME: {...}}}`.

    The figures of `Evaluation.figures`; `evaluation` is found by its name unless it is given.

    Example:

        >>> import influencekit as ik
        >>> from influencekit import evaluation
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> found = ik.evaluate(run, "lds:m=4", estimators=["dit"])
        >>> sorted(evaluation.summary(found["lds:m=4"])["estimators"])
        ['dit']
    """
    dataset_of("summary", _WHAT, result)
    evaluation = evaluation_of(result) if evaluation is None else resolve("evaluation", evaluation)
    attrs = {str(k): v.item() if hasattr(v, "item") else v for k, v in result.attrs.items()}
    return {**attrs, **evaluation.figures(result)}


def over_seeds(found: Sequence[Mapping[str, xr.Dataset]], seeds: Sequence[int]) -> dict[str, xr.Dataset]:
    """The results of `evaluate` for several seeds, joined along `seed`.

    Labels of examples and queries that are not the same for every seed are replaced by their numbers.

    Example:

        >>> import influencekit as ik
        >>> from influencekit import evaluation
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> found = ik.evaluate(run, "lds:m=4", estimators=["dit"])
        >>> evaluation.over_seeds([found, found], [0, 1])["lds:m=4"].sizes["seed"]
        2
    """
    found = list(found) if isinstance(found, Iterable) else [found]
    numbers = [whole_number("over_seeds: seeds", seed) for seed in listed("over_seeds: seeds", seeds)]
    for each in found:
        if not isinstance(each, Mapping) or each.keys() != found[0].keys():
            raise InputError(
                f"over_seeds: expected what evaluate(...) gave for every seed, got {short(each)}"
            )
        for one in each.values():
            dataset_of("over_seeds", _WHAT, one)
    if not found or len(numbers) != len(found):
        raise InputError(
            f"over_seeds: expected one seed a result, got {len(numbers)} and {len(found)} results"
        )
    return {
        spec: xr.concat(
            [_numbered(each[spec], [one[spec] for one in found]) for each in found],
            xr.DataArray(numbers, dims="seed", name="seed"),
            join="exact",
            coords="minimal",
            compat="override",
            data_vars="all",
            combine_attrs="drop_conflicts",
        )
        for spec in found[0]
    }


def _numbered(one: xr.Dataset, every: Sequence[xr.Dataset]) -> xr.Dataset:
    for name in ("train", "query"):
        if name in one.coords and not all(np.array_equal(one[name], other[name]) for other in every):
            one = one.assign_coords({name: np.arange(one.sizes[name])})
    if "label" in one.coords and not all(np.array_equal(one.label, other.label) for other in every):
        one = one.drop_vars("label")
    return one


def _folder(subsets: Path, spec: str, evaluation: Evaluation) -> Path | None:
    """The folder of the models that this evaluation retrains: named by the options that decide which, as they
    were written, so that a larger m finds those that are there."""
    if not evaluation.folder_options:
        return None
    name, *pairs = spec.split(":")
    options = options_of(type(evaluation))
    written = [key for key, _, _ in (pair.partition("=") for pair in pairs)]
    lasting = [
        f"{k}_{options[k].write(getattr(evaluation, k))}" for k in written if k in evaluation.folder_options
    ]
    return subsets / "-".join([name, *lasting])
