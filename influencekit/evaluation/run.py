"""Several evaluations of several estimators, by name: what `influencekit compare --evaluate` does."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from influencekit.errors import InputError
from influencekit.evaluation.detection import flipped
from influencekit.evaluation.lds import left_out_size
from influencekit.evaluation.leave_k_out import sizes
from influencekit.evaluation.retraining import check_at_least
from influencekit.evaluation.scoring import Estimators, complete, estimators_of, incomplete, scored
from influencekit.interfaces import Claim, Estimator, Query
from influencekit.progress import track
from influencekit.registry import label, make, split
from influencekit.specs import Option, options_of, read_options, unknown
from influencekit.training.workload import Workload
from influencekit.trajectory.trajectory import Trajectory
from influencekit.verbs.remove import windows_of
from influencekit.verbs.results import Windows
from influencekit.windows import Removal

__all__ = ["EVALUATIONS", "Evaluation", "check", "evaluate", "over_seeds", "parse"]

EVALUATIONS: Mapping[str, str] = MappingProxyType(
    {
        "lds": "influencekit.evaluation.lds:lds",
        "leave-k-out": "influencekit.evaluation.leave_k_out:leave_k_out",
        "brittleness": "influencekit.evaluation.brittleness:brittleness",
        "mislabel-auc": "influencekit.evaluation.mislabel:mislabel_auc",
        "taylor": "influencekit.evaluation.taylor:taylor",
    }
)

_RESCORES = {"mislabel-auc", "taylor"}  # another run than the one that the scores are of
_COUNTS = {"m", "groups", "resamples", "level", "strategy"}  # options that a folder of retrainings outlives


class Evaluation(NamedTuple):
    """One of `EVALUATIONS` with options, as `parse` read it; `spec` is how it was written."""

    name: str
    spec: str
    run: Callable[..., xr.Dataset]
    options: Mapping[str, Any]


def parse(evaluations: str | Sequence[str]) -> list[Evaluation]:
    """`lds:m=200,brittleness` or a list of such specs. Errors: unknown names and options, values, twice."""
    found = []
    for spec in split(evaluations) if isinstance(evaluations, str) else evaluations:
        name = spec.partition(":")[0]
        if name not in EVALUATIONS:
            raise unknown("evaluation named", name, list(EVALUATIONS), "evaluations")
        module, _, attribute = EVALUATIONS[name].partition(":")
        function = getattr(import_module(module), attribute)
        known = evaluation_options(function)
        options = read_options("evaluation", spec, known)
        for key in options:
            if key not in known:
                raise unknown(f"option of evaluation '{name}' named", key, list(known), "options")
        found.append(Evaluation(name, spec, function, MappingProxyType(options)))
    if twice := [one.spec for k, one in enumerate(found) if one.spec in [o.spec for o in found[:k]]]:
        raise InputError(f"evaluation '{twice[0]}' is asked for twice")
    return found


def evaluation_options(function: Callable[..., Any]) -> dict[str, Option]:
    """The options of an evaluation that can be written as text."""
    named = {n for n, p in signature(function).parameters.items() if p.kind is Parameter.KEYWORD_ONLY}
    return {n: option for n, option in options_of(function).items() if n in named and option.writable}


def check(evaluations: Sequence[Evaluation], estimators: Mapping[str, Estimator], workload: Workload) -> None:
    """Find mistakes before anything is trained. Errors: options that do not fit the data or estimators."""
    for one in evaluations:
        fit(one, estimators)
        given = one.options
        if one.name == "lds":
            left_out_size(workload.n_train, given.get("fraction", 0.5))
        if "k" in given:
            sizes(workload.n_train, given["k"])
        if one.name == "mislabel-auc":
            flipped(workload, **{"share": 0.1, **given})
        for name, least in {"m": 3, "groups": 3, "draws": 1, "queries": 1, "resamples": 1}.items():
            check_at_least(name, given.get(name, least), least)


def evaluate(
    trajectory: Trajectory,
    query: Query | str = "test-loss",
    estimators: Estimators = ("dit",),
    evaluations: str | Sequence[str] | Sequence[Evaluation] = "lds",
    windows: Windows = None,
    removal: Removal = "global",
    *,
    scores: xr.Dataset | None = None,
    subsets: str | Path | None = None,
) -> dict[str, xr.Dataset]:
    """{evaluation as it was written: its result}, for `evaluations` such as "lds:m=200,brittleness".

    `scores`: those of these estimators, where they are there already (else they are estimated once). An
    estimator that an evaluation cannot take is left out of it, and the result's attr `left_out` says why:
    scores of some examples only (loo:examples=32); no claim of first order (taylor). `subsets`: a folder for
    retrained models, with one folder in it for each evaluation that keeps some.

    Errors: names and options; an evaluation that none of the estimators can take; those of the evaluations.
    """
    asked = _parsed(evaluations)
    methods = estimators_of(estimators)
    for one in asked:
        fit(one, methods)
    query = make("query", query) if isinstance(query, str) else query
    if scores is None:
        scores = scored(trajectory, query, methods, windows, removal)
    chosen, known = windows_of(scores), complete(scores)
    holes = {
        name: f"scored {some} of {total} examples only" for name, (some, total) in incomplete(scores).items()
    }
    found = {}
    for one in track(asked, "evaluations", len(asked)):
        usable, why = fit(one, methods)
        if one.name != "taylor":  # which has scores of its own, of every example
            why = {**why, **holes}
            usable = {name: method for name, method in usable.items() if name not in holes}
        if not usable:
            raise InputError(f"{one.name}: {next(iter(why))} {next(iter(why.values()))}; nothing is left")
        run = partial(one.run, trajectory, query, **one.options)
        if one.name in _RESCORES:
            result = run(list(usable.values()), chosen)
        else:
            ready = known.sel(estimator=list(usable)).assign_attrs(_attrs(trajectory, query))
            result = run(ready, **_folder(one, subsets))
        said = "; ".join(f"{name} {reason}" for name, reason in why.items())
        found[one.spec] = result.assign_attrs(
            {"evaluation": one.name, **({"left_out": said} if said else {})}
        )
    return found


def fit(
    evaluation: Evaluation, estimators: Mapping[str, Estimator]
) -> tuple[dict[str, Estimator], dict[str, str]]:
    """The estimators that an evaluation can take; of the others {name: why not}. Errors: it takes none."""
    if evaluation.name != "taylor":
        return dict(estimators), {}
    usable = {n: e for n, e in estimators.items() if Claim.FIRST_ORDER in e.claims}
    if not usable:
        raise InputError(
            f"taylor: none of {', '.join(estimators)} claims first order, so there is no slope to measure; "
            "leave it out, or add dit"
        )
    return usable, {n: "does not claim first order" for n in estimators if n not in usable}


def over_seeds(found: Sequence[Mapping[str, xr.Dataset]], seeds: Sequence[int]) -> dict[str, xr.Dataset]:
    """The results of `evaluate` for several seeds, joined along `seed`.

    Labels of examples and queries that are not the same for every seed are replaced by their numbers.
    """
    return {
        spec: xr.concat(
            [_numbered(each[spec], [one[spec] for one in found]) for each in found],
            xr.DataArray(list(seeds), dims="seed", name="seed"),
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
    return one


def _parsed(evaluations: Any) -> list[Evaluation]:
    if isinstance(evaluations, str) or not all(isinstance(one, Evaluation) for one in evaluations):
        return parse(evaluations)
    return list(evaluations)


def _attrs(trajectory: Trajectory, query: Query) -> dict[str, Any]:
    workload = trajectory.workload
    return {"query": label(query), "workload": workload.name, "seed": workload.seed}


def _folder(evaluation: Evaluation, subsets: str | Path | None) -> dict[str, Any]:
    """The argument `subsets`, for an evaluation that has it: a folder that is the same for a larger m."""
    if subsets is None or "subsets" not in signature(evaluation.run).parameters:
        return {}
    known = evaluation_options(evaluation.run)
    lasting = [f"{k}_{known[k].write(v)}" for k, v in evaluation.options.items() if k not in _COUNTS]
    return {"subsets": Path(subsets) / "-".join([evaluation.name, *lasting])}
