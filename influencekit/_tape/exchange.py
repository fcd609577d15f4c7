"""What the ranks of a loop tell each other: where they are in it, and what has failed on one of them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NoReturn

from influencekit._training.ranks import Ranks
from influencekit.errors import InfluenceKitError, InputError

__all__ = ["Exchange", "Phase"]


class Phase(IntEnum):
    """Where a rank is."""

    FORWARD = 0
    BEGUN = 1
    STEPPED = 2
    CHECKED = 3
    ENDED = 4
    FAILED = 5


_WORDS = {
    Phase.FORWARD: "is at the forward pass of step {step}",
    Phase.BEGUN: "is at its first optimizer step",
    Phase.STEPPED: "has done step {step}",
    Phase.CHECKED: "has done step {step}",
    Phase.ENDED: "has left the loop after {step} steps",
}


class Exchange:
    """The ranks of a loop, each of which says where it is. `error`: what all of them have been told."""

    def __init__(self, ranks: Ranks) -> None:
        self.rank, self.size = ranks.rank, ranks.size
        self.error: InfluenceKitError | None = None
        self._ranks = ranks

    def gathered(self, phase: Phase, step: int, mine: Any = None) -> list[Any]:
        """What each rank gives at the same place, by rank.

        Errors, each the same on all ranks: that of a rank which has failed; ranks that are elsewhere. Cost:
        one small message, and another where a rank gives something.
        """
        try:
            heads = self._ranks.numbers([phase, step, mine is not None])
            more = any(there for *_, there in heads)
            found = self._ranks.gathered(mine) if more else [None] * self.size
            failed = {k: found[k] for k, head in enumerate(heads) if head[0] == Phase.FAILED}
            _raise_failed(failed, self.size)
            odd = next((k for k, head in enumerate(heads) if head[:2] != heads[0][:2]), None)
            if odd is not None:
                where = [_WORDS[Phase(heads[k][0])].format(step=heads[k][1]) for k in (0, odd)]
                raise InputError(
                    f"the ranks have come apart: rank 0 {where[0]}, and rank {odd} {where[1]}; give every "
                    "rank as many batches, and let all of them end the loop at the same step"
                )
            return found
        except InfluenceKitError as error:
            self.error = error
            raise

    def refuse(self, text: str) -> NoReturn:
        """Refuse what all ranks see in the same way."""
        self.error = InputError(text)
        raise self.error

    def fail(self, error: InfluenceKitError, step: int) -> NoReturn:
        """Raise an error on all ranks, if they have not been told of it."""
        if error is not self.error:
            try:
                self.gathered(Phase.FAILED, step, (type(error), str(error)))
            except InfluenceKitError as shared:
                raise shared from None  # the same line, and said once
        raise error


def _raise_failed(failed: Mapping[int, Any], size: int) -> None:
    """Raise what the first rank says that has failed, {rank: (kind, text)}, which is named where not all of
    `size` say the same."""
    for rank, (kind, text) in failed.items():
        alike = len(failed) == size and len(set(failed.values())) == 1
        raise kind(text if alike else f"rank {rank}: {text}")
