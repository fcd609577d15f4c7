"""A comparison with its ceiling: each estimate beside what retraining itself reaches, and other seeds."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from helpers_ceiling import ROUGH, SAME
from helpers_cli import fails, run
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

import influencekit as ik
from influencekit import plot
from influencekit._verbs.compare_ceiling import of_ceiling
from influencekit.cli.ceiling import print_beside
from influencekit.cli.summary import summarise
from influencekit.estimators import LOO
from influencekit.metrics import agreement

FRACTION, RUNS = 0.2, 3  # so far aside, a run of nine steps does not repeat itself
OTHER = "dit:curvature=gauss-newton"


@pytest.fixture(scope="module")
def recorded() -> ik.Trajectory:
    return ik.record(ik.make("workload", ROUGH))


@pytest.fixture(scope="module")
def compared(recorded) -> xr.Dataset:
    return ik.compare(recorded, ["dit", "loo"], ceiling=FRACTION, runs=RUNS)


@pytest.fixture(scope="module")
def repeated(recorded) -> np.ndarray:
    """Leave-one-out of the same runs [run, train], by `ik.ceiling`."""
    return ik.ceiling(recorded, runs=RUNS, moved=FRACTION).effects.values[:, 0, 0].astype(float)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, str]:
    """Two seeds on the same examples with everything switched on: the folder, and what was printed."""
    out = tmp_path_factory.mktemp("compare") / "out"
    return out, run(
        "compare", SAME, "--estimators", f"dit,{OTHER}", "--seeds", "0-1", "--window", "full,each-epoch",
        f"--ceiling={FRACTION}", "--ceiling-runs", RUNS, "--cross-seed", "--subsets", out.parent / "kept",
        "--out", out,
    ).stdout  # fmt: skip


# figures -------------------------------------------------------------------------------------------------


def test_loo_again_is_the_agreement_of_the_other_runs_with_this_one(compared, repeated):
    again = compared.loo_again.squeeze(("seed", "query", "window"))
    expected = [spearmanr(other, repeated[0])[0] for other in repeated[1:]]
    np.testing.assert_allclose(again.sel(metric="spearman"), expected)
    assert again.sizes == {"metric": 4, "repeat": RUNS - 1}
    assert 0.1 < compared.ceiling.sel(metric="spearman").item() < 0.99, "there is something to see"
    estimate = compared.agreement.sel(estimator="dit").squeeze()
    ratio = compared.of_ceiling.sel(estimator="dit").squeeze()
    xr.testing.assert_allclose(ratio * compared.ceiling.squeeze(), estimate)
    assert compared.of_ceiling.sel(estimator="loo").isnull().all(), "the reference is no estimate"


def test_the_scores_are_those_without_a_ceiling_and_loo_is_computed_once_a_run(recorded, monkeypatch):
    calls = []
    scores = LOO.scores
    monkeypatch.setattr(LOO, "scores", lambda self, run, *args: calls.append(run) or scores(self, run, *args))
    found = ik.compare(recorded, ["dit", "loo"], ceiling=FRACTION, runs=RUNS)
    assert len(calls) == RUNS and sum(each is recorded for each in calls) == 1
    monkeypatch.undo()
    plain = ik.compare(recorded, ["dit", "loo"])
    for name in ("influence", "agreement", "ties", "accuracy"):
        xr.testing.assert_identical(found[name], plain[name])
    assert found.attrs["notes"] == plain.attrs["notes"]
    assert found.seconds.sel(estimator="loo").item() > 0
    assert not {"ceiling", "loo_again", "cross_agreement"} & set(plain.variables)


def test_against_the_mean_of_runs_the_ceiling_is_what_the_expected_effect_would_reach(recorded, repeated):
    reference = f"expected-loo:runs={RUNS}:moved={FRACTION}"
    found = ik.compare(recorded, ["dit"], reference, ceiling=FRACTION, runs=RUNS).squeeze()
    pairs = [pearsonr(repeated[r], repeated[s])[0] for r in range(RUNS) for s in range(r)]
    a = np.mean(pairs)
    limit = np.sqrt(RUNS * a / (1 + (RUNS - 1) * a))
    assert found.ceiling.sel(metric="pearson").item() == pytest.approx(limit)
    others = [np.delete(repeated, r, 0).mean(0) for r in range(RUNS)]
    expected = [pearsonr(one, mean)[0] for one, mean in zip(repeated, others, strict=True)]
    np.testing.assert_allclose(found.loo_again.sel(metric="pearson"), expected)
    np.testing.assert_allclose(
        found.influence.sel(estimator=reference), repeated.mean(0), rtol=1e-4, atol=1e-8
    )
    assert "against the mean of 3 runs" in found.attrs["ceiling_note"]


def test_the_ceiling_is_that_of_the_verb_and_for_pearson_a_root(recorded, compared, repeated):
    pairs = [pearsonr(repeated[r], repeated[s])[0] for r in range(RUNS) for s in range(r)]
    assert compared.ceiling.sel(metric="pearson").item() == pytest.approx(np.mean(pairs) ** 0.5)
    alone = ik.ceiling(recorded, runs=RUNS, moved=FRACTION)
    again = compared.loo_again.mean("repeat").squeeze("seed")
    np.testing.assert_allclose(again, alone.loo_again)
    np.testing.assert_allclose(compared.ceiling.squeeze("seed"), alone.ceiling.sel(target="loo"))
    for name in ("icc", "ceiling_one", "ceiling_mean"):
        np.testing.assert_allclose(compared[name].squeeze("seed"), alone[name])


def test_the_ceiling_is_of_the_examples_and_the_top_part_that_are_compared(recorded, repeated):
    found = ik.compare(
        recorded, ["dit"], "loo:examples=9:seed=1", ceiling=FRACTION, runs=RUNS, top="abs"
    ).squeeze()
    known = np.isfinite(found.influence.values).all(0)
    rows = torch.from_numpy(np.ascontiguousarray(repeated[:, known]))
    expected = agreement(rows[1:], rows[:1].expand_as(rows[1:]), "abs").mean(0)
    assert known.sum() == 9
    np.testing.assert_allclose(found.loo_again.mean("repeat"), expected, rtol=1e-6)
    assert np.isnan(found.ceiling.sel(metric="jaccard")), "no normal pair is a model of this top part"


@dataclass(frozen=True)
class Constant(ik.Estimator):
    """The same score for everybody."""

    @property
    def claims(self) -> frozenset[ik.Claim]:
        return frozenset({ik.Claim.WINDOWED})

    def scores(self, trajectory, query, windows):
        work = trajectory.workload
        return torch.ones(len(query.labels(work)), len(windows), work.n_train, dtype=work.dtype)


def test_constant_scores_have_neither_an_agreement_nor_a_part_of_the_ceiling(recorded, capsys):
    found = ik.compare(recorded, [Constant(), "dit"], ceiling=FRACTION, runs=RUNS)
    name = found.estimator.values[0]
    assert found.of_ceiling.sel(estimator=name).isnull().values.ravel().tolist() == [True] * 3 + [False]
    print_beside(summarise(found))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(name))
    assert line.split()[1:] == ["pearson", "-", f"{found.ceiling.values.ravel()[0]:.3f}", "-"]


def test_a_run_that_repeats_nothing_has_no_part_of_a_ceiling(compared, capsys):
    none = compared.assign(ceiling=-abs(compared.ceiling))
    assert of_ceiling(none).isnull().all()
    print_beside(summarise(none))
    assert "No ratio in pearson, spearman, kendall, jaccard: the ceiling is 0" in capsys.readouterr().out


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0.1, 1), min_size=1, max_size=4), st.floats(0.1, 1))
def test_the_reference_twice_is_one_over_the_ceiling(ceilings, estimate):
    shape = ("estimator", "metric", "seed", "query", "window")
    result = xr.Dataset(
        {
            "agreement": (shape, np.full((2, 1, len(ceilings), 1, 1), estimate)),
            "ceiling": (shape[1:], np.array(ceilings)[None, :, None, None]),
        },
        coords={"estimator": ["dit", "loo"]}, attrs={"reference": "loo"},
    )  # fmt: skip
    np.testing.assert_allclose(of_ceiling(result).sel(estimator="dit"), [estimate / np.array(ceilings)])


# what is printed and saved -------------------------------------------------------------------------------


def test_the_tables_have_a_row_for_loo_again_and_every_metric_of_every_estimator(saved):
    _, shown = saved
    lines = [line for line in shown.splitlines() if line]
    first = next(k for k, line in enumerate(lines) if line.startswith("estimator"))
    assert [line.split("  ")[0] for line in lines[first : first + 5]] == [
        "estimator", "dit", OTHER, "loo (reference)", "loo again",
    ]  # fmt: skip
    second = next(k for k, line in enumerate(lines) if line.startswith("estimator") and k > first)
    head = re.split(r" {2,}", lines[second])
    assert head == ["estimator", "metric", "estimate", "ceiling", "estimate / ceiling", "across seeds"]
    rows = lines[second + 1 : second + 13]
    assert [row.split("  ")[0] for row in rows[::4]] == ["dit", OTHER, "loo (reference)"]
    pattern = r"^\S* +(pearson|spearman|kendall|jaccard)( +-?\d\.\d{3} ± \d\.\d{3}){3} +-?\d\.\d{3}$"
    assert all(re.match(pattern, row) for row in rows[:8])
    assert lines[second + 13].startswith("The ceiling is what the expected effect itself would reach")
    assert any(line.startswith("Across seeds: one seed's estimate against another's") for line in lines)
    windows = next(line for line in lines if line.startswith("window "))
    assert windows.split() == ["window", "dit", OTHER, "ceiling"]


def test_the_figures_of_the_json_are_those_of_what_is_saved_and_nan_is_null(saved):
    out, _ = saved
    found = json.loads((out / "compare.json").read_text())
    result = xr.open_zarr(out / "scores.zarr", consolidated=False).load()
    ceiling = found["ceiling"]
    assert (ceiling["moved"], ceiling["runs"]) == (f"{FRACTION}", RUNS)
    over = ("query", "window")
    expected = result.ceiling.sel(metric="kendall").mean(over)
    assert ceiling["ceiling"]["kendall"] == pytest.approx(
        {"mean": float(expected.mean()), "std": float(expected.std())}
    )
    ratio = result.agreement.sel(estimator=OTHER, metric="kendall").mean(over) / expected
    assert ceiling["estimators"][OTHER]["kendall"]["mean"] == pytest.approx(float(ratio.mean()))
    assert list(ceiling["estimators"]) == ["dit", OTHER]
    assert {"pearson", "accuracy", "seconds"} < ceiling["loo_again"].keys()
    across = result.cross_agreement.sel(estimator="dit", metric="kendall").mean()
    assert found["cross_seed"]["dit"]["kendall"] == pytest.approx(float(across))
    each = found["windows"][1]["ceiling"]["ceiling"]["kendall"]["mean"]
    assert each == pytest.approx(float(result.ceiling.sel(metric="kendall").isel(window=1).mean()))
    assert "NaN" not in (out / "compare.json").read_text()


def test_the_csv_has_loo_again_for_every_seed_and_window(saved):
    rows = (saved[0] / "agreement.csv").read_text().splitlines()
    assert sum(row.startswith("loo again,") for row in rows) == 2 * 3  # seeds, windows


def test_a_saved_comparison_is_drawn_again_with_its_ceiling(saved, tmp_path):
    shown = run("plot", saved[0], "--out", tmp_path / "plots").stdout
    assert "ceiling.png" in shown and (saved[0] / "ceiling.png").stat().st_size > 1000
    result = xr.open_zarr(saved[0] / "scores.zarr", consolidated=False).load()
    result.to_netcdf(tmp_path / "scores.nc", engine="h5netcdf")
    again = xr.load_dataset(tmp_path / "scores.nc", engine="h5netcdf")
    for name in ("loo_again", "ceiling", "of_ceiling", "cross_agreement", "icc"):
        np.testing.assert_array_equal(again[name], result[name])
    assert summarise(again)["ceiling"] == summarise(result)["ceiling"]


def test_the_plot_shows_each_estimate_its_ceiling_and_the_band_of_the_repeats(saved):
    result = xr.open_zarr(saved[0] / "scores.zarr", consolidated=False).load()
    ax = plot.ceiling(result)
    mean = result.mean(("query", "window", "seed"))
    lines = [line for line in ax.get_lines() if line.get_color() == "black" and len(line.get_xdata()) == 2]
    np.testing.assert_allclose([line.get_ydata()[0] for line in lines], mean.ceiling)
    points = [line for line in ax.get_lines() if len(line.get_xdata()) == 4]
    drawn = [line.get_ydata() for line in points if line.get_marker() in "os"]
    for name in ("dit", OTHER):
        for values in (mean.agreement.sel(estimator=name), mean.cross_agreement.sel(estimator=name)):
            assert any(np.allclose(each, values) for each in drawn)
    assert len({line.get_marker() for line in points} - {"_", "|", "None"}) == 2, "told apart without colour"
    again = result.loo_again.mean(("query", "window")).sel(metric="kendall").values
    bands = [c.get_paths()[0].get_extents() for c in ax.collections if len(c.get_facecolor())]
    assert bands[2].ymin == pytest.approx(again.mean() - again.std())
    assert bands[2].ymax == pytest.approx(min(1, again.mean() + again.std()))
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["dit", OTHER, "ceiling", "loo again, 2 runs (± deviation)", "hollow: across seeds"]
    title = plot.scatter(result, "dit").get_title()
    assert f"(ceiling {mean.ceiling.sel(metric='spearman').item():.3f})" in title
    with pytest.raises(ik.InputError, match=r"ceiling: expected what compare\(..., ceiling=...\) gives"):
        plot.ceiling(result.drop_vars("ceiling"))
    with pytest.raises(ik.InputError, match="no estimator beside the reference loo"):
        plot.ceiling(result.sel(estimator=["loo"]))


def test_what_is_above_the_ceiling_is_said_and_not_clipped(compared, capsys):
    low = compared.assign(ceiling=compared.ceiling * 0 + 0.1)
    found = summarise(low)
    print_beside(found)
    shown = capsys.readouterr().out
    ratio = found["ceiling"]["estimators"]["dit"]["spearman"]["mean"]
    assert (
        ratio > 1
        and "Above the ceiling, as an estimate that follows this very run may be: dit in pearson" in shown
    )
    assert f"spearman ({ratio:.3f})" in shown


@pytest.mark.parametrize("width", [120, 80])
def test_the_tables_fit_a_terminal(saved, width, monkeypatch):
    from test_cli_console import Terminal

    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("sys.stdout", screen := Terminal())
    found = json.loads((saved[0] / "compare.json").read_text())
    del found["estimators"][OTHER]
    print_beside(found)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    assert any("±" in line for line in lines) == (width == 120)


def test_a_folder_keeps_what_was_retrained_for_each_query(recorded, saved, tmp_path, monkeypatch):
    def ask(query):
        return ik.compare(recorded, ["loo"], query=query, ceiling=FRACTION, runs=2, store=tmp_path / "kept")

    first = ask("test-loss")
    ask("prediction:example=0")  # another query is kept beside it
    monkeypatch.setattr(LOO, "scores", None)  # nothing is retrained
    again = ask("test-loss")
    xr.testing.assert_identical(again.ceiling, first.ceiling)
    assert again.seconds.isnull().all(), "nobody knows what it took"
    kept = (saved[0].parent / "kept" / "seed-1").iterdir()
    assert [p.name.rpartition("-")[0] for p in kept] == [f"ceiling-{FRACTION:g}"]


def test_another_fraction_is_kept_beside_it_and_what_is_kept_took_no_seconds(tmp_path):
    spec = "mnist-1v7-lr:n_train=8:batch_size=4:epochs=1"
    for fraction in ("0.001", "0.01", "0.01"):
        options = ("--ceiling", fraction, "--ceiling-runs", "2", "--subsets", tmp_path)
        out = run("compare", spec, "--estimators", "dit", *options).output
    names = sorted(p.name.rpartition("-")[0] for p in (tmp_path / "seed-0").iterdir())
    assert names == ["ceiling-0.001", "ceiling-0.01"]
    rows = [line.split()[-1] for line in out.splitlines() if line.startswith("loo ")]
    assert rows == ["kept", "kept"] and "nan" not in out


# bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ceiling", "--reference", "dit"], "and the reference dit is none; take loo or expected-loo"),
        (["--ceiling", "--ceiling-runs", "1"], "runs must be at least 2, got 1"),
        (["--ceiling=0"], "--ceiling must be above 0"),
        (["--ceiling=moved=-0.1"], "--ceiling must be above 0"),
        (["--ceiling=nan"], "--ceiling must be a number, got 'nan'"),
        (["--ceiling=inf"], "--ceiling must be above 0.0 and at most 1.0, got inf"),
        (["--ceiling=1e30"], "--ceiling must be above 0.0 and at most 1.0"),
        (["--ceiling", "mnist-1v7-lr"], "a workload stands before --ceiling"),
        (["--ceiling-runs", "4"], "add --ceiling"),
        (["--ceiling=0.01", "--reference", "expected-loo"], "ask for both alike"),
        (["--subsets", "kept"], "--subsets keeps what --evaluate"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, words):
    assert words in fails("compare", ROUGH, *options, code=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ceiling": "seeds"}, "a recorded run has one; take a fraction"),
        ({"ceiling": True}, "compare: ceiling must be a number or one of seeds or none, got True"),
        ({"ceiling": "sometimes"}, "ceiling must be"),
        ({"ceiling": -1.0}, "compare: ceiling must be above 0"),
        ({"ceiling": 1.5}, "compare: ceiling must be"),
        ({"ceiling": 0.1, "runs": 1}, "compare: runs must be at least 2"),
        ({"ceiling": 0.1, "runs": 2.5}, "runs must be a whole number"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(recorded, arguments, words):
    with pytest.raises(ik.InputError, match=re.escape(words)) as refused:
        ik.compare(recorded, ["dit"], **arguments)
    assert "\n" not in str(refused.value)
