"""Processes of `torch.distributed` that compute one sweep together: sums, and the questions at the door."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from influencekit.errors import InfluenceKitError, InputError

__all__ = ["Ranks", "ranks_of"]


class Ranks:
    """The ranks of a process group. Whatever is called here, all of them call, in the same order.

    `rank`: the number of this process; `size`: how many there are. Errors: `InfluenceKitError` where another
    rank has ended, or is not heard of for the group's timeout.
    """

    def __init__(self, group: Any) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:  # a group is one of the process
        return self

    def summed(self, x: Tensor) -> Tensor:
        """`x`, in place: the sum over the ranks, the same bits on all of them."""
        with _told():
            dist.all_reduce(x, group=self.group)
        return x

    def gathered(self, mine: Any) -> list[Any]:
        """What each rank gives, by rank."""
        found: list[Any] = [None] * self.size
        with _told():
            dist.all_gather_object(found, mine, group=self.group)
        return found

    def numbers(self, mine: Sequence[int]) -> list[list[int]]:
        """As many whole numbers of each rank, by rank; over a group of the CPU."""
        x = torch.tensor(mine, dtype=torch.int64)
        found = [torch.empty_like(x) for _ in range(self.size)]
        with _told():
            dist.all_gather(found, x, group=self.group)
        return [each.tolist() for each in found]

    def block(self, count: int) -> slice:
        """This rank's places among `count`: equal blocks, the last ones shorter or empty."""
        each = self.longest_block(count)
        return slice(min(count, self.rank * each), min(count, (self.rank + 1) * each))

    def longest_block(self, count: int) -> int:
        """The length of the first rank's block."""
        return -(-count // self.size)

    def require_same(self, mine: Mapping[str, str]) -> None:
        """Refuse ranks that were not asked for the same: {what it is: a short text}."""
        for rank, other in enumerate(found := self.gathered(dict(mine))):
            for what, text in found[0].items():
                if other.get(what) != text:
                    raise InputError(
                        f"the ranks do not compute the same: {what} is {text} on rank 0 and "
                        f"{other.get(what)} on rank {rank}; give every rank the same arguments and files"
                    )


def ranks_of(group: Any) -> Ranks | None:
    """The ranks of a group, or None for no group, and for one of a single process. Errors: no group."""
    if group is None:
        return None
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            "group: torch.distributed is not initialized in this process; call init_process_group first, and "
            "start one process a rank (torchrun does both)"
        )
    known = dist.ProcessGroup
    if group is not dist.group.WORLD and not isinstance(group, known):
        raise InputError(
            f"group: expected a process group, such as torch.distributed.group.WORLD, got "
            f"{type(group).__name__}"
        )
    if dist.get_rank(group) < 0:
        raise InputError("group: this process is not in the group; call this on the ranks of the group only")
    return Ranks(group) if dist.get_world_size(group) > 1 else None


@contextmanager
def _told() -> Iterator[None]:
    """What torch says of ranks that are lost, as our own line."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        line = " ".join(str(error).split())[:150]
        raise InfluenceKitError(
            f"another rank has ended, or does not answer ({line}); what that rank said is the cause"
        ) from error
