"""Commands under torchrun: one process a rank, of which rank 0 prints, and one says what went wrong."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from influencekit.errors import InputError

__all__ = ["another_speaks", "process_group", "rank", "refuse_several", "who_ends"]

_NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # as torchrun sets them
_store: Any = None  # of the process group, while there is one


def _several() -> bool:
    return all(name in os.environ for name in _NAMES) and int(os.environ["WORLD_SIZE"]) > 1


def rank() -> int:
    """The number of this process among those that torchrun has started; 0 where it is alone."""
    return int(os.environ["RANK"]) if _several() else 0


def refuse_several(command: str) -> None:
    """Refuse commands that would all do the same, and write the same files."""
    if command != "estimate" and _several():
        raise InputError(
            f"{os.environ['WORLD_SIZE']} processes were started for '{command}' (torchrun); only estimate "
            "spreads its work over them: start this command once"
        )


@contextmanager
def process_group(device: str) -> Iterator[Any]:
    """The group of all ranks, of gloo, or of nccl with a GPU for each rank; None where this is alone."""
    global _store
    if not _several():
        yield None
        return
    import torch
    import torch.distributed as dist

    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    _store, number, size = next(iter(dist.rendezvous("env://")))
    dist.init_process_group("nccl" if cuda else "gloo", store=_store, rank=number, world_size=size)
    yield dist.group.WORLD
    dist.destroy_process_group()  # not after an error: others may wait in it, and end with this process


def who_ends(code: int) -> str:
    """Behind `interrupted`, with this exit code: who may have sent the signal to one of several ranks."""
    if not _several() or code != 128 + signal.SIGTERM:
        return ""
    return (
        ": torchrun ends a rank where another one has ended (what that rank said, or what killed it, is the "
        "cause), or where it is ended itself"
    )


def another_speaks() -> bool:
    """Whether another rank has said what went wrong, or will."""
    if not _several():
        return False
    if _store is None:  # what is wrong was typed, for all of them
        return rank() > 0
    with suppress(RuntimeError):  # the rank that kept the store is gone
        return bool(_store.add("influencekit/told", 1) > 1)
    return False
