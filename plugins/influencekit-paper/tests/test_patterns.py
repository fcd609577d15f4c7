"""Patterns: planted shapes are found, the order of examples means nothing, scipy agrees one by one."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from influencekit_paper.patterns import PATTERNS, patterns
from scipy.stats import linregress

from influencekit import InputError


def scores(values: np.ndarray) -> xr.DataArray:
    dims = ("seed", "window", "train")[-values.ndim :]
    return xr.DataArray(values, dims=dims, coords={"train": [f"x{i}" for i in range(values.shape[-1])]})


def planted(n: int = 60, windows: int = 20) -> tuple[xr.DataArray, list[str]]:
    """Two examples early, three late, four fluctuating, the rest constant but for noise; epochs scaled."""
    rng = np.random.default_rng(1)
    z = np.tile(rng.normal(size=n), (windows, 1)) + rng.normal(size=(windows, n)) * 0.05
    kinds = ["stable"] * n
    e = np.linspace(-1, 1, windows)
    for j in range(9):
        kinds[j] = ("early", "early", "late", "late", "late", *["fluctuating"] * 4)[j]
        shape = {"early": -e, "late": e, "fluctuating": (-1.0) ** np.arange(windows)}[kinds[j]]
        z[:, j] = 2 * shape * (-1 if j in (5, 6) else 1) + rng.normal(size=windows) * 0.05
    scale = 10.0 ** -np.arange(windows)[:, None]  # down to 1e-19: the loss hardly changes any more
    return scores(z * scale + 3 * scale), kinds


def matrices():
    value = st.floats(-1e3, 1e3, allow_nan=False, width=32)
    return st.integers(3, 8).flatmap(
        lambda w: st.integers(2, 9).flatmap(
            lambda n: st.lists(st.lists(value, min_size=n, max_size=n), min_size=w, max_size=w)
        )
    )


def test_each_planted_shape_is_found():
    influence, kinds = planted()
    found = patterns(influence)
    assert found.pattern.values.tolist() == kinds
    np.testing.assert_allclose(found.share, [2 / 60, 3 / 60, 51 / 60, 4 / 60])
    assert found.kind.values.tolist() == list(PATTERNS)


def test_slopes_p_values_and_deviations_are_those_of_scipy_and_numpy_for_each_example():
    influence, _ = planted()
    found = patterns(influence)
    x = influence.values
    z = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    np.testing.assert_allclose(found.standardised, z, atol=1e-9)
    for j in range(x.shape[1]):
        line = linregress(np.arange(len(x)), z[:, j])
        assert found.slope.values[j] == pytest.approx(line.slope, abs=1e-12)
        assert found.p_value.values[j] == pytest.approx(line.pvalue, rel=1e-6, abs=1e-15)
        assert found.deviation.values[j] == pytest.approx(z[:, j].std(), abs=1e-9)


def test_centroids_are_the_means_of_their_examples_and_nan_where_there_are_none():
    influence, kinds = planted()
    found = patterns(influence)
    for kind in PATTERNS:
        mean = found.standardised.values[:, np.array(kinds) == kind].mean(1)
        np.testing.assert_allclose(found.centroid.sel(kind=kind), mean, atol=1e-12)
    still = patterns(influence.isel(train=slice(20, None)), fluctuating=100.0)
    assert still.share.sel(kind="stable") == 1
    assert np.isnan(still.centroid.sel(kind=["early", "late", "fluctuating"])).all()


@settings(max_examples=60, deadline=None)
@given(matrices(), st.randoms(use_true_random=False))
def test_the_order_of_examples_and_the_scale_of_an_epoch_change_nothing(rows, random):
    x = np.array(rows)
    order = list(range(x.shape[1]))
    random.shuffle(order)
    scale = np.array([2.0 ** random.randint(-40, 40) for _ in rows])[:, None]
    first, second = patterns(scores(x)), patterns(scores(x[:, order] * scale))
    for name in ("slope", "p_value", "deviation", "standardised"):
        np.testing.assert_allclose(first[name].values[..., order], second[name].values, atol=1e-7)
    assert float(first.share.sum()) == pytest.approx(1)
    counted = [(first.pattern.values == kind).mean() for kind in PATTERNS]
    np.testing.assert_allclose(first.share, counted)
    near = np.abs(first.p_value.values - 0.05) < 1e-6
    near |= np.abs(np.abs(first.slope.values) * (len(x) - 1) - 1) < 1e-6
    near |= np.abs(first.deviation.values - float(first.limit)) < 1e-6
    if not near.any():  # no decision hangs on rounding
        assert first.pattern.values[order].tolist() == second.pattern.values.tolist()


def test_further_dimensions_are_mapped_over():
    influence, _ = planted()
    other = influence[:, ::-1].values
    both = patterns(scores(np.stack([influence.values, other])))
    for seed, values in enumerate((influence.values, other)):
        one = patterns(scores(values))
        for name in one.data_vars:
            np.testing.assert_array_equal(both[name].isel(seed=seed).values, one[name].values)


def test_the_named_choices_do_what_they_say():
    influence, kinds = planted()
    alone = patterns(influence, change=0)
    assert (alone.pattern.values[alone.p_value.values < 0.05] != "stable").all()
    corrected = patterns(influence, change=0, correction="benjamini-hochberg")
    assert (corrected.p_value >= alone.p_value).all()
    assert corrected.share.sel(kind=["early", "late"]).sum() <= alone.share.sel(kind=["early", "late"]).sum()
    assert float(patterns(influence, adaptive=False, fluctuating=0.5).limit) == 0.5
    # harm that fades: rising as a signed value, falling in size
    fading = influence.copy()
    fading[:, 20] = influence.mean("train") + influence.std("train") * np.linspace(-4, -0.1, 20)
    assert patterns(fading).pattern.values[20] == "late"
    assert patterns(fading, magnitude=True).pattern.values[20] == "early"
    assert patterns(influence, ddof=1).standardised.std("train", ddof=1).values == pytest.approx(1)


def test_the_paper_s_rule_alone_stands_beside_ours():
    """By p alone a slope that is sure and small is a trend; by ours it is not."""
    influence, kinds = planted()
    z = influence.copy()
    z[:, 30] = influence[:, 30] + influence.std("train") * np.linspace(0, 0.4, 20)
    found, alone = patterns(z), patterns(z, change=0)
    for name in ("pattern", "share"):
        np.testing.assert_array_equal(found[f"{name}_by_p"], alone[name])
        np.testing.assert_array_equal(alone[f"{name}_by_p"], alone[name])
    assert found.pattern.values[30] == "stable" and found.pattern_by_p.values[30] == "late"
    assert (found.pattern_by_p.values[:5] == kinds[:5]).all() and float(
        found.share_by_p.sum()
    ) == pytest.approx(1)


def test_the_same_influence_for_all_is_stable():
    found = patterns(scores(np.ones((5, 1)) * np.full(4, 0.1)))
    assert set(found.pattern.values) == {"stable"} and (found.standardised == 0).all()
    assert (found.p_value == 1).all()


def test_a_line_without_noise_is_a_trend():
    x = np.linspace(-1, 1, 5)[:, None] * np.array([1.0, -1.0, 0.0]) + np.array([0, 0, 3.0])
    found = patterns(scores(x))
    assert found.pattern.values.tolist() == ["late", "early", "stable"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.isel(window=[0, 1]), "at least 3 windows and 2 examples, got 2 and 60"),
        (lambda x: x.isel(train=[0]), "got 20 and 1"),
        (lambda x: x.where(x.train != "x3"), "holds NaN or infinity; drop"),
        (lambda x: x.isel(window=0), "expected influence .window, train., got {'train': 60}"),
        (lambda x: x.values, "got ndarray"),
    ],
)
def test_what_has_no_patterns_is_named(change, message):
    with pytest.raises(InputError, match=message):
        patterns(change(planted()[0]))


@pytest.mark.parametrize(
    "options",
    [{"significance": 0.0}, {"change": -1.0}, {"fluctuating": -1.0}, {"correction": "bonferroni"}],
)
def test_choices_that_cannot_be_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        patterns(planted()[0], **options)
