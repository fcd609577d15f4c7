"""What all experiments do: record a problem, and score its examples for the mean test loss."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr

import influencekit as ik
from influencekit.extend import Step
from influencekit.metrics import METRICS, agreement
from influencekit.windows import Removal, Window, parse_windows

__all__ = ["QUERY", "Found", "agreement_of", "epochs", "problem_of", "recorded", "scores"]

QUERY = "test-loss"
Found = dict[str, Any]  # what an experiment gives: plain numbers, lists and strings
_STEPS: dict[str, Step] = {}  # the last of every workload


def problem_of(spec: str, seed: int, device: str, again: str = "") -> ik.Workload:
    """The problem of a seed, on a device.

    `again` trains on the same examples once more: "order" with another order of the batches, "start" with
    other initial parameters, "both" with both.
    """
    problem = ik.make("workload", spec, seed=seed)
    if again:
        other = ik.make("workload", spec, seed=seed + 1000)
        if again in ("start", "both"):
            problem = replace(problem, model=other.model)
        if again in ("order", "both"):
            problem = replace(problem, seed=other.seed)
    return problem.to(device)


def recorded(problem: ik.Workload) -> ik.Trajectory:
    """The recorded run, traced once a process for all seeds of a workload."""
    step = _STEPS[problem.name] = Step(problem, like=_STEPS.get(problem.name))
    return ik.record(problem, step=step)


def scores(run: ik.Trajectory, estimator: str, windows: Sequence[Window] | None = None) -> xr.DataArray:
    """Influence [window, train] on the mean test loss."""
    return ik.estimate(run, QUERY, estimator, windows).influence.squeeze("query", drop=True)


def epochs(run: ik.Trajectory, removal: Removal = "global") -> list[Window]:
    """A window an epoch."""
    return parse_windows("each-epoch", run.plan.epoch.tolist(), removal)


def agreement_of(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The four metrics of two rows of scores [1, train]."""
    values = agreement(torch.from_numpy(found), torch.from_numpy(truth)).reshape(-1).tolist()
    return dict(zip(METRICS, values, strict=True))
