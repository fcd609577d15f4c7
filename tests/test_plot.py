"""Plots show the numbers they are given: what is drawn is read back from the Axes."""

import numpy as np
import pytest
import xarray as xr

from influencekit import InputError, plot


@pytest.fixture
def result() -> xr.Dataset:
    """Two seeds, one query, three windows, 20 examples of two classes; `good` is the truth and some noise."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(2, 1, 3, 20)) * 1e-3
    good = truth + rng.normal(size=truth.shape) * 1e-4
    truth[:, :, :, 5] = np.nan  # was not retrained
    return xr.Dataset(
        {
            "influence": (("estimator", "seed", "query", "window", "train"), np.stack([good, truth])),
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
