"""What training changes of a model and its optimizer: read it, watch it, put it back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from influencekit._tape.change_detector import ChangeDetector, ConstantTensors, bit_sum, sampled
from influencekit._tape.optimizer import UpdateRule, read_slots, write_slots
from influencekit._tape.replica import put_back
from influencekit._training.buffers import unpacked
from influencekit._training.state import State
from influencekit._trajectory.fingerprint import digest
from influencekit.errors import InputError

__all__ = ["TrainableState", "copied"]


class TrainableState:
    """Trained parameters, their optimizer slots, and the buffers that training changes."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, params: Mapping[str, nn.Parameter],
        buffers: Sequence[str], rule: UpdateRule, constant: ConstantTensors,
    ) -> None:  # fmt: skip
        self.params, self.buffers, self.rule = dict(params), list(buffers), rule
        self._model, self._optimizer = model, optimizer
        self._parameters, self._buffers = ChangeDetector(lambda: self.params), ChangeDetector(self._changing)
        self._constant = constant
        constant.narrow(self.buffers, self.params.values())

    def state(self, step: int) -> State:
        """A copy of state `step`, which is the present one."""
        slots, _ = read_slots(self._optimizer, self.rule, self.params)
        return State(self.rule.layout.join(self.params), slots, step, copied(self._model, self.buffers))

    def load(self, tensors: Mapping[str, np.ndarray], number: int) -> None:
        """Put back what was stored of state `number`."""
        device = next(iter(self.params.values())).device
        values = {name: torch.from_numpy(x).to(device) for name, x in tensors.items()}
        put_back(self.params, self.rule.layout.split(values["theta"]))
        if self.buffers:
            own = self._changing()
            put_back(own, unpacked(tensors["buffers"], own))
        slots = {name: values[name] for name in self.rule.optimizer.slots}
        write_slots(self._optimizer, self.rule, self.params, slots, self.rule.updates + number)
        self.mark()

    def mark(self) -> None:
        """A step has been done: nothing may change until the next."""
        self._parameters.take()
        if self.buffers:
            self._buffers.take()

    def finite(self) -> bool:
        """Whether the parameters were finite at the last mark."""
        return self._parameters.finite()

    def bit_sum(self) -> int:
        """The sum of the bits of the parameters at the last mark, of a sample of each."""
        return self._parameters.bit_sum()

    def bits(self) -> dict[str, int]:
        """The same of each parameter."""
        return self._parameters.bits()

    def changed(self) -> bool:
        """Whether a parameter was changed since the last mark."""
        return self._parameters.changed() is not None

    def digest(self) -> str:
        """A digest of parameters and buffers: a sample of each, and the sum of its bits. Cost: one pass."""
        return digest([sampled(x), bit_sum(x)] for x in (*self.params.values(), *self._changing().values()))

    def digest_slots(self) -> str:
        """A digest of what the optimizer knows."""
        return digest([sampled(x), bit_sum(x)] for x in self.state(0).slots.values())

    def equals(self, tensors: Mapping[str, np.ndarray]) -> bool:
        """Whether parameters and slots are those that were stored."""
        now = self.state(0)
        return all(np.array_equal(x.detach().cpu().numpy(), tensors[n]) for n, x in _tensors(now).items())

    def check_trained(self, params: Iterable[str], step: int) -> None:
        """Refuse a step that changes other parameters than the first did."""
        if odd := sorted(set(params) ^ set(self.params)):
            raise InputError(
                f"step {step}: parameter {odd[0]} has a gradient in some steps and none in others; a run "
                "trains the same ones in every step: hold those that are frozen for a while by a parameter "
                "group with lr = 0, or end the tape before the change, and begin another after"
            )

    def check_parameters(self, step: int) -> None:
        """Refuse a parameter that was changed since the last mark."""
        if name := self._parameters.changed():
            raise InputError(
                f"step {step}: parameter {name} was changed since the last step by something else than the "
                "optimizer, which a replay would not do; leave it out, or do it inside the model"
            )

    def check_unchanged(self, step: int, slots: str) -> None:
        """Refuse whatever was changed since the run ended; `slots`: their digest then."""
        self.check_parameters(step)
        self.check_buffers(step)
        self.check_constant(step, thorough=True)
        if self.digest_slots() != slots:
            raise InputError(
                f"step {step}: the state of the optimizer was changed since the tape was closed, and a "
                "replay would not do that; go on with the optimizer as it was"
            )

    def check_constant(self, step: int, thorough: bool = False) -> None:
        """Refuse a change of what is not recorded; `thorough`: also of one that torch does not count."""
        name = self._constant.changed(thorough)
        if name is None:
            return
        if name in self._constant.parameters:
            raise InputError(
                f"step {step}: parameter {name}, which this optimizer does not train, was changed (by a "
                "second optimizer, or by hand), and a replay would not do that; train all by one optimizer, "
                "or leave it alone"
            )
        raise InputError(
            f"step {step}: buffer {name}, which the first step did not change, was changed (by a layer that "
            "came into training mode later, a counter, or by hand), and a replay would not do that; let it "
            "change from the first step on, or not at all"
        )

    def check_buffers(self, step: int) -> None:
        """Refuse a buffer that was changed since the last mark, and not by the forward pass of a step."""
        if name := self._buffers.changed():
            raise InputError(
                f"step {step}: buffer {name} was changed since the last step, which a replay would not do; "
                "evaluate in eval mode"
            )

    def moved(self) -> str | None:
        """A buffer that was changed since the last mark, as by a pass in train mode that no step followed."""
        return self._buffers.changed()

    def _changing(self) -> dict[str, Tensor]:
        own = dict(self._model.named_buffers()) if self.buffers else {}
        return {name: own[name] for name in self.buffers}


def _tensors(state: State) -> dict[str, Tensor]:
    return {"theta": state.theta, **state.slots}


def copied(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Copies of a model's buffers."""
    own = dict(model.named_buffers()) if names else {}
    return {name: own[name].detach().clone() for name in names}
