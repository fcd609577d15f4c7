"""Plots show the numbers they are given: what is drawn is read back from the Axes."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from influencekit import InputError, analysis, plot


@pytest.fixture
def result() -> xr.Dataset:
    """Two seeds, one query, three windows, 20 examples of two classes; `good` is the truth and some noise."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(2, 1, 3, 20)) * 1e-3
    good = truth + rng.normal(size=truth.shape) * 1e-4
    truth[:, :, :, 5] = np.nan  # was not retrained
    return xr.Dataset(
        {
            "influence": (
                ("estimator", "seed", "query", "window", "train"),
                np.stack([good, truth]),
                {"better": "lower"},
            ),
            "agreement": (("estimator", "metric", "seed", "query", "window"), np.full((2, 1, 2, 1, 3), 0.75)),
            "accuracy": (("seed",), [0.9, 0.95]),
        },
        coords={
            "estimator": ["good", "loo"], "metric": ["spearman"], "seed": [0, 1], "query": ["test-loss"],
            "start": ("window", [0, 4, 8]), "stop": ("window", [4, 8, 12]),
            "removal": ("window", ["global"] * 3),
            "example": (("seed", "train"), [[f"a{i}" for i in range(20)]] * 2),
            "label": (("seed", "train"), [["cat", "dog"] * 10] * 2),
        },
        attrs={"reference": "loo", "workload": "pets", "setting": "custom"},
    )  # fmt: skip


def test_scatter_draws_every_pair_once_on_equal_axes(result):
    ax = plot.scatter(result, "good")
    points = np.concatenate([c.get_offsets() for c in ax.collections])
    x, y = (result.influence.sel(estimator=n).values.ravel() for n in ("loo", "good"))
    known = np.isfinite(x)
    assert len(points) == known.sum() == 2 * 3 * 19
    np.testing.assert_allclose(np.sort(points[:, 0]), np.sort(x[known]))
    assert {tuple(p) for p in np.round(points, 12)} == set(
        zip(np.round(x[known], 12), np.round(y[known], 12), strict=True)
    )
    assert ax.get_xlim() == ax.get_ylim() and ax.get_aspect() == 1
    assert ax.get_title() == "good\nSpearman 0.750 ± 0.000"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["cat", "dog"]
    assert "ground truth" in ax.get_xlabel()


def test_agreement_has_one_panel_an_estimator_but_the_reference(result):
    axes = plot.agreement(result)
    assert len(axes) == 1 and axes[0].get_ylabel() == "good (estimate)"
    assert axes[0].figure.get_suptitle() == "pets: test accuracy 92.5 %"
    assert len(plot.agreement(result.sel(estimator=["loo"]))) == 1


def test_scores_that_are_all_the_same_are_drawn_too(result):
    flat = result.assign(influence=result.influence * 0)
    assert plot.scatter(flat, "good").get_xlim() == (-1, 1)
    nothing = result.assign(influence=result.influence * np.nan)
    plot.scatter(nothing, "good").figure.canvas.draw()


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 3)])
def test_extremes_show_the_pictures_with_the_smallest_and_largest_scores(result, shape):
    scores = result.influence.sel(estimator="loo").isel(seed=0, query=0, window=0)
    pictures = np.stack([np.full(shape, k, float) for k in range(20)])
    pictures[..., 0, 0] += 1  # something to stretch
    axes = plot.extremes(scores, pictures, count=3)
    order = np.argsort(scores.values)[:-1]  # NaN is last
    expected = [*order[:3], *order[::-1][:3]]
    captions = [ax.get_xlabel().splitlines() for ax in axes]
    assert [c[0] for c in captions] == [f"a{k}" for k in expected]
    assert [c[1] for c in captions] == [f"class {'cat' if k % 2 == 0 else 'dog'}" for k in expected]
    assert [c[2] for c in captions] == [f"{scores.values[k]:+.1e}" for k in expected]
    for ax in axes:
        drawn = ax.images[0].get_array()
        assert (float(drawn.min()), float(drawn.max())) == (0, 1)
    assert (axes[0].get_ylabel(), axes[3].get_ylabel()) == ("most harmful", "most helpful")


def test_timeline_draws_the_most_extreme_examples_over_the_windows(result):
    scores = result.influence.sel(estimator="good").isel(seed=0, query=0)
    ax = plot.timeline(scores, count=2)
    order = scores.sum("window").values.argsort()
    lines = [line for line in ax.lines if line.get_label().startswith("a")]
    chosen = [*order[:2], *order[::-1][:2]]
    assert [line.get_label().split()[0] for line in lines] == [f"a{k}" for k in chosen]
    for line, k in zip(lines, chosen, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [4, 8, 12])
        np.testing.assert_array_equal(line.get_ydata(), scores.values[:, k])


