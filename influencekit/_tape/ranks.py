"""A loop over several ranks of torch.distributed: each notes its micro-batches, rank 0 writes the store.

DistributedDataParallel gives every rank the mean of the ranks' gradients. That is the gradient of one step of
all their micro-batches, each coefficient divided by the number of ranks:

    g = (1/R) sum over ranks r of  sum_{i in S_r} k_i grad loss_i

So the store is that of one process which accumulates. Replay adds the micro-batches up one after the other:
the bits of DDP where two ranks have one micro-batch each, otherwise the same to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from influencekit._tape.checks.arguments import refuse_parallel
from influencekit._tape.checks.same_loop import Present, present_of, refuse_apart, refuse_drift, same_run
from influencekit._tape.exchange import Exchange, Phase
from influencekit._tape.hyperparameters import HyperParameters
from influencekit._tape.replica import Call, Micro
from influencekit._tape.step_collector import StepCollector
from influencekit._tape.stream import StreamExamples
from influencekit._tape.trainable_state import TrainableState
from influencekit._tape.writer import TapeWriter
from influencekit._training.ranks import Ranks, ranks_of
from influencekit._trajectory.writing import Writer
from influencekit.errors import InfluenceKitError, InputError

__all__ = [
    "SilentWriter",
    "TapeRanks",
    "at_end",
    "hear",
    "of_all",
    "refuse_buffers",
    "tape_ranks",
    "together",
    "writer_of",
]

Close = Callable[[BaseException | None], None]
_HOW = "with a group, {} cannot be recorded yet; {}"


class TapeRanks:
    """The ranks that record one loop. Whatever is called here, all of them call, in the same order."""

    def __init__(self, ranks: Ranks, called: nn.Module) -> None:
        self._called, self.exchange = called, Exchange(ranks)
        self._stepped: int | None = None  # what this step has was told to the others
        self.first = ranks.rank == 0

    def begin(self, step: int) -> None:
        """The first forward pass of a step is about to run."""
        if getattr(getattr(self._called, "_join_config", None), "enable", False):
            raise InputError(_HOW.format("a loop within join()", "give every rank as many batches"))
        self.exchange.gathered(Phase.FORWARD, step)

    def merged(
        self, present: Callable[[], Present],
        micros: Sequence[Micro], coefficients: np.ndarray, losses: np.ndarray,
    ) -> tuple[list[Micro], np.ndarray, np.ndarray]:  # fmt: skip
        """The step of all ranks, rank after rank, of what each of them has. Errors: those of the others;
        ranks that have drifted apart."""
        now = present()
        self._stepped = now.step
        own = [tuple(micro) for micro in micros], coefficients, losses, now._replace(sums=None)
        found = self.exchange.gathered(Phase.STEPPED, now.step, own)
        refuse_drift(self.exchange, [one for *_, one in found], now.sums)
        every, start = list[Micro](), 0
        for theirs, *_ in found:
            for slots, *rest in theirs:
                every.append(Micro(slice(start + slots.start, start + slots.stop), *rest))
            start = every[-1].slots.stop
        whole = np.concatenate([c for _, c, *_ in found]) / self.exchange.size
        return every, whole, np.concatenate([x for _, _, x, _ in found])

    def together(self, act: Callable[[], None]) -> None:
        """Run `act` on all ranks. An error on one of them is raised on all."""
        self._stepped = None
        try:
            act()
        except InfluenceKitError as error:
            self.exchange.fail(error, self._stepped or 0)
        if self._stepped is not None:  # else nothing was done, on no rank
            self.exchange.gathered(Phase.CHECKED, self._stepped)

    def end(self, close: Close, steps: int, digest: str) -> None:
        """The loop is over: `close` on all ranks, that which writes the store last, once all agree."""
        try:
            if not self.first:
                close(None)
            refuse_apart(self.exchange, self.exchange.gathered(Phase.ENDED, steps, digest))
        except BaseException as error:
            if self.first:
                close(error)
            if isinstance(error, InfluenceKitError):
                self.exchange.fail(error, steps)
            raise
        try:
            if self.first:
                close(None)
        except InfluenceKitError as error:
            self.exchange.fail(error, steps)
        self.exchange.gathered(Phase.CHECKED, steps)


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


def hear(
    ranks: TapeRanks | None, steps: StepCollector, settings: HyperParameters,
    optimizer: torch.optim.Optimizer, state: Callable[[], TrainableState | None],
) -> None:  # fmt: skip
    """Let steps be those of all ranks, each of which says where it is."""
    if ranks is not None:
        present = partial(present_of, steps, settings, optimizer, state)
        steps.forward_draws = False  # there is no forward=
        steps.begins, steps.merged = ranks.begin, partial(ranks.merged, present)


def at_end(
    ranks: TapeRanks | None, close: Close, error: BaseException | None, steps: int,
    state: TrainableState | None,
) -> None:  # fmt: skip
    """`close(error)`, on all ranks together where there are several, and no `error` has ended the loop."""
    if ranks is None or error is not None:
        close(error)
    else:
        ranks.end(close, steps, state.digest() if state else "")


def of_all(ranks: TapeRanks | None, about: dict[str, Any], data: Any) -> dict[str, Any]:
    """The attributes of a run, with the number of its ranks where there are several, which must agree."""
    return about if ranks is None else same_run(ranks.exchange, about, data)


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
    own = Ranks(dist.new_group(backend="gloo", timeout=_timeout(group)))  # not between the loop's own sums
    own.require_same({"the number of examples": str(len(call.data))})
    return TapeRanks(own, called)


def _timeout(group: Any) -> timedelta | None:
    """How long the ranks of a group wait for each other; None: torch's own choice."""
    try:
        return group._get_backend(group._device_types[0]).options._timeout  # type: ignore[no-any-return]
    except (AttributeError, IndexError, RuntimeError):  # torch does not say it to everyone
        return None
