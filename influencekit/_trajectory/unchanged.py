"""Whether the tensors that a run shares with the user's program are still what they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from influencekit._training.loss_settings import Settings, settings_of
from influencekit._trajectory.contents import compare
from influencekit.errors import InputError

__all__ = ["Unchanged"]


class Unchanged:
    """The contents of the data with which a run was recorded or opened, which the program may write to.

    `known`: the contents then. `now`: a function that computes them again, all of them or some. `loss`, with
    its `settings` before it was called for this run: those that its calls have changed by now, such as their
    number, are its own affair.
    """

    def __init__(
        self, now: Callable[[], Mapping[str, Any]], known: Mapping[str, Any], loss: Any, settings: Settings
    ) -> None:
        self.now, self.known = now, known
        self._loss, self._settings = loss, settings
        self.settle()

    def settle(self) -> None:
        """The loss has been called: what this has changed is not compared."""
        now = settings_of(self._loss)
        self._settings = {name: was for name, was in self._settings.items() if now.get(name) == was}

    def check(self) -> None:
        """Errors: tensors that were changed in place, by name and row; settings of the loss, by name. Cost:
        about a second a gigabyte."""
        settings = settings_of(self._loss)
        for name, was in self._settings.items():
            if (mine := settings.get(name)) != was:
                raise InputError(
                    f"the loss has changed since the run was recorded or opened: its setting {name} was "
                    f"{was[:60]} and is {str(mine)[:60]}; set it back, or record again with a loss of its own"
                )
        for name, mine in self.now().items() if self.known else ():
            before = self.known.get(name, mine)
            if mine != before:
                rows = "" if isinstance(mine, str) else f" ({compare(before, mine).difference})"
                raise InputError(
                    f"{name} changed in place since the run was recorded or opened{rows}; give "
                    "tensors that nothing else writes to (x.clone()), or open the run again"
                )
