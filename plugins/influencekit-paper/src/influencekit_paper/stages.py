"""Early, middle and late training: where the loss leaves an exponential decay, and whether ranks agree."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from scipy.optimize import minimize_scalar
from scipy.signal import find_peaks

import influencekit as ik
from influencekit.errors import InputError
from influencekit.metrics import kendall
from influencekit.windows import Removal, Window

__all__ = ["STAGES", "epoch_loss", "stage_agreement", "stage_windows", "stages"]

STAGES = ("early", "middle", "late")
_LEAST = 6  # epochs: three parameters are fitted, and what they leave has to show two peaks
_EXACT = 1e-6  # of the loss's range: residuals below it are rounding


def epoch_loss(trajectory: ik.Trajectory) -> xr.DataArray:
    """Mean training loss of every epoch [epoch]: of its examples, each before its own update, no penalty.

    From the losses that were recorded; nothing is computed again. Errors: a run that was not trained to its
    end.
    """
    data = trajectory.dataset
    loss, filled = data["loss"].values.astype(np.float64), data["batch"].values >= 0
    missing = np.isnan(loss[filled]).sum()
    if missing or trajectory.last < trajectory.steps:
        raise InputError(
            f"epoch_loss: the recording ends before step {trajectory.steps}, the last of the run; record the "
            "whole run"
        )
    epoch = data["epoch"].values
    sums = np.bincount(epoch, weights=np.where(filled, loss, 0).sum(-1))
    return xr.DataArray(
        sums / np.bincount(epoch, weights=filled.sum(-1)),
        dims="epoch",
        coords={"epoch": np.arange(len(sums))},
        name="loss",
        attrs={"long_name": "mean training loss"},
    )


def stages(loss: xr.DataArray, *, distance: int | None = None) -> xr.Dataset:
    """Early, middle and late epochs, divided where the loss leaves an exponential decay.

    `loss` [epoch], such as `epoch_loss` gives it. Fitted by least squares, the global optimum over the rate:

        fitted[e] = amplitude exp(-rate e) + floor          residual = loss - fitted

    The change points are the largest peak (local maximum) of |residual|, and the largest of those at least
    `distance` epochs from it. A change point is the first epoch of its stage: the middle stage has at least
    `distance` epochs, the others at least one. Where there are fewer than two such peaks, the largest
    |residual| that keeps the distance is taken instead of the missing one. The attribute `peaks` says how
    many of the two are peaks.

    A loss that falls ever faster is fitted by what comes nearest, a straight line: a rate near 0.

    The paper (arXiv 2502.10793, F-C) gives these steps, and for `distance` no number but that change points
    are to be "evenly distributed": it is a quarter of the epochs unless you say (21 epochs: 5).

    The result: `loss`, `fitted`, `residual` [epoch]; `start`, `stop` [stage], in epochs from 0, half-open;
    the fit's parameters in attrs. Errors, each instead of a guess: fewer than six epochs, values that are not
    finite, a loss that is constant or does not fall, one that has no residual at all, a distance that
    leaves no three stages.
    """
    y = _checked(loss)
    epochs = len(y)
    gap = epochs // 4 if distance is None else distance
    if not 1 <= gap <= (epochs - 1) // 2:
        raise InputError(
            f"distance must be from 1 to {(epochs - 1) // 2} for three stages of {epochs} epochs, got {gap}"
        )
    amplitude, rate, floor = _decay(y)
    fitted = amplitude * np.exp(-rate * np.arange(epochs)) + floor
    residual = y - fitted
    if np.abs(residual).max() <= _EXACT * np.ptp(y):
        raise InputError(
            "stages: the loss is an exponential decay to rounding, so that it has no change points; "
            "choose windows of your own"
        )
    (first, second), peaks = _change_points(np.abs(residual), gap)
    return xr.Dataset(
        {
            "loss": ("epoch", y),
            "fitted": ("epoch", fitted),
            "residual": ("epoch", residual),
            "start": ("stage", [0, first, second]),
            "stop": ("stage", [first, second, epochs]),
        },
        coords={
            "epoch": loss["epoch"].values if "epoch" in loss.coords else np.arange(epochs),
            "stage": list(STAGES),
        },
        attrs={"amplitude": amplitude, "rate": rate, "floor": floor, "distance": gap, "peaks": peaks},
    )


def stage_windows(stages: xr.Dataset, trajectory: ik.Trajectory, removal: Removal = "global") -> list[Window]:
    """The windows early, middle, late and full, in steps of this run.

    The first three tile the run. Errors: stages of a run with another number of epochs.
    """
    epoch = trajectory.plan.epoch.numpy()
    epochs = int(epoch[-1]) + 1
    if epochs != stages.sizes["epoch"]:
        raise InputError(f"these stages are of {stages.sizes['epoch']} epochs, and the run has {epochs}")
    cuts = np.searchsorted(epoch, [*stages.start.values, stages.stop.values[-1]]).tolist()
    windows = [Window(a, b, removal) for a, b in zip(cuts, cuts[1:], strict=False)]
    return [*windows, Window(0, len(epoch), removal)]


def stage_agreement(influence: xr.DataArray, names: Sequence[str] | None = None) -> xr.DataArray:
    """Kendall's tau-b between the scores of every two windows: [stage, other], symmetric, diagonal 1.

    `influence` [window, train] for `stage_windows`, or any other windows; further dimensions are mapped over.
    `names` of the windows: early, middle, late, full where there are four, else their steps. NaN where a
    window gives all examples the same score. Cost: `metrics.kendall` for each pair.
    """
    if not {"window", "train"} <= set(influence.dims):
        raise InputError(f"stage_agreement: expected influence [window, train], got {dict(influence.sizes)}")
    windows = influence.sizes["window"]
    if names is None:
        spans = "start" in influence.coords and "stop" in influence.coords
        pairs = zip(influence.start.values, influence.stop.values, strict=True) if spans else ()
        names = [f"[{a}, {b})" for a, b in pairs] or [str(k) for k in range(windows)]
        names = [*STAGES, "full"] if windows == 4 else names
    if len(names) != windows:
        raise InputError(f"stage_agreement: {windows} windows need as many names, got {len(names)}")
    x = torch.from_numpy(influence.transpose(..., "window", "train").values)
    pair = torch.triu_indices(windows, windows)
    upper = kendall(x[..., pair[0], :], x[..., pair[1], :]).numpy()
    found = np.empty((*upper.shape[:-1], windows, windows))
    found[..., pair[0], pair[1]] = found[..., pair[1], pair[0]] = upper
    more = tuple(d for d in influence.dims if d not in ("window", "train"))
    coords = {name: c for name, c in influence.coords.items() if not {"window", "train"} & set(c.dims)}
    return xr.DataArray(
        found,
        dims=(*more, "stage", "other"),
        coords={**coords, "stage": list(names), "other": list(names)},
        name="kendall",
        attrs={"long_name": "Kendall's tau-b"},
    )


def _checked(loss: xr.DataArray) -> np.ndarray:
    if loss.dims != ("epoch",):
        raise InputError(f"stages: expected the loss of every epoch [epoch], got {dict(loss.sizes)}")
    y = loss.values.astype(np.float64)
    if len(y) < _LEAST:
        raise InputError(f"stages needs at least {_LEAST} epochs to fit a decay to, got {len(y)}")
    if not np.isfinite(y).all():
        raise InputError("stages: the loss holds NaN or infinity; was the run cut off, or did it diverge?")
    if np.ptp(y) <= 1e-9 * np.abs(y).max():
        raise InputError(f"stages: the loss is constant ({y[0]:.6g}), so that it has no stages")
    return y


def _decay(y: np.ndarray) -> tuple[float, float, float]:
    """Amplitude, rate, floor. For a given rate the others are linear, so that only the rate is searched."""
    e, n = np.arange(len(y)), len(y)
    centred = y - y.mean()

    def shape(log_rate: float) -> np.ndarray:
        d = np.exp(-np.exp(log_rate) * e)
        return d - d.mean()

    def left(log_rate: float) -> float:
        d = shape(log_rate)
        return float(centred @ centred - (d @ centred) ** 2 / (d @ d))

    # from nearly a straight line to a fall within half an epoch; beyond, the fit no longer changes
    grid = np.linspace(np.log(1e-3 / n), np.log(20.0), 200)
    best = int(np.argmin([left(g) for g in grid]))
    around = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    log_rate = float(minimize_scalar(left, bounds=around, method="bounded", options={"xatol": 1e-10}).x)
    d = shape(log_rate)
    amplitude, rate = float(d @ centred / (d @ d)), float(np.exp(log_rate))
    if amplitude <= 0:
        raise InputError(
            "stages: the loss does not fall, so that no exponential decay describes it; choose windows of "
            "your own, or lower the learning rate"
        )
    return amplitude, rate, float(y.mean() - amplitude * np.exp(-rate * e).mean())


def _change_points(size: np.ndarray, gap: int) -> tuple[tuple[int, int], int]:
    """Two epochs at least `gap` apart, neither the first, and how many of them are local maxima of `size`."""
    epochs = np.arange(len(size))
    peak = np.zeros(len(size), dtype=bool)
    peak[find_peaks(size)[0]] = True
    chosen: list[int] = []
    while len(chosen) < 2:
        if not chosen:  # a second one must be possible beside the first
            allowed = (epochs > gap) | (epochs < len(size) - gap)
        else:
            allowed = np.abs(epochs - chosen[0]) >= gap
        allowed &= epochs > 0
        among = allowed & peak if (allowed & peak).any() else allowed
        chosen.append(int(np.argmax(np.where(among, size, -1))))
    return (min(chosen), max(chosen)), int(peak[chosen].sum())
