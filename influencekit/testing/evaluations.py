"""The laws of evaluations, on a small run whose retraining takes a fraction of a second."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch.nn.functional import binary_cross_entropy_with_logits

from influencekit._training.optimizers import SGD
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.record import record
from influencekit.errors import InputError
from influencekit.evaluation.run import evaluate, over_seeds, summary
from influencekit.interfaces import Estimator, Evaluation, Table
from influencekit.registry import make
from influencekit.testing.oracle import TanhNet
from influencekit.testing.untouched import untouched

__all__ = ["EVALUATION_LAWS"]

_NAMES = ("dit", "if", "loo")


@cache
def _recorded(seed: int = 0) -> Trajectory:
    """A tanh network on 20 training and 6 test examples with two classes, 8 steps, float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(26, 3, generator=generator, dtype=torch.float64)
    y = (x[:, 0] + 0.5 * torch.randn(26, generator=generator, dtype=torch.float64) > 0).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TanhNet(3, 1).double()

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return binary_cross_entropy_with_logits(output, target, reduction="none")

    return record(
        Workload(
            model=model, loss=loss, train=(x[:20], y[:20]), test=(x[20:], y[20:]), optimizer=SGD(lr=0.3),
            epochs=2, batch_size=5, seed=seed,
        )
    )  # fmt: skip


@cache
def _result(evaluation: Evaluation, names: Sequence[str] = _NAMES, seed: int = 0) -> xr.Dataset:
    try:
        return evaluate(_recorded(seed), {"": evaluation}, "test-loss", list(names))[""]
    except InputError as refusal:
        raise AssertionError(f"takes a small run: {refusal}") from refusal


def _taken(evaluation: Evaluation) -> list[str]:
    each: Mapping[str, Estimator] = {name: make("estimator", name) for name in _NAMES}
    return [name for name, estimator in each.items() if not evaluation.refuses(estimator)]


def the_result_is_labelled_by_estimator(evaluation: Evaluation) -> None:
    """Along `estimator`: the names of those it does not refuse, in their order, and numbers for each."""
    law, result = "the result is labelled by estimator", _result(evaluation)
    if "estimator" not in result.coords or result.estimator.values.tolist() != _taken(evaluation):
        raise AssertionError(f"{law}: expected the coordinate estimator = {_taken(evaluation)}")
    figures = [v for v in result.data_vars.values() if "estimator" in v.dims and v.dtype.kind == "f"]
    if not any(np.isfinite(v.values).any() for v in figures):
        raise AssertionError(f"{law}: no variable with the dimension estimator holds a number")


def twice_is_the_same(evaluation: Evaluation) -> None:
    """Everything random is seeded by an option and the workload's seed; the workload stays as it was."""
    trajectory, first = _recorded(), _result(evaluation)
    with untouched("twice is the same", trajectory.workload):
        again = evaluate(trajectory, {"": evaluation}, "test-loss", list(_NAMES))[""]
    if not again.identical(first):
        raise AssertionError("twice is the same: the second call gave something else")


def estimators_do_not_change_each_other(evaluation: Evaluation) -> None:
    """What is said of an estimator alone is what is said of it beside others, to 1e-9 (batches may round)."""
    law, together = "estimators do not change each other", _result(evaluation)
    for name in _taken(evaluation):
        alone, beside = _result(evaluation, (name,)), together.sel(estimator=[name])
        for figure, values in alone.data_vars.items():
            if not np.allclose(values, beside[figure], rtol=1e-9, atol=1e-9, equal_nan=True):
                raise AssertionError(f"{law}: {figure} of {name} alone is not that beside others")


