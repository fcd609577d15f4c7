"""Phases of curves whose phases are known."""

import numpy as np
import pytest
import xarray as xr
from influencekit_dvemb import phases, plot_phases

import influencekit as ik


def contributions(curve, width=4):
    """Effects of either sign whose size follows the curve; the last slot is padded, with a number in it."""
    signs = np.where(np.arange(len(curve) * width).reshape(-1, width) % 3, 1, -1)
    C = signs * np.asarray(curve)[:, None]
    batch = np.tile(np.arange(width), (len(curve), 1))
    C[:, -1], batch[:, -1] = 1e9, -1
    return xr.Dataset({"contribution": (("query", "evaluation", "step", "slot"), C[None, None]),
                       "batch": (("step", "slot"), batch)})  # fmt: skip


def test_a_basin_between_two_rises_has_its_three_phases():
    curve = np.concatenate([np.full(30, 16.0), np.full(50, 1.0), np.full(20, 9.0)])
    found = phases(contributions(curve), bins=50)
    np.testing.assert_allclose(found.magnitude, curve[::2])
    assert found.phase.values.tolist() == ["warm-up"] * 15 + ["basin"] * 25 + ["ascent"] * 10


@pytest.mark.parametrize(
    ("curve", "names"),
    [
        (np.geomspace(1, 100, 60), {"basin", "ascent"}),
        (np.geomspace(100, 1, 60), {"warm-up", "basin"}),
        (np.linspace(1, 1.4, 60), {"basin"}),  # a rise of less than half is none
    ],
)
def test_a_phase_that_is_not_there_is_not_named(curve, names):
    assert set(phases(contributions(curve), bins=20).phase.values) == names


def test_the_plot_shows_every_bin_and_names_the_phases():
    found = phases(contributions([9, 9, 1, 1, 1, 4]), bins=3)
    ax = plot_phases(found)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), found.magnitude)
    assert [t.get_text() for t in ax.texts] == ["warm-up", "basin", "ascent"]


def test_too_many_bins_are_refused():
    with pytest.raises(ik.InputError, match="from 3 to the number of steps, 5; got 6"):
        phases(contributions(np.ones(5)), bins=6)
