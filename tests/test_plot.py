"""Plots show the numbers they are given: what is drawn is read back from the Axes."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from influencekit import InputError, plot
from influencekit.evaluation import detection
from influencekit.plot.style import diverging


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


def test_colours_follow_the_querys_direction():
    """Blue = helpful: above zero for a loss, below for a margin; neither colour where there is no harm."""
    ends = {}
    for better in ("lower", "higher", None):
        colours = diverging(better)
        ends[better] = [np.array(colours(at)[:3]) for at in (0.25, 0.75)]
    np.testing.assert_allclose(ends["lower"], ends["higher"][::-1], atol=0.02)  # a step of 256 colours
    assert all(abs(one - other).max() > 0.2 for one in ends["lower"] for other in ends[None])


def test_plots_draw_on_the_axes_they_are_given(result):
    from matplotlib.figure import Figure

    left, right = Figure().subplots(1, 2)
    assert plot.scatter(result, "good", left) is left
    assert plot.timeline(result.influence.sel(estimator="good").isel(seed=0, query=0), ax=right) is right


def test_what_cannot_be_drawn_is_named(result):
    with pytest.raises(InputError, match="estimator must be one of good, loo, got 'bad'"):
        plot.scatter(result, "bad")
    with pytest.raises(InputError, match="expected scores"):
        plot.timeline(result.influence)
    with pytest.raises(InputError, match="expected an array of 20 pictures"):
        plot.extremes(result.influence.isel(estimator=0, seed=0, query=0, window=0), np.zeros((3, 4, 4)))


def test_input_and_pyplot_are_left_alone(result):
    import sys

    before = result.copy(deep=True)
    plot.agreement(result)
    xr.testing.assert_identical(result, before)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


# detection ------------------------------------------------------------------


@pytest.fixture
def judged() -> xr.Dataset:
    rng = np.random.default_rng(0)
    mask = np.arange(30) < 6
    x = rng.normal(size=(2, 3, 30)) - np.array([2.0, 0.5])[:, None, None] * mask
    scores = xr.DataArray(x, dims=("estimator", "seed", "train"), coords={"estimator": ["good", "poor"]})
    return detection(scores, mask)


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
def test_every_picture_can_be_saved(judged, tmp_path, ending):
    for ax in (plot.detection(judged), plot.precision_recall(judged)):
        path = tmp_path / f"picture.{ending}"
        ax.figure.savefig(path)
        assert path.stat().st_size > 5000


def test_curves_that_cannot_be_drawn_are_named(judged):
    with pytest.raises(InputError, match="expected one dimension of lines, got window and estimator"):
        plot.detection(xr.concat([judged] * 2, "window"))
    with pytest.raises(InputError, match="40 lines are too many"):
        plot.detection(xr.concat([judged.isel(estimator=0, drop=True)] * 40, "estimator"))


@pytest.mark.parametrize("names", [["a$\\frac{$", "b$"], ["_neg", ""], ["a\nb" * 40, "c" * 200]])
def test_names_are_drawn_as_they_are_and_leave_room_for_the_picture(result, names, tmp_path):
    """A `$` is no formula (it ended `compare --out` after all retraining), `_neg` is in the legend, and a
    long name takes nothing from the picture: its middle is left out."""
    ids = [f"https://example.org/${i}$\\q/{'x' * 80}{i}" for i in range(20)]
    result = result.assign_coords(
        example=(("seed", "train"), [ids] * 2), label=(("seed", "train"), [names * 10] * 2)
    ).assign_attrs(workload="runs/$a$\\frac{/" + "x" * 300)
    scores = result.influence.sel(estimator="good").isel(seed=0, query=0).assign_attrs(better="lower")
    drawn = [
        plot.timeline(scores, count=2),
        plot.agreement(result)[0],
        plot.extremes(scores[0], np.random.rand(20, 3, 3))[0],
    ]
    for number, ax in enumerate(drawn):
        plain = [t.get_text() for t in ax.get_legend().get_texts()] if ax.get_legend() else []
        ax.figure.savefig(tmp_path / f"{number}.png")
        if number == 1:
            assert len(plain) == len(names) and all(len(text) <= 30 for text in plain)
        if number < 2:  # the axes of pictures are small
            box = ax.get_window_extent()
            assert box.width > 0.35 * ax.figure.bbox.width and box.height > 0.5 * ax.figure.bbox.height
            assert ax.get_legend().get_window_extent().x1 <= ax.figure.bbox.width