def seeds_are_joined_and_shown(evaluation: Evaluation) -> None:
    """Results of two seeds join along `seed`; figures, table and plot take them, and one seed as well."""
    law, seeds = "seeds are joined and shown", (0, 1)
    both = over_seeds([{"": _result(evaluation, seed=seed)} for seed in seeds], seeds)[""]
    for result in (both, _result(evaluation)):
        found = summary(result, evaluation)
        if list(found.get("estimators", ())) != _taken(evaluation):
            raise AssertionError(f"{law}: figures must have 'estimators' with {_taken(evaluation)}")
        try:
            json.dumps(found)
        except TypeError as reason:
            raise AssertionError(f"{law}: figures must be plain numbers for JSON: {reason}") from reason
        table: Any = evaluation.table(result)
        if not (isinstance(table, Table) and isinstance(table.rows, pd.DataFrame) and len(table.rows)):
            raise AssertionError(f"{law}: expected a Table with rows, got {table!r}")
        if None in table.rows.index.names:
            raise AssertionError(f"{law}: give the index of the table a name, such as 'estimator'")
        figure = evaluation.plot(result)
        if figure is not None and not hasattr(figure, "savefig"):
            raise AssertionError(f"{law}: plot must give a matplotlib Figure or None, got {figure!r}")


def the_table_has_columns_in_one_order(evaluation: Evaluation) -> None:
    """A column at least, a row at least for each estimator, and the same with the variables turned round."""
    law, result = "the table has columns in one order", _result(evaluation)
    table = evaluation.table(result)
    if not table.rows.columns.size:
        raise AssertionError(
            f"{law}: the table has no column; `figures` must give each estimator a figure at least, got "
            f"{evaluation.figures(result)}"
        )
    missing = [n for n in _taken(evaluation) if n not in np.ravel(table.rows.index.to_frame())]
    if missing and "estimator" in table.rows.index.names:
        raise AssertionError(f"{law}: the table has no row for {missing}")
    turned = evaluation.table(result[list(result.data_vars)[::-1]])
    if said := _difference(turned, table):
        raise AssertionError(
            f"{law}: it depends on the order of the variables, which a saved result does not keep; sort "
            f"them, or name them in `figures` or `table`: {said}"
        )


def a_saved_result_is_shown_alike(evaluation: Evaluation) -> None:
    """Saved and opened again, by an evaluation with its default options: the same figures, the same table."""
    law, result = "a saved result is shown alike", _result(evaluation)
    try:
        default = type(evaluation)()
    except TypeError as reason:
        raise AssertionError(f"{law}: every option must have a default: {reason}") from reason
    with TemporaryDirectory() as folder:
        result.drop_encoding().to_zarr(f"{folder}/result.zarr", zarr_format=3, consolidated=False)
        saved = xr.open_zarr(f"{folder}/result.zarr", consolidated=False).load()
    for what, shown, cause in (
        (
            default,
            result,
            "with default options it is another: what is shown must depend on the result alone",
        ),
        (
            evaluation,
            saved,
            "saved and opened again it is another: a store keeps variables, labels and attrs",
        ),
    ):
        if said := _difference(what.table(shown), evaluation.table(result)):
            raise AssertionError(f"{law}: the table: {cause}: {said}")
        found, expected = what.figures(shown), evaluation.figures(result)
        if json.dumps(found, sort_keys=True) != json.dumps(expected, sort_keys=True):
            raise AssertionError(f"{law}: the figures: {cause}: {found}, expected {expected}")


def _same(one: Any, other: Any) -> bool:
    """Equal, or both NaN."""
    return bool(one == other or (one != one and other != other))


def _difference(found: Table, expected: Table) -> str:
    """The first difference between two tables, in words; "" where there is none."""
    a, b = found.rows, expected.rows
    pairs: list[tuple[str, Any, Any]] = [
        ("title", found.title, expected.title),
        ("columns", list(a.columns), list(b.columns)),
        ("rows", list(a.index), list(b.index)),
    ]
    if all(one == other for _, one, other in pairs):
        cells = zip(a.to_numpy().ravel(), b.to_numpy().ravel(), strict=True)
        names = [f"row {row}, column {column}" for row in b.index for column in b.columns]
        pairs = [(name, *both) for name, both in zip(names, cells, strict=True) if not _same(*both)]
    return next(
        (f"{name} {one!r}, expected {other!r}" for name, one, other in pairs if not _same(one, other)), ""
    )


EVALUATION_LAWS: list[Callable[[Evaluation], None]] = [
    the_result_is_labelled_by_estimator,
    twice_is_the_same,
    estimators_do_not_change_each_other,
    seeds_are_joined_and_shown,
    the_table_has_columns_in_one_order,
    a_saved_result_is_shown_alike,
]