def drawn(ax):
    """{id: what it is called} of the examples that a timeline draws; each once."""
    names = [line.get_label() for line in ax.lines if " (" in line.get_label()]
    found = dict(name.rstrip(")").split(" (") for name in names)
    assert len(found) == len(names)
    return found


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 3.0]), min_size=1, max_size=12),
    st.integers(1, 9),
    st.sampled_from(["lower", "higher", "none"]),
)
def test_timeline_draws_as_many_lines_as_asked_for_and_calls_each_by_its_sign(sums, count, better):
    """Beside the plain rule: sort by strength in each sign, take `count`, fill up from the other sign."""
    first = [s / 4 for s in sums]
    scores = xr.DataArray(
        [first, [s - f for s, f in zip(sums, first, strict=True)]], dims=("window", "train"),
        coords={"stop": ("window", [1, 2]), "train": [f"a{k}" for k in range(len(sums))]},
        attrs={"better": better},
    )  # fmt: skip
    found = drawn(plot.timeline(scores, count=count))
    assert len(found) == min(2 * count, len(sums))
    words = {"lower": ("harmful", "helpful"), "higher": ("helpful", "harmful")}.get(
        better, ("removal lowers it", "removal raises it")
    )
    for name, word in found.items():
        total = sums[int(name[1:])]
        assert word == ("no effect" if total == 0 else words[total > 0])
    for sign in (-1, 1):
        mine = sorted(-abs(s) for s in sums if s * sign > 0)
        shown = sorted(-abs(sums[int(n[1:])]) for n in found if sums[int(n[1:])] * sign > 0)
        assert shown == mine[: len(shown)] and len(shown) >= min(count, len(mine))


def test_pictures_under_harmful_are_harmful_or_say_that_none_is(result):
    pictures = np.zeros((5, 4, 4))
    scores = xr.DataArray([1.0, 2.0, -3.0, 4.0, 5.0], dims="train")
    for better, rows in (
        ("lower", [("most harmful", [2]), ("most helpful", [4, 3, 1])]),
        ("higher", [("most harmful", [4, 3, 1]), ("most helpful", [2])]),
        ("none", [("removal lowers it most", [2]), ("removal raises it most", [4, 3, 1])]),
    ):
        axes = plot.extremes(scores.assign_attrs(better=better), pictures, count=3)
        shown = [int(ax.get_xlabel().splitlines()[0]) for ax in axes]
        assert shown == rows[0][1] + rows[1][1]
        second = len(rows[0][1])
        assert (axes[0].get_ylabel(), axes[second].get_ylabel()) == (rows[0][0], rows[1][0])
    up = abs(scores).assign_attrs(better="lower")
    axes = plot.extremes(up, pictures, count=2)
    assert (axes[0].get_ylabel(), axes[2].get_ylabel()) == (
        "most harmful: none\n(least helpful)",
        "most helpful",
    )
    assert axes[0].spines["left"].get_edgecolor() == axes[2].spines["left"].get_edgecolor()


def test_colours_follow_the_querys_direction(patterned):
    """Blue = helpful: above zero for a loss, below for a margin; neither colour where there is no harm."""
    ends = {}
    for better in ("lower", "higher", "none"):
        colours = plot.pattern_map(patterned.assign_attrs(better=better)).images[0].get_cmap()
        ends[better] = [np.array(colours(at)[:3]) for at in (0.25, 0.75)]
    np.testing.assert_allclose(ends["lower"], ends["higher"][::-1], atol=0.02)  # a step of 256 colours
    assert all(abs(one - other).max() > 0.2 for one in ends["lower"] for other in ends["none"])
    assert analysis.patterns(patterned.standardised.assign_attrs(better="higher")).attrs["better"] == "higher"


def test_plots_draw_on_the_axes_they_are_given(result):
    from matplotlib.figure import Figure

    left, right = Figure().subplots(1, 2)
    assert plot.scatter(result, "good", left) is left
    assert plot.timeline(result.influence.sel(estimator="good").isel(seed=0, query=0), ax=right) is right


