"""Windows and losses over training are thinned without losing anything."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from influencekit._report.curve import stretches
from influencekit._report.patterns import fewer


@pytest.mark.parametrize("added", [True, False])
def test_many_windows_become_at_most_120_without_losing_their_sum(added):
    windows = np.random.default_rng(0).normal(size=(1000, 4))
    found, bounds, note = fewer(windows, [(k, k + 1) for k in range(1000)], added)
    assert len(found) == len(bounds) == 120 and "1000" in note
    for row, (start, stop) in zip(found, bounds, strict=True):
        np.testing.assert_allclose(row, windows[start:stop].sum(0))
    if added:
        np.testing.assert_allclose(found.sum(0), windows.sum(0))
        assert bounds[0][0] == 0 and all(a[1] == b[0] for a, b in zip(bounds, bounds[1:], strict=False))
    assert fewer(windows[:7], [], added)[0] is not found and not fewer(windows[:7], [], added)[2]


@given(st.integers(1, 700), st.integers(0, 3))
def test_the_loss_curve_takes_equally_many_steps_for_each_of_its_points(steps, seed):
    losses = np.random.default_rng(seed).normal(size=(steps, 2))
    found = stretches(losses)
    wide = max(1, -(-steps // 200))
    assert len(found) <= 200 and found[-1][0] == steps - wide
    assert {k for start, _ in found for k in range(start, start + wide)} == set(range(steps))
    for start, value in found:
        assert value == pytest.approx(losses[start : start + wide].mean())
