"""An evaluation is one class in one file: of a plugin's it is listed, run, printed, saved and tested."""

import json
import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers_cli import TINY, fails, run

import influencekit as ik
from influencekit.cli.problems import WorkloadSource
from influencekit.registry import describe, spec
from influencekit.testing import check_evaluation, laws, parametrize_with_checks

SOURCE = '''
from dataclasses import dataclass

import numpy as np
import xarray as xr

import influencekit as ik


@dataclass(frozen=True)
class Concentration(ik.Evaluation):
    """Concentration: how small a fraction of the examples holds half of all influence?"""

    held: float = 0.5

    def run(self, trajectory, query, scores, estimators, windows, folder=None):
        size = np.sort(np.abs(scores.influence.values), axis=-1)[..., ::-1]
        reached = size.cumsum(-1) >= self.held * size.sum(-1, keepdims=True)
        fraction = (reached.argmax(-1) + 1) / size.shape[-1]
        return xr.Dataset({"fraction": (("estimator", "query", "window"), fraction)}, coords=scores.coords)
'''


@parametrize_with_checks(
    [
        "lds",
        "lds:m=12:fraction=0.25",
        "leave-k-out:k=1+3:groups=12",
        "brittleness",
        "qld:fraction=0.1+0.3:draws=4",
        "mislabel-auc",
        "taylor",
    ]
)
def test_conformance(subject, check):
    check(subject)


def test_one_file_adds_an_evaluation(install, tmp_path):
    module = install("acme-eval", SOURCE, {"mine": "Concentration"}, "influencekit.evaluations")
    assert module not in sys.modules
    check_evaluation("mine")
    check_evaluation("mine:held=0.8")
    assert spec(ik.make("evaluation", "mine:held=0.8")) == "mine:held=0.8"
    row = {row.name: row for row in describe("evaluation")}["mine"]
    words = "Concentration: how small a fraction of the examples holds half of all influence?"
    assert (row.provider, row.summary, row.options) == ("acme-eval 1.2", words, ("held=0.5",))
    assert "mine  [acme-eval 1.2]" in run("list", "evaluations").stdout
    args = ("compare", TINY, "--estimators", "dit", "--seeds", "0-1", "--evaluate", "mine,mine:held=0.8")
    shown = run(*args, "--out", tmp_path / "out").stdout
    assert f"{words} (mine)" in shown and f"{words} (mine:held=0.8)" in shown
    found = json.loads((tmp_path / "out" / "compare.json").read_text())["evaluation"]
    each = []
    for seed in (0, 1):
        one = ik.record(WorkloadSource(TINY)(seed))
        scores = np.sort(np.abs(ik.estimate(one, "test-loss", "dit").influence.values.ravel()))[::-1]
        each.append(next(k for k in range(1, 25) if scores[:k].sum() >= 0.8 * scores.sum()) / 24)
    figure = found["mine:held=0.8"]["estimators"]["dit"]["fraction"]
    assert figure["mean"] == pytest.approx(np.mean(each)) and figure["std"] == pytest.approx(np.std(each))
    assert f"{figure['mean']:.3f} ± {figure['std']:.3f}" in shown
    assert (tmp_path / "out" / "evaluation-mine.csv").exists()
    assert not (tmp_path / "out" / "evaluation-mine.png").exists(), "it draws nothing"
    assert "evaluation-mine" not in run("plot", tmp_path / "out", "--out", tmp_path / "plots").stdout
    line = fails("compare", TINY, "--evaluate", "mien", code=2)
    assert "no evaluation named 'mien'; did you mean 'mine'" in line


# evaluations that break one law ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Fine(ik.Evaluation):
    """The largest score of each estimator."""

    scale: float = 1.0

    def run(self, trajectory, query, scores, estimators, windows, folder=None) -> xr.Dataset:
        return scores[["influence"]].max("train").rename(influence="largest") * self.scale


@dataclass(frozen=True)
class Unlabelled(Fine):
    def run(self, *args, **named):
        return super().run(*args, **named).drop_vars("estimator")


@dataclass(frozen=True)
class Unseeded(Fine):
    def run(self, *args, **named):
        return super().run(*args, **named) + np.random.default_rng().normal()


