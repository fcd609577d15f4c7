"""Stages: planted change points are found, windows tile the run, and a loss without stages says so."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from influencekit_paper.stages import STAGES, epoch_loss, stage_agreement, stage_windows, stages
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.stats import kendalltau

import influencekit as ik
from influencekit import InputError


def losses(values) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, dtype=float), dims="epoch")


def decay(epochs: int = 21, bumps=((6, 0.08), (14, -0.05))) -> np.ndarray:
    y = 0.9 * np.exp(-0.3 * np.arange(epochs)) + 0.1
    for epoch, height in bumps:
        y[epoch] += height
    return y


def run_of(steps: list[int]) -> SimpleNamespace:
    """A run with so many steps in each epoch, as far as windows ask."""
    epoch = torch.arange(len(steps)).repeat_interleave(torch.tensor(steps))
    return SimpleNamespace(plan=SimpleNamespace(epoch=epoch))


def test_planted_change_points_are_found():
    found = stages(losses(decay()))
    assert found.start.values.tolist() == [0, 6, 14] and found.stop.values.tolist() == [6, 14, 21]
    assert found.stage.values.tolist() == list(STAGES) and found.attrs["peaks"] == 2
    np.testing.assert_allclose(found.loss, found.fitted + found.residual)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-0.01, 0.01), min_size=21, max_size=21),
    st.floats(0.05, 1.5),
    st.floats(0.1, 50.0),
    st.floats(0.0, 5.0),
)
def test_no_start_of_a_general_fit_finds_a_better_decay(noise, rate, amplitude, floor):
    e = np.arange(21.0)
    y = amplitude * (np.exp(-rate * e) + np.array(noise)) + floor
    if np.ptp(np.array(noise)) < 1e-3:
        y[4] += 0.01 * amplitude
    found = stages(losses(y))
    mine = float((found.residual**2).sum())

    def shape(e, a, b, c):
        return a * np.exp(-b * e) + c

    warnings.simplefilter("ignore", OptimizeWarning)
    for start in ((amplitude, rate, floor), (np.ptp(y), 0.1, y.min())):
        try:
            (a, b, c), _ = curve_fit(shape, e, y, p0=start, maxfev=5000)
        except RuntimeError:  # it gave up
            continue
        if a > 0 and 0 < b < 20:
            theirs = float(((y - shape(e, a, b, c)) ** 2).sum())
            assert mine <= theirs * (1 + 1e-6) + 1e-12


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_three_stages_tile_the_epochs_and_the_largest_peaks_divide_them(data):
    epochs = data.draw(st.integers(6, 40))
    noise = data.draw(st.lists(st.floats(0.001, 0.2), min_size=epochs, max_size=epochs))
    distance = data.draw(st.integers(1, (epochs - 1) // 2))
    y = np.exp(-3 * np.arange(epochs) / epochs) + np.array(noise)
    y[epochs // 2] += 0.3  # something is left by every exponential
    found = stages(losses(y), distance=distance)
    start, stop = found.start.values, found.stop.values
    assert start[0] == 0 and stop[-1] == epochs and (start[1:] == stop[:-1]).all()
    assert (stop - start >= [1, distance, 1]).all()
    # no allowed pair of local maxima beats the two that were taken, in the larger of its two residuals
    if found.attrs["peaks"] == 2:
        size = np.abs(found.residual.values)
        inner = [k for k in range(1, epochs - 1) if size[k - 1] < size[k] > size[k + 1]]
        pairs = [(a, b) for a in inner for b in inner if a <= b - distance]
        assert size[start[1:]].max() >= max(max(size[a], size[b]) for a, b in pairs) - 1e-12


def test_a_missing_peak_is_replaced_by_the_largest_residual_and_counted():
    found = stages(losses(1 / (1 + np.arange(21)) ** 0.5), distance=3)  # slower than any exponential
    assert found.attrs["peaks"] == 1
    size = np.abs(found.residual.values)
    top = max((k for k in range(1, 20) if size[k - 1] < size[k] > size[k + 1]), key=lambda k: size[k])
    other = max((k for k in range(1, 21) if abs(k - top) >= 3), key=lambda k: size[k])
    assert found.start.values.tolist() == [0, *sorted([top, other])]
    straight = stages(losses(np.sqrt(30 - np.arange(21.0))))  # falls ever faster: nearly a line is fitted
    assert straight.attrs["rate"] < 1e-3 and straight.attrs["peaks"] < 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full(21, 0.7), "constant .0.7."),
        (np.linspace(0.1, 1, 21) ** 2, "does not fall"),
        (1 - decay(), "does not fall"),
        (decay()[:5], "at least 6 epochs .* got 5"),
        (np.where(np.arange(21) == 4, np.nan, decay()), "NaN or infinity"),
        (decay(bumps=()), "no change points"),
    ],
)
def test_a_loss_without_stages_is_an_error(values, message):
    with pytest.raises(InputError, match=message):
        stages(losses(values))


def test_other_wrong_input_is_an_error():
    with pytest.raises(InputError, match="distance must be from 1 to 10 "):
        stages(losses(decay()), distance=11)
    with pytest.raises(InputError, match="expected the loss of every epoch"):
        stages(losses(decay()).rename(epoch="step"))
    with pytest.raises(InputError, match="of 21 epochs, and the run has 4"):
        stage_windows(stages(losses(decay())), run_of([1] * 4))
    with pytest.raises(InputError, match="3 windows need as many names, got 2"):
        stage_agreement(xr.DataArray(np.eye(3), dims=("window", "train")), names=["a", "b"])


def test_stage_windows_tile_the_run_in_steps_and_full_is_all_of_it():
    found = stages(losses(decay()))
    steps = [1 + k % 3 for k in range(21)]  # epochs of different lengths
    windows = stage_windows(found, run_of(steps), removal="window")
    total = np.concatenate([[0], np.cumsum(steps)])
    cuts = [0, total[6], total[14], total[21]]
    assert [(w.start, w.stop) for w in windows[:3]] == list(zip(cuts, cuts[1:], strict=False))
    assert (windows[3].start, windows[3].stop) == (0, total[21])
    assert {w.removal for w in windows} == {"window"}


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(3, 12), st.randoms(use_true_random=False))
def test_the_kendall_matrix_is_symmetric_with_unit_diagonal_and_scipys(windows, n, random):
    x = np.array([[[random.randint(0, 4) for _ in range(n)] for _ in range(windows)] for _ in range(2)])
    x[..., 0], x[..., 1] = -1, 7  # no example is constant
    found = stage_agreement(xr.DataArray(x.astype(float), dims=("seed", "window", "train")))
    assert found.dims == ("seed", "stage", "other")
    np.testing.assert_array_equal(found, found.transpose("seed", "other", "stage"))
    for seed in range(2):
        np.testing.assert_allclose(np.diag(found[seed]), 1, rtol=1e-12)
        for a in range(windows):
            for b in range(windows):
                assert float(found[seed, a, b]) == pytest.approx(kendalltau(x[seed, a], x[seed, b])[0])


def test_windows_are_named_by_their_stage_or_their_steps():
    x = xr.DataArray(
        np.random.default_rng(0).normal(size=(3, 5)), dims=("window", "train"),
        coords={"start": ("window", [0, 2, 4]), "stop": ("window", [2, 4, 9])},
    )  # fmt: skip
    assert stage_agreement(x).stage.values.tolist() == ["[0, 2)", "[2, 4)", "[4, 9)"]
    four = xr.concat([x, x.isel(window=[0])], "window")
    assert stage_agreement(four).other.values.tolist() == ["early", "middle", "late", "full"]
    assert stage_agreement(x.drop_vars(["start", "stop"])).stage.values.tolist() == ["0", "1", "2"]


@pytest.fixture(scope="module")
def run():
    problem = ik.make("workload", "mnist-1v7-lr", setting="trained", epochs=6, n_train=40, batch_size=16)
    return ik.record(problem)


def test_epoch_loss_is_the_mean_of_what_each_example_cost_before_its_update(run):
    work, plan = run.workload, run.plan
    spent = [[] for _ in range(6)]
    for t in range(run.steps):
        rows = plan.batch(t)
        spent[int(plan.epoch[t])] += work.losses(run.state(t).theta, work.examples(rows)).tolist()
    assert {len(s) for s in spent} == {40}
    np.testing.assert_allclose(epoch_loss(run), [np.mean(s) for s in spent], rtol=1e-5)


def test_a_real_run_goes_all_the_way(run):
    windows = stage_windows(stages(epoch_loss(run)), run)
    matrix = stage_agreement(ik.estimate(run, windows=windows).influence.squeeze("query", drop=True))
    assert matrix.stage.values.tolist() == ["early", "middle", "late", "full"]
    np.testing.assert_allclose(np.diag(matrix), 1)


def test_a_run_that_was_recorded_in_part_has_no_epoch_losses(run):
    part = ik.record(run.workload, window=(0, 5))
    with pytest.raises(InputError, match="ends before step 18"):
        epoch_loss(part)