def test_what_cannot_be_drawn_is_named(result):
    with pytest.raises(InputError, match="no estimator 'bad' in this result; it has good, loo"):
        plot.scatter(result, "bad")
    with pytest.raises(InputError, match="expected scores"):
        plot.timeline(result.influence)
    with pytest.raises(InputError, match="as many pictures"):
        plot.extremes(result.influence.isel(estimator=0, seed=0, query=0, window=0), np.zeros((3, 4, 4)))


def test_input_and_pyplot_are_left_alone(result):
    import sys

    before = result.copy(deep=True)
    plot.agreement(result)
    xr.testing.assert_identical(result, before)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


# influence over time, and detection ------------------------------------------------------------------


@pytest.fixture
def patterned() -> xr.Dataset:
    """Patterns of 40 examples in 12 epochs: five fall, five rise, three jump, the rest stay."""
    rng = np.random.default_rng(0)
    x = np.tile(rng.normal(size=40), (12, 1)) + rng.normal(size=(12, 40)) * 0.03
    x[:, :5] -= np.linspace(-2, 2, 12)[:, None]
    x[:, 5:10] += np.linspace(-2, 2, 12)[:, None]
    x[:, 10:13] += 2 * (-1.0) ** np.arange(12)[:, None]
    influence = xr.DataArray(x, dims=("window", "train"), coords={"train": [f"a{i}" for i in range(40)]})
    return analysis.patterns(influence)


def test_pattern_lines_draw_every_example_once_and_the_centroid_and_the_chosen_by_name(patterned):
    axes = plot.pattern_lines(patterned, examples=["a0", "a7", "a30"])
    drawn = [np.array(c.get_segments()) for ax in axes for c in ax.collections]
    assert [len(d) for d in drawn] == [5, 5, 27, 3]
    z = patterned.standardised.values
    for d, kind, ax in zip(drawn, analysis.PATTERNS, axes, strict=True):
        np.testing.assert_array_equal(d[:, :, 1].T, z[:, patterned.pattern.values == kind])
        lines = {line.get_label(): line for line in ax.lines}
        np.testing.assert_array_equal(lines["centroid"].get_ydata(), patterned.centroid.sel(kind=kind))
        shares = [100 * float(patterned[name].sel(kind=kind)) for name in ("share", "share_by_p")]
        assert "{:.1f} % ({:.1f} % by p alone)".format(*shares) in ax.get_title()
    named = [{line.get_label() for line in ax.lines if line.get_label().startswith("a")} for ax in axes]
    assert named == [{"a0"}, {"a7"}, {"a30"}, set()]
    assert [len(ax.get_legend().get_texts()) for ax in plot.pattern_lines(patterned)] == [3] * 4


def test_a_single_query_need_not_be_taken_out_of_the_patterns_first(patterned):
    one = analysis.patterns(patterned.standardised.expand_dims("query"))
    shown = plot.pattern_map(one).images[0].get_array()
    np.testing.assert_allclose(shown, plot.pattern_map(patterned).images[0].get_array(), atol=1e-12)


def test_a_pattern_without_examples_is_an_empty_panel(patterned):
    still = analysis.patterns(patterned.standardised[:, 20:], fluctuating=100)
    axes = plot.pattern_lines(still)
    by_p = plot.pattern_lines(analysis.patterns(patterned.standardised, change=0))
    assert not any("by p alone" in ax.get_title() for ax in by_p)
    assert [[t.get_text() for t in ax.texts] for ax in axes] == [["no example"]] * 2 + [[], ["no example"]]
    plot.pattern_map(still).figure.canvas.draw()
    axes[0].figure.canvas.draw()


def test_the_pattern_map_has_a_row_for_each_example_sorted_by_pattern(patterned):
    ax = plot.pattern_map(patterned)
    shown = ax.images[0].get_array()
    z, pattern = patterned.standardised.values.T, patterned.pattern.values
    row = 0
    for kind in analysis.PATTERNS:
        mine = z[pattern == kind]
        np.testing.assert_array_equal(shown[row : row + len(mine)], mine[mine.mean(1).argsort()])
        row += len(mine)
    assert row == len(shown)
    assert [t.get_text().split("\n")[1] for t in ax.texts] == ["5", "5", "27", "3"]
    places = [t.get_position()[1] for t in ax.texts]
    assert np.diff(places).min() >= 0.085 * 40 - 1e-9 and max(places) <= 39