@dataclass(frozen=True)
class Ranked(Fine):
    def run(self, *args, **named):
        found = super().run(*args, **named)
        return found / found.mean("estimator")


@dataclass(frozen=True)
class Lost(Fine):
    def figures(self, result):
        return {"estimators": {}}


@dataclass(frozen=True)
class Bare(Fine):
    def table(self, result):
        return pd.DataFrame({"largest": [1.0]})


@dataclass(frozen=True)
class OfItsOptions(Fine):
    scale: float = 2.0

    def table(self, result):
        title, rows, notes = super().table(result)
        return ik.Table(f"{title} times {self.scale}", rows, notes)


@dataclass(frozen=True)
class Columnless(Fine):
    def figures(self, result):
        return {"estimators": {name: {} for name in result.estimator.values.tolist()}}


@dataclass(frozen=True)
class InOrder(Fine):
    def run(self, *args, **named):
        found = super().run(*args, **named)
        return found.assign(a=found.largest)

    def figures(self, result):
        names = list(result.data_vars)
        one = {name: {"mean": 1.0, "std": 0.0} for name in names}
        return {"estimators": dict.fromkeys(result.estimator.values.tolist(), one)}


@dataclass(frozen=True)
class Needy(Fine):
    scale: float = None  # type: ignore[assignment]

    def __post_init__(self):
        if self.scale is None:
            raise TypeError("scale is missing")


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Unlabelled(), "the result is labelled by estimator"),
        (Unseeded(), "twice is the same"),
        (Ranked(), "estimators do not change each other"),
        (Lost(), "seeds are joined and shown: figures"),
        (Bare(), "seeds are joined and shown: expected a Table"),
        (Columnless(), "the table has columns in one order: the table has no column"),
        (InOrder(), r"order of the variables.* columns \['a', 'largest'\], expected \['largest', 'a'\]"),
        (OfItsOptions(scale=3.0), "a saved result is shown alike: the table: with default options"),
        (Needy(scale=3.0), "a saved result is shown alike: every option must have a default"),
    ],
)
def test_a_broken_law_is_named(broken, law):
    check_evaluation(Fine())
    with pytest.raises(AssertionError, match=law):
        check_evaluation(broken)


@dataclass(frozen=True)
class Largest(ik.Evaluation):
    """The k largest scores of each estimator."""

    k: tuple[int, ...] = (1, 10)
    labels: int = 0  # as many more, so that no label gets a column of its own

    def run(self, trajectory, query, scores, estimators, windows, folder=None) -> xr.Dataset:
        ks = [*self.k, *range(2, 2 + self.labels)]
        ordered = -np.sort(-scores.influence.values, -1)
        means = np.stack([ordered[..., :k].mean(-1) for k in ks], -1)
        dims = ("estimator", "query", "window", "k")
        return xr.Dataset(
            {"size": (dims, means), "all": (dims[:3], ordered.mean(-1))}, {**scores.coords, "k": ks}
        )


def test_a_dimension_of_its_own_gives_a_column_for_every_label():
    (found,) = ik.evaluate(ik.record(WorkloadSource(TINY)(0)), Largest(), estimators=["dit"]).values()
    for result in (found, found[["size", "all"]], found[["all", "size"]]):
        assert list(Largest().table(result).rows) == ["all", "size k=1", "size k=10"]
    figure = Largest().figures(found)["estimators"]["dit"]["size k=10"]
    assert figure["mean"] == pytest.approx(found["size"].sel(k=10).item())
    check_evaluation(Largest())


def test_a_long_dimension_is_averaged_where_nothing_else_is_shown():
    (found,) = ik.evaluate(
        ik.record(WorkloadSource(TINY)(0)), Largest(labels=12), estimators=["dit"]
    ).values()
    assert list(Largest().table(found).rows) == ["all"]
    assert list(Largest().table(found[["size"]]).rows) == ["size"]
    mean = Largest().figures(found[["size"]])["estimators"]["dit"]["size"]["mean"]
    assert mean == pytest.approx(found["size"].mean().item())


def test_laws_are_of_evaluations_and_specs():
    assert [law.__name__ for law in laws(Fine())][-1] == "written_as_a_spec"
    with pytest.raises(
        ik.InputError, match="expected an object of a subclass of influencekit.Evaluation, or"
    ):
        check_evaluation(ik.make("query", "test-loss"))
