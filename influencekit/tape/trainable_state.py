"""What training changes of a model and its optimizer: read, watched, and put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from influencekit.errors import InputError
from influencekit.tape.change_detector import ChangeDetector, Rest
from influencekit.tape.optimizer import recall, remembered
from influencekit.tape.replica import put_back
from influencekit.tape.spotcheck import Moment, Rule

__all__ = ["TrainableState", "copied"]


class TrainableState:
    """Trained parameters, the optimizer's memory of them, and the buffers that training changes."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, params: Mapping[str, nn.Parameter],
        buffers: Sequence[str], rule: Rule, rest: Rest,
    ) -> None:  # fmt: skip
        self.params, self.buffers, self.rule = dict(params), list(buffers), rule
        self._model, self._optimizer = model, optimizer
        self._marks, self._still = ChangeDetector(lambda: self.params), ChangeDetector(self._changing)
        self._rest = rest
        rest.narrow(self.buffers, self.params.values())

    def moment(self) -> Moment:
        """A copy of it all, now."""
        slots, _ = remembered(self._optimizer, self.rule.optimizer, self.rule.layout, self.params)
        return Moment(self.rule.layout.join(self.params), slots, copied(self._model, self.buffers))

    def load(self, tensors: Mapping[str, np.ndarray], number: int) -> None:
        """Put back what was stored of state `number`."""
        layout, rule, updates = self.rule
        device = next(iter(self.params.values())).device
        values = {name: torch.from_numpy(x).to(device) for name, x in tensors.items()}
        put_back(self.params, layout.split(values["theta"]))
        if self.buffers:
            own = self._changing()
            parts = values["buffers"].split([b.numel() for b in own.values()])
            put_back(own, dict(zip(own, parts, strict=True)))
        slots = {name: values[name] for name in rule.slots}
        recall(self._optimizer, slots, updates + number, layout, self.params)
        self.mark()

    def mark(self) -> None:
        """A step has been done: from now on nothing may change until the next."""
        self._marks.take()
        if self.buffers:
            self._still.take()

    def finite(self) -> bool:
        """Whether the parameters were finite at the last mark."""
        return self._marks.finite()

    def check_parameters(self, step: int) -> None:
        """Refuse a parameter that was changed since the last mark."""
        if name := self._marks.changed():
            raise InputError(
                f"step {step}: parameter {name} was changed since the last step by something else than the "
                "optimizer, which a replay would not do; leave it out, or do it inside the model"
            )

    def check_rest(self, step: int, thorough: bool = False) -> None:
        """Refuse a change of what is not recorded; `thorough`: also of one that torch does not count."""
        name = self._rest.changed(thorough)
        if name is None:
            return
        if name in self._rest.parameters:
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
        if name := self._still.changed():
            raise InputError(
                f"step {step}: buffer {name} was changed since the last step, which a replay would not do; "
                "evaluate in eval mode"
            )

    def _changing(self) -> dict[str, Tensor]:
        own = dict(self._model.named_buffers()) if self.buffers else {}
        return {name: own[name] for name in self.buffers}


def copied(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Copies of a model's buffers."""
    own = dict(model.named_buffers()) if names else {}
    return {name: own[name].detach().clone() for name in names}