def test_stages_are_drawn_where_they_begin():
    loss = 0.9 * np.exp(-0.3 * np.arange(21.0)) + 0.1
    loss[[6, 14]] += 0.08
    found = analysis.stages(xr.DataArray(loss, dims="epoch"))
    ax = plot.stages(found)
    data, fit, *cuts = ax.lines
    np.testing.assert_array_equal(data.get_ydata(), loss)
    np.testing.assert_array_equal(fit.get_ydata(), found.fitted)
    assert [line.get_xdata()[0] for line in cuts] == [5.5, 13.5]
    assert [t.get_text() for t in ax.texts] == ["early", "middle", "late"]


def test_the_stage_matrix_shows_means_and_deviations_over_the_seeds():
    x = np.random.default_rng(0).normal(size=(3, 4, 20))
    matrix = analysis.stage_agreement(xr.DataArray(x, dims=("seed", "window", "train")))
    ax = plot.stage_matrix(matrix)
    np.testing.assert_allclose(ax.images[0].get_array(), matrix.mean("seed"))
    texts = {t.get_position(): t.get_text() for t in ax.texts}
    assert texts[1, 0] == f"{matrix[:, 0, 1].mean():.2f}\n± {matrix[:, 0, 1].std():.2f}"
    assert texts[2, 2] == "1.00" and len(texts) == 16
    assert [t.get_text() for t in ax.get_xticklabels()] == ["early", "middle", "late", "full"]
    one = plot.stage_matrix(matrix[0].where(matrix.stage != "late"))
    assert len(one.texts) == 12 and "±" not in one.texts[1].get_text()


@pytest.fixture
def judged() -> xr.Dataset:
    rng = np.random.default_rng(0)
    mask = np.arange(30) < 6
    x = rng.normal(size=(2, 3, 30)) - np.array([2.0, 0.5])[:, None, None] * mask
    scores = xr.DataArray(x, dims=("estimator", "seed", "train"), coords={"estimator": ["good", "poor"]})
    return analysis.detection(scores, mask)


def test_detection_curves_of_all_estimators_start_at_nothing_and_end_at_all(judged):
    lines = plot.detection(judged).lines
    lines = {line.get_label().split("\n")[0]: line for line in lines if "AUC" in line.get_label()}
    assert set(lines) == {"good", "poor"}
    assert len({(line.get_color(), line.get_linestyle()) for line in lines.values()}) == 2
    for name, line in lines.items():
        one = judged.sel(estimator=name)
        np.testing.assert_allclose(line.get_ydata(), [0, *one.recall.mean("seed").values])
        np.testing.assert_allclose(line.get_xdata(), np.arange(31) / 30)
        assert f"AUC {float(one.auc.mean()):.3f} ± {float(one.auc.std()):.3f}" in line.get_label()


def test_precision_recall_curves_are_those_of_detection(judged):
    ax = plot.precision_recall(judged)
    line = next(line for line in ax.lines if line.get_label().startswith("poor"))
    one = judged.sel(estimator="poor").mean("seed")
    np.testing.assert_allclose(np.array(line.get_data()), [one.recall, one.precision])
    assert ax.lines[0].get_ydata()[0] == 6 / 30  # chance
    single = plot.precision_recall(judged.isel(estimator=0, seed=0))
    assert single.get_legend().get_texts()[0].get_text().startswith("good\nAP")


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_every_picture_can_be_saved(patterned, judged, tmp_path, ending):
    matrix = analysis.stage_agreement(patterned.standardised.isel(window=[0, 4, 8, 11]))
    for ax in (plot.pattern_lines(patterned)[0], plot.pattern_map(patterned), plot.stage_matrix(matrix),
               plot.detection(judged), plot.precision_recall(judged)):  # fmt: skip
        path = tmp_path / f"picture.{ending}"
        ax.figure.savefig(path)
        assert path.stat().st_size > 5000


def test_dynamics_that_cannot_be_drawn_are_named(patterned, judged):
    with pytest.raises(InputError, match="no example 'nobody' in these patterns; they have 'a0'"):
        plot.pattern_lines(patterned, examples=["nobody"])
    two = analysis.patterns(xr.concat([patterned.standardised] * 2, "seed"))
    for draw in (plot.pattern_lines, plot.pattern_map):
        with pytest.raises(InputError, match="expected the patterns of one run and query"):
            draw(two)
    with pytest.raises(InputError, match="expected agreement .stage, other."):
        plot.stage_matrix(patterned.slope)
    with pytest.raises(InputError, match="expected one dimension of lines, got window and estimator"):
        plot.detection(xr.concat([judged] * 2, "window"))
    with pytest.raises(InputError, match="40 lines are too many"):
        plot.detection(xr.concat([judged.isel(estimator=0, drop=True)] * 40, "estimator"))
