"""A loop over several ranks of torch.distributed: each notes its micro-batches, rank 0 writes the store.

DistributedDataParallel gives every rank the mean of the ranks' gradients. That is the gradient of one step of
all their micro-batches, each coefficient divided by the number of ranks:

    g = (1/R) sum over ranks r of  sum_{i in S_r} k_i grad loss_i

So the store is that of one process which accumulates. Replay adds the micro-batches up one after the other:
the bits of DDP where two ranks have one micro-batch each, otherwise the same to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import nn

from influencekit._tape.checks.arguments import refuse_parallel
from influencekit._tape.replica import Call, Micro
from influencekit._tape.stream import StreamExamples
from influencekit._tape.writer import TapeWriter
from influencekit._training.ranks import Ranks, ranks_of
from influencekit._trajectory.writing import Writer
from influencekit.errors import InfluenceKitError, InputError

__all__ = [
    "SilentWriter",
    "TapeRanks",
    "at_end",
    "merging",
    "refuse_buffers",
    "tape_ranks",
    "together",
    "writer_of",
]

_HOW = "with a group, {} cannot be recorded yet; {}"


class TapeRanks:
    """The ranks that record one loop. Whatever is called here, all of them call, in the same order."""

    def __init__(self, ranks: Ranks, called: nn.Module) -> None:
        self._ranks, self._called = ranks, called
        self._told = False  # the others, of an error, or of what this step has
        self.first = ranks.rank == 0

    def merged(
        self, micros: Sequence[Micro], coefficients: np.ndarray, losses: np.ndarray
    ) -> tuple[list[Micro], np.ndarray, np.ndarray]:
        """The step of all ranks, rank after rank, of what each of them has. Errors: those of the others."""
        self._told = True
        found = self._gathered([tuple(micro) for micro in micros], coefficients, losses)
        every, start = list[Micro](), 0
        for theirs, *_ in found:
            for slots, *rest in theirs:
                every.append(Micro(slice(start + slots.start, start + slots.stop), *rest))
            start = every[-1].slots.stop
        whole = np.concatenate([c for _, c, _ in found]) / self._ranks.size
        return every, whole, np.concatenate([x for *_, x in found])

    def together(self, act: Callable[[], None]) -> None:
        """Run `act` on all ranks. An error on one of them is raised on all."""
        if getattr(getattr(self._called, "_join_config", None), "enable", False):
            raise InputError(_HOW.format("a loop within join()", "give every rank as many batches"))
        self._told = False
        try:
            act()
        except InfluenceKitError as error:
            self._gathered(error)
            raise
        if self._told:  # else nothing was done, on no rank
            self._gathered()

    def end(self, act: Callable[[], None]) -> None:
        """As `together`, at the end of the recording."""
        try:
            act()
        except InfluenceKitError as error:
            self._gathered(error)
            raise
        self._gathered()

    def _gathered(self, *mine: Any) -> list[Any]:
        """What each rank gives. Errors: one that a rank gives."""
        failed = mine if mine and isinstance(mine[0], Exception) else ()
        found = self._ranks.gathered(str(failed[0]) if failed else mine)
        for rank, theirs in enumerate(found):
            if isinstance(theirs, str) and not failed:
                raise InputError(f"rank {rank}: {theirs}")
        return found


class SilentWriter(TapeWriter):
    """The place of a `TapeWriter` on ranks that write nothing."""

    @property
    def opened(self) -> Writer:
        """Errors: always; the store is that of rank 0."""
        raise InputError("rank 0 has written the run, this rank has not; open its store with ik.open(path)")

    def keeps(self, step: int) -> bool:
        """Whether a state is kept: none."""
        return False

    def _nothing(self, *given: Any, **named: Any) -> None:
        return None

    begin = state = settings = step = _nothing


def together(ranks: TapeRanks | None, act: Callable[[], None]) -> Callable[[], None]:
    """`act`, on all ranks together where there are several."""
    return act if ranks is None else partial(ranks.together, act)


def writer_of(ranks: TapeRanks | None) -> type[TapeWriter]:
    """What writes the run on this rank."""
    return TapeWriter if ranks is None or ranks.first else SilentWriter


def merging(ranks: TapeRanks | None) -> Callable[..., Any]:
    """Makes of what this rank has of a step what all of them have."""
    return ranks.merged if ranks is not None else lambda *step: step


def at_end(ranks: TapeRanks | None, act: Callable[[], None], error: BaseException | None) -> None:
    """`act`, on all ranks together where there are several, and no `error` has ended the loop."""
    if ranks is None or error is not None:
        act()
    else:
        ranks.end(act)


def refuse_buffers(ranks: TapeRanks | None, changing: Sequence[str]) -> None:
    """Refuse buffers that training changes, where there are several ranks."""
    if changing and ranks is not None:
        raise InputError(
            f"training changes the buffer {changing[0]} (running statistics), on each rank in its own way; "
            "with a group that cannot be recorded: normalise without them (track_running_stats=False)"
        )


def tape_ranks(
    group: Any, called: nn.Module, call: Call, resume: bool, check: float, scaler: Any
) -> TapeRanks | None:
    """The ranks of a group, None for one process. Errors: what several ranks cannot record, by name."""
    refuse_parallel(group)
    if (ranks := ranks_of(group)) is None:
        return None
    if ranks.size != dist.get_world_size():
        raise InputError("group: a tape records all ranks of torch.distributed; pass group.WORLD")
    refused = {
        "a loop without a data set": (isinstance(call.data, StreamExamples), "pass data=..."),
        "forward=": (call.forward is not None, "let the loop call the model"),
        "a GradScaler": (scaler is not None, "use bfloat16, which needs none"),
        "an interrupted run with resume=True": (resume, "record into a new store"),
        "a loop without checks": (
            not check,
            "let check= be above 0: a check sees that gradients are averaged",
        ),
    }
    for what, (applies, advice) in refused.items():
        if applies:
            raise InputError(_HOW.format(what, advice))
    own = Ranks(dist.new_group(backend="gloo"))  # not between the loop's own sums
    own.require_same({"the number of examples": str(len(call.data))})
    return TapeRanks(own, called)
