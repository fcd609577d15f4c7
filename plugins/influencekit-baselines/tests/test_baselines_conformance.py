"""The conformance suite, and the way of every name into the registry."""

from importlib.metadata import entry_points
from importlib.util import find_spec

import pytest

import influencekit as ik
from influencekit.registry import describe
from influencekit.testing import parametrize_with_checks, tiny_workload

SPECS = ["tracin", "tracin:layers=last", "tracin:checkpoints=step", "tracin:layers=last:checkpoints=step"]
SPECS += ["shapley", "grad-dot", "grad-cos", "self-influence", "grad-norm", "el2n", "el2n:epochs=2"]
SPECS += ["forgetting", "random", "random:seed=3"]
SPECS += ["trak", "trak:dim=6:checkpoints=2"] if find_spec("trak") else []
SPECS += ["ekfac", "ekfac:labels=data:damping=0.5"] if find_spec("kronfluence") else []


@parametrize_with_checks(SPECS)
def test_conformance(subject, check):
    check(subject)


def test_every_name_is_found_and_described():
    mine = [p.name for p in entry_points(group="influencekit.estimators") if "baselines" in p.value]
    rows = {row.name: row for row in describe("estimator")}
    assert len(mine) == 11
    for name in mine:
        assert rows[name].status == "ok" and rows[name].summary.endswith((".", "harm.")), name


@pytest.mark.parametrize("name, library", [("trak", "trak"), ("ekfac", "kronfluence")])
def test_a_missing_library_is_one_line_that_says_how_to_get_it(name, library, monkeypatch):
    import sys

    for module in [m for m in sys.modules if m.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    run = ik.record(tiny_workload())
    install = rf'{name} needs {library}, .* pip install "influencekit-baselines\[{name}\]"'
    with pytest.raises(ik.InputError, match=install) as told:
        ik.estimate(run, "test-loss", name)
    assert "\n" not in str(told.value)


def test_they_stand_beside_the_built_ins_in_one_comparison():
    found = ik.compare(tiny_workload(), ["dit", "tracin", "grad-dot", "el2n", "random"])
    spearman = found.agreement.sel(metric="spearman").squeeze(drop=True)
    assert spearman.sel(estimator="dit") > spearman.sel(estimator="random")
    assert "el2n: {'query': 'not used" in found.attrs["notes"]
