"""Processes of this machine as an executor: spawned, and begun anew when one of them dies."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Self

__all__ = ["Processes"]


class Processes:
    """So many processes of this machine. They are spawned, because a forked process must not use this one's
    device.

    They leave Ctrl-C to this process, and end with it, however it ends. A block that is left by an error
    ends them at once; one that ends well waits for what was submitted. After one was killed the next `submit`
    begins others.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._ours = set[multiprocessing.process.BaseProcess]()
        self._pool = self._begun()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """The future of `function` of these arguments in one of the processes."""
        before = set(multiprocessing.active_children())
        with _ignoring_ctrl_c():  # a process begins, where none is idle
            try:
                return self._pool.submit(function, *arguments)
            except BrokenProcessPool:
                self._end(at_once=True)
                self._pool = self._begun()
                return self._pool.submit(function, *arguments)
            finally:
                self._ours |= set(multiprocessing.active_children()) - before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end(at_once=kind is not None)

    def _begun(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._count, context, initializer=_begin, initargs=(os.getpid(),))

    def _end(self, at_once: bool) -> None:
        if at_once:
            for child in self._ours:
                child.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    """Ctrl-C is ignored within the block, and for good by the processes that begin in it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signals
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin(parent: int) -> None:
    """In a worker: one thread, and no life after the parent's, however that ended."""
    import torch

    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # cleans up; last, as it raises
