"""A slice of the work, and what a worker does with it."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple, Protocol

import xarray as xr

from influencekit._exclusive import exclusive
from influencekit._executors import ambient
from influencekit._executors.folder import SliceFolder
from influencekit._executors.machine import this_machine
from influencekit.errors import InfluenceKitError, InputError

__all__ = ["Order", "Run", "Slice", "order_of", "perform"]

_PROCESS = token_hex(8)
_forked = False  # whether this process was, after which the threads of OpenMP are its parent's


class Run(Protocol):
    """How a worker gets the run that slices are of; it can be pickled."""

    def opened(self) -> Any:
        """The run, in a worker."""


class Slice(NamedTuple):
    """`of`, in JSON, is all that its content depends on; `work(run, *given)` gives it, or `work(*given)`
    where there is no `run`, which a worker opens. All of it is pickled."""

    of: Mapping[str, Any]
    work: Callable[..., xr.Dataset]
    given: tuple[Any, ...] = ()
    run: Run | None = None


class Order(NamedTuple):
    """What all slices of a call have in common: the folder, who asks, with how many threads."""

    folder: str
    asks: tuple[str, int, int]
    threads: int


def order_of(folder: Path) -> Order:
    """The order of this process."""
    import torch

    return Order(str(folder), _me(), torch.get_num_threads())


def _me() -> tuple[str, int, int]:
    """This process, which a forked child is not, and this thread."""
    return _PROCESS, os.getpid(), threading.get_ident()


def perform(order: Order, part: Slice, attempt: int = 0) -> InfluenceKitError | None:
    """Do a slice, unless it is there already, and keep it; in a worker. Gives its error as a value."""
    try:
        _perform(order, part)
    except InfluenceKitError as error:
        return error
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        return InfluenceKitError(f"a worker failed on {this_machine()}: {type(error).__name__}: {text}")
    return None


def _perform(order: Order, part: Slice) -> None:
    me, asks = _me(), order.asks
    if me[:2] == asks[:2] and me[2] != asks[2]:
        raise InputError(
            "the executor computes in threads of the process that asks, which would wait for each other; "
            "take processes, such as executor='processes:4'"
        )
    folder = SliceFolder(Path(order.folder))
    folder.check_seen()
    if folder.has(part.of):
        return
    with exclusive(), ambient.active(None), _threads(order.threads):
        began = time.perf_counter()
        run = None if part.run is None else part.run.opened()
        found = part.work(*(() if run is None else (run,)), *part.given)
        device = "cpu" if run is None else str(run.workload.device)
        attrs = {"slice_machine": this_machine(device), "slice_seconds": time.perf_counter() - began}
        folder.write(part.of, found.assign_attrs(attrs))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Within the block torch computes with so many threads: those of who asks, for the same bits. A forked
    process keeps its one."""
    import torch

    before = torch.get_num_threads()
    if _forked or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork") and sys.platform != "win32":
    os.register_at_fork(after_in_child=_fork)
