"""A taped run as a workload: the user's model, loss and data, and the steps as they were recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from influencekit.step import State
from influencekit.tape.noise import Noise
from influencekit.tape.replica import Call, Micro, set_modes
from influencekit.tape.rng import fixed, kept, setter
from influencekit.workload import Batch, Plan, Workload, plain_attention, tensors_of

__all__ = ["Taped", "Training"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Taped(Workload):
    """The workload of a taped run. `model` evaluates queries and is in eval mode; steps are `micros`.

    `training`: the mode of every module during training; `autocast`: its dtype or None; `random`: whether a
    forward pass draws random numbers; `changing`: names of the buffers that training changes; `separable`:
    whether losses depend on their own example alone.
    """

    call: Call
    recorded: Plan
    micros: Callable[[int], list[Micro]]
    first: Tensor
    names: tuple[str, ...]
    training: Mapping[str, bool] = field(default_factory=dict)
    autocast: torch.dtype | None = None
    random: bool = False
    changing: tuple[str, ...] = ()
    separable: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", deepcopy(self.model).eval())
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
    def trainer(self) -> nn.Module:
        """The model in the modes it was trained in, sharing every tensor with `model`."""
        shared = {id(x): x for x in (*self.model.parameters(), *self.model.buffers())}
        copy = deepcopy(self.model, shared)
        set_modes(copy, self.training)
        return copy

    @property
    def caution(self) -> str:
        said = []
        if not self.separable:
            said.append(
                "the loss of an example depends on the others of its batch: a removed example stays there, "
                "and only its own loss is left out"
            )
        if self.changing:
            some = ", ".join(self.changing[:3]) + ", ..." * (len(self.changing) > 3)
            said.append(
                f"training changes buffers ({some}): queries see those of the recorded run, and scores hold "
                "them fixed"
            )
        return "; ".join(said)

    def examples(self, rows: Tensor) -> Batch:
        """Training examples, fetched anew; where the data set is random, always in the same way."""
        flat = rows.reshape(-1).tolist()
        with fixed():
            return self.call.batch(Micro(slice(None), flat, None, None), self.device)

    def outputs(self, theta: Tensor, batch: Batch) -> Any:
        """The model's outputs in eval mode at theta [param]; pure, differentiable, vmap-able."""
        tensors_of(batch)  # which says what to do where there is no test set
        return self.functional(self.model, theta, batch, {})

    def loss_of(self, outputs: Any, batch: Batch) -> Tensor:
        """Per-example losses [n] of given outputs."""
        return self.call.losses(outputs, batch, len(tensors_of(batch)[0]))

    def target(self, batch: Batch) -> Any:
        """What the loss compares the outputs with."""
        return self.call.target(batch)

    def functional(self, model: nn.Module, theta: Tensor, batch: Batch, buffers: Mapping[str, Tensor]) -> Any:
        """Outputs of `model` with the given parameters and copies of the given buffers."""
        state = {**self.layout.split(theta), **{k: v.clone() for k, v in buffers.items()}}
        with plain_attention():
            if self.call.forward is None:
                return functional_call(model, state, *self.call.arguments(batch))
            whole = _Forward(model, self.call.forward)
            return functional_call(whole, {f"model.{k}": v for k, v in state.items()}, (batch,))


class _Forward(nn.Module):
    """A model, called in the user's own way."""

    def __init__(self, model: nn.Module, forward: Callable[[nn.Module, Any], Any]) -> None:
        super().__init__()
        self.model = model
        self._forward = forward

    def forward(self, batch: Any) -> Any:
        return self._forward(self.model, batch)


class Training:
    """The losses of one micro-batch as functions of theta: training mode, its noise, its buffers.

    `state` is where the run stands, `autocast` what it is evaluated with. Every call begins from the recorded
    generators and sees the loop's own noise. They are left where the noise ended: whoever calls wraps it in
    `rng.kept`.
    """

    l2 = 0.0

    def __init__(
        self, taped: Taped, rng: bytes | None, state: State, batch: Batch, autocast: torch.dtype | None
    ) -> None:
        self._taped, self._buffers, self._autocast = taped, state.buffers, autocast
        self._noise: Noise | None = None
        if rng is not None and taped.random:
            self._begin = setter(rng, taped.device)
            theta = state.theta if state.theta.dim() == 1 else state.theta[0]

            def forward() -> None:
                self._begin()
                with self._cast(theta, taped.autocast):
                    taped.functional(taped.trainer, theta, batch, self._buffers)

            with kept(taped.device):
                self._noise = Noise(forward)

    def _cast(self, theta: Tensor, dtype: torch.dtype | None) -> torch.autocast:
        return torch.autocast(theta.device.type, dtype=dtype, enabled=dtype is not None)

    def outputs(self, theta: Tensor, batch: Batch) -> Any:
        taped = self._taped
        with self._cast(theta, self._autocast):
            if self._noise is None:
                return taped.functional(taped.trainer, theta, batch, self._buffers)
            self._begin()
            with self._noise.again():
                return taped.functional(taped.trainer, theta, batch, self._buffers)

    def loss_of(self, outputs: Any, batch: Batch) -> Tensor:
        return self._taped.loss_of(outputs, batch)

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        outputs = self.outputs(theta, batch)
        with self._cast(theta, self._autocast):
            return self.loss_of(outputs, batch).to(theta.dtype)
