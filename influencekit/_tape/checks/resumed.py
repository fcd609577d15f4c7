"""Whether a run may be resumed with a model, loss and data: before anything is written to its store."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from influencekit._tape.fingerprint import check_fingerprint, check_penalty
from influencekit._tape.open_taped import open_taped
from influencekit._tape.optimizer import rule_for
from influencekit._tape.replica import Call
from influencekit._tape.rng import preserved_random
from influencekit._tape.stream import StreamExamples
from influencekit._tape.unwrap import plain_copy
from influencekit._training.checks.model import copy_model, frozen
from influencekit._trajectory.store import read
from influencekit._trajectory.writing import Writer
from influencekit.errors import StoreError

__all__ = ["Resumed"]


class Resumed:
    """A run that is resumed, until its first step: `check` sees that model, loss and data give what was
    recorded, `check_modes` that the first forward pass is in the modes of the run.

    Errors: another model, data set, penalty, optimizer, or other `ids` of a data set. The store is released
    then, as it was.
    """

    def __init__(
        self, writer: Writer, model: nn.Module, optimizer: Any, call: Call, ids: Sequence[Hashable]
    ) -> None:
        self._writer, self._where = writer, str(writer.path)
        group = writer.group
        attrs: dict[str, Any] = dict(group.attrs)
        try:
            buffers = [n for n, _ in attrs["buffers"]]
            self._known = check_fingerprint(attrs, model, call.data, buffers, self._where, call.loss)
            check_penalty(attrs["tape"], call.penalty, self._where)
            fixed = not isinstance(call.data, StreamExamples)
            if fixed and [str(i) for i in read(group, "train").tolist()] != [str(i) for i in ids]:
                raise StoreError(
                    f"{self._where} was recorded with other ids of the examples; resume it with the same ids="
                )
            rule, mine = attrs["tape"]["optimizer"]["rule"], rule_for(optimizer).__name__
            if rule != mine:
                raise StoreError(
                    f"{self._where} was recorded with {rule}, and this is {mine}; resume it with {rule}"
                )
            self._training, self._autocast = attrs["tape"]["training"], attrs["tape"]["autocast"]
            self._model = copy_model(plain := plain_copy(model), frozen(plain))  # before hooks listen to it
        except BaseException:
            writer.leave()
            raise

    def check(self, call: Call) -> None:
        """Open the run with the model, and with the loss and collation of `call`, which compares a step.

        Errors: those of opening. Random generators stay as they were. Cost: three steps, and reading the
        arrays of the steps.
        """
        if not self._writer.committed:
            return
        data = None if isinstance(call.data, StreamExamples) else call.data
        with preserved_random(next(self._model.parameters()).device):
            open_taped(
                self._writer.group, self._where, model=self._model, loss=call.loss, data=data,
                collate=call.collate, forward=call.forward, penalty=call.penalty, known=self._known,
            )  # fmt: skip

    def check_modes(self, training: Mapping[str, bool], autocast: torch.dtype | None) -> None:
        """Errors: a module in another mode than in the run, or one that the run had not; another autocast."""
        mine = [name for name, on in training.items() if on]
        if odd := sorted({*self._training} ^ {*mine}):
            name = f"module {odd[0]}" if odd[0] else "the model"
            was = "was in training mode when the run was recorded, and is not now"
            now = "is in training mode, and was not when the run was recorded"
            raise StoreError(
                f"{self._where}: {name} {was if odd[0] in self._training else now}; resume it with the "
                "modules of the run, each in the same mode"
            )
        cast = None if autocast is None else str(autocast).removeprefix("torch.")
        if cast != self._autocast:
            raise StoreError(
                f"{self._where} was recorded with autocast to {self._autocast}, and this is with autocast to "
                f"{cast}; resume it as it was"
            )
