"""Weights that are loaded into the model again: which state of the run they are, and what they replace."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from influencekit._tape.trainable_state import TrainableState
from influencekit._training.state import State
from influencekit.errors import InputError

__all__ = ["Reloads", "refuse_unknown"]

_MOST = 1000  # states that a snapshot remembers


class Reloads:
    """Knows the states of a run by digests of their parameters, and keeps the state before a reload.

    Loops load the best weights when they are done. The recording still ends with the last step, so that state
    is copied before `load_state_dict` replaces it. In the middle of a run a replay would not go back, so
    there a reload that changes anything is refused.
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._replaced: State | None = None  # the present state, if something was loaded since its step
        self._moved = False  # its buffers are no longer those that the step left
        self._optimizer_loaded = False

    @property
    def known(self) -> dict[str, int]:
        """The numbers of the states by digest, as JSON."""
        return dict(list(self._known.items())[-_MOST:])

    def remember(self, known: Mapping[str, int]) -> None:
        """The states that a run knew before it was resumed."""
        self._known = dict(known)

    def note(self, state: TrainableState | None, step: int) -> None:
        """The present weights may be loaded again later: remember that they are those of state `step`."""
        if state is None or state.moved():
            return
        if not state.changed():  # other weights may stand in for an evaluation
            self._known.setdefault(state.digest(), step)

    def loading(self, state: TrainableState | None, step: int, optimizer: bool = False) -> None:
        """Weights, or the state of the optimizer, are about to be loaded."""
        if state is not None and self._replaced is None and not state.changed():
            self._replaced, self._moved = state.state(step), state.moved() is not None
        self._optimizer_loaded |= optimizer

    def check(self, state: TrainableState, step: int) -> None:
        """Refuse to go on from what was loaded since the last step, if it is not what was there."""
        replaced, self._replaced = self._replaced, None
        loaded, self._optimizer_loaded = self._optimizer_loaded, False
        if replaced is None:
            return
        advice = "a replay would not do that; leave it out, or end the tape before, and begin another there"
        if state.changed():
            found = self._known.get(state.digest())
            what = "other weights" if found is None else f"the weights of state {found}"
            raise InputError(f"step {step}: load_state_dict put {what} into the model, and {advice}")
        slots = state.state(step).slots if loaded else {}
        if odd := [name for name in slots if not torch.equal(slots[name], replaced.slots[name])]:
            raise InputError(f"step {step}: load_state_dict changed {odd[0]} of the optimizer, and {advice}")

    def end(self, state: TrainableState, step: int) -> tuple[State | None, int | None]:
        """The state that the last step gave, and the number of the one that was loaded since, if one was.

        The state is None where its buffers have moved on, by a forward pass that no step followed. The number
        is -1 for weights that are no known state of the run.
        """
        replaced = self._replaced
        if replaced is None:
            state.check_parameters(step)
            return None if state.moved() else state.state(step), None
        other = state.changed() or state.moved()
        return None if self._moved else replaced, self._known.get(state.digest(), -1) if other else step


def refuse_unknown(reloaded: int | None) -> None:
    """Refuse weights that are no state of the run, once what came before them is stored."""
    if reloaded == -1:
        raise InputError(
            "after the last step load_state_dict put weights into the model that are no state of the run "
            "known to the tape (those at ends of epochs, and those that state_dict() or a copy was taken "
            "of); the run is recorded as far as its last step: load others after the tape"
        )
