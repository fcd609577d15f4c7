"""A taped run as a workload: the user's model, loss and data, and the steps as they were recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from influencekit.tape.noise import Noise
from influencekit.tape.replica import Call, Micro, set_modes
from influencekit.tape.rng import fixed, preserved_random, setter
from influencekit.training.batch import Batch, batch_in_float64, tensors_of
from influencekit.training.buffers import buffers_in_float64
from influencekit.training.checks.model import copy_model
from influencekit.training.checks.separability import BATCH_STATISTICS
from influencekit.training.kernels.operators import plain_operators
from influencekit.training.layout import Layout
from influencekit.training.losses import Training
from influencekit.training.plan import Plan
from influencekit.training.workload import Within, Workload

__all__ = ["Taped"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Taped(Workload):
    """The workload of a taped run. `model` evaluates queries and is in eval mode.

    `training`: the mode of every module during training.
    """

    call: Call
    recorded: Plan
    first: Tensor
    names: tuple[str, ...]
    training: Mapping[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", copy_model(self.model).eval())
        for name, p in self.model.named_parameters():
            p.requires_grad_(name in self.names)

    @property
    def n_train(self) -> int:
        return len(self.train)

    @property
    def plan(self) -> Plan:  # type: ignore[override]
        return self.recorded

    @property
    def theta0(self) -> Tensor:  # type: ignore[override]
        return self.first

    @cached_property
    def trainer(self) -> nn.Module:  # type: ignore[override]
        """The model in the modes it was trained in, sharing every tensor with `model`."""
        shared = {id(x): x for x in (*self.model.parameters(), *self.model.buffers())}
        copy = deepcopy(self.model, shared)
        set_modes(copy, self.training)
        return copy

    def examples(self, rows: Tensor) -> Batch:
        """Training examples, fetched anew; where the data set is random, always in the same way."""
        flat = rows.reshape(-1).tolist()
        with fixed():
            return self.call.batch(Micro(slice(None), flat, None, None), self.device)

    @property
    def layout(self) -> Layout:  # type: ignore[override]
        """Of what the recorded steps train."""
        return Layout.of(self.model)

    def run(self, model: nn.Module, batch: Batch) -> Any:
        """`model` called as the loop calls it."""
        return self.call.outputs(model, batch)

    def loss_of(self, outputs: Any, batch: Batch) -> Tensor:
        """Per-example losses [n] of given outputs."""
        with plain_operators():
            return self.call.losses(outputs, batch, len(tensors_of(batch)[0]))

    def target(self, batch: Batch) -> Any:
        """What the loss compares the outputs with."""
        return self.call.target(batch)
