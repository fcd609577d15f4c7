"""Whether the tensors that a run shares with the user's program are still what they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from influencekit._trajectory.contents import compare
from influencekit.errors import InputError

__all__ = ["Unchanged"]


class Unchanged:
    """The contents of the data with which a run was recorded or opened, which the program may write to.

    `known`: the contents then. `now`: a function that computes them again, all of them or some.
    """

    def __init__(self, now: Callable[[], Mapping[str, Any]], known: Mapping[str, Any]) -> None:
        self.now, self.known = now, known

    def check(self) -> None:
        """Errors: tensors that were changed in place, by name and row. Cost: about a second a gigabyte."""
        for name, mine in self.now().items() if self.known else ():
            before = self.known.get(name, mine)
            if mine != before:
                rows = "" if isinstance(mine, str) else f" ({compare(before, mine).difference})"
                raise InputError(
                    f"{name} changed in place since the run was recorded or opened{rows}; give "
                    "tensors that nothing else writes to (x.clone()), or open the run again"
                )
