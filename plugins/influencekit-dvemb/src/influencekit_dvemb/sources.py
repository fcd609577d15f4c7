"""Where projected gradients come from: a recorded run replayed through hooks, or a store."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from influencekit import SGD, InputError, Trajectory
from influencekit_dvemb.projection import Layer, Projection, layers_of
from influencekit_dvemb.taps import Taps

__all__ = ["Replayed", "Source", "Stored", "check_plain_sgd"]


class Source(ABC):
    """Projected gradients of a run's examples, step by step, and what the recursion needs beside them.

    coefficient [step, slot]: the weight 1/b of an example's loss in its step, 0 where padded; lr [step].
    """

    projection: Projection
    coefficient: Tensor
    lr: Tensor

    @property
    def steps(self) -> int:
        """The number of steps of the run."""
        return len(self.coefficient)

    @property
    def width(self) -> int:
        """Slots of a batch, padded ones included."""
        return self.coefficient.shape[1]

    @abstractmethod
    def gradients(self, start: int, stop: int) -> Tensor:
        """[step, slot, feature] of the steps from `start` to before `stop`; 0 where padded."""


def check_plain_sgd(optimizer: Any) -> None:
    """Refuse what the embedding is not derived for."""
    plain = isinstance(optimizer, SGD) and optimizer == SGD(lr=optimizer.lr)
    if not plain:
        raise InputError(
            "dvemb is derived for plain SGD (no momentum, weight decay, clipping or groups); this run has "
            f"{optimizer!r}: use dit, or tsloo, which are right for it"
        )


class Replayed(Source):
    """Gradients of a trajectory: its batches passed once more through a copy of the model that has hooks."""

    def __init__(self, trajectory: Trajectory, dim: int | None, seed: int) -> None:
        check_plain_sgd(trajectory.workload.optimizer)
        for _, (settings, *_) in trajectory.plan.settings:  # which may have changed during the run
            check_plain_sgd(replace(trajectory.workload.optimizer, **settings))
        self._trajectory, self._twin = trajectory, replace(trajectory.workload)  # which copies the model
        self.projection = Projection(layers_of(self._twin.evaluator, dim), seed, trajectory.workload.theta0)
        theta = trajectory.workload.theta0
        self.coefficient = trajectory.step.coefficients(slice(0, trajectory.plan.steps)).to(theta)
        self.lr = trajectory.plan.lr[:, 0].to(theta)
        self._checked = False

    def gradients(self, start: int, stop: int) -> Tensor:
        trajectory = self._trajectory
        found = self.coefficient.new_zeros(stop - start, self.width, self.projection.features)
        for block in trajectory.blocks(start, stop, "projecting gradients"):
            for state in block:
                t = state.step
                found[t - start] = self.at(state.theta, trajectory.step.rows(t))
                if not self._checked:
                    mean = trajectory.step.gradient(state, trajectory.step.coefficients(t))[0]
                    check_mean(found[t - start], self.coefficient[t], self._flat(mean), "this run's model")
                    self._checked = True
            del block, state  # before the next states are computed
        return found * (self.coefficient[start:stop, :, None] > 0)

    def _flat(self, vector: Tensor) -> Tensor:
        return self.projection.of_flat(self._twin.layout, vector)

    def at(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Gradients [row, feature] at theta of the losses of the examples at `rows`, penalty included."""
        calls: list[tuple[int, Tensor, GradientEdge]] = []
        taps = Taps(self._twin.evaluator, self.projection, lambda k, a, y: calls.append((k, a, edge(y))))
        edge = get_gradient_edge  # of the output as it is now: it may be changed in place later
        try:
            with torch.enable_grad():
                losses = self._twin.losses(theta.detach().requires_grad_(), self._twin.examples(rows))
                deltas = torch.autograd.grad(losses.sum(), [at for _, _, at in calls], allow_unused=True)
        finally:
            taps.close()
        found = theta.new_zeros(len(rows), self.projection.features)
        parts = found.split(self.projection.sizes, -1)
        for (k, inputs, _), delta in zip(calls, deltas, strict=True):
            if delta is not None:
                parts[k].add_(taps.product(k, inputs, delta))
        return found + self._twin.l2 * self._flat(theta) if self._twin.l2 else found


def check_mean(g: Tensor, coefficient: Tensor, expected: Tensor, whose: str) -> None:
    """Refuse when the hooks do not see the whole gradient: sum w_i g_i is held to that of one batch.

    The error is relative to sum w_i |g_i|, as gradients that cancel leave rounding behind.
    """
    size = torch.maximum(coefficient @ g.norm(dim=1), expected.norm()).clamp(min=torch.finfo(g.dtype).tiny)
    error = (coefficient @ g - expected).norm() / size
    if not error <= (1e-8 if g.dtype == torch.float64 else 1e-3):
        raise InputError(
            f"the layers of {whose} do not explain its gradient (relative error {error:.1e}): a part of the "
            "loss that passes by them, other noise or dropout than in training, another reduction than the "
            "one given, or a gradient that was clipped; dvemb cannot take it apart by example"
        )


class Stored(Source):
    """Gradients that a `Collector` stored."""

    def __init__(self, found: xr.Dataset) -> None:
        layers = [Layer(**each) for each in found.attrs["layers"]]
        self.found = found
        like = torch.from_numpy(np.zeros(0, found.gradient.dtype))
        self.projection = Projection(layers, int(found.attrs["projection_seed"]), like)
        self.coefficient = torch.from_numpy(found.coefficient.values).to(like)
        self.lr = torch.from_numpy(found.lr.values).to(like)

    def gradients(self, start: int, stop: int) -> Tensor:
        values = torch.from_numpy(self.found.gradient[start:stop].values)
        if values.isnan().any():
            raise InputError(f"gradients of the steps {start} to {stop - 1} are lost: collect them again")
        return values
