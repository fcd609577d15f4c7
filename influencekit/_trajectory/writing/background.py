"""A thread that handles things in groups, by size and by time."""

import atexit
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from influencekit._signals import deferred
from influencekit.errors import StoreError

__all__ = ["Background"]


class Background:
    """Collects things and hands them, in their order, to `work` in a thread of its own.

    A group is handled `seconds` after its first thing came, or once its things have `size` bytes, or on
    `flush`. `give` waits while more than `room` bytes are not handled yet. An exception ends the thread and
    is given to `failed` at the next call. What was given and is not handled when the program ends is handled
    then. A process that was forked from this one has not got the thread, and every call is refused there.
    """

    def __init__(
        self, work: Callable[[list[Any]], None], failed: Callable[[Exception], None], *, seconds: float,
        size: int, room: int,
    ) -> None:  # fmt: skip
        self._work, self._failed = work, failed
        self._seconds, self._size, self._room = seconds, size, room
        self._lock = threading.Condition()
        self._waiting: list[Any] = []
        self._held = 0  # bytes that were given and are not handled yet
        self._since = 0.0
        self._asked = self._busy = self._ended = False
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        _GOING.add(self)

    @property
    def forked(self) -> bool:
        """Whether this process is not the one that began."""
        return os.getpid() != self._process

    def give(self, thing: Any, size: int) -> None:
        self._refuse_forked()
        with self._lock:
            self._check()
            while self._held and self._held + size > self._room:
                self._asked = True
                self._lock.notify_all()
                self._lock.wait()
                self._check()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="influencekit store", daemon=True)
                self._thread.start()
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting.append(thing)
            self._held += size
            if len(self._waiting) == 1 or self._held >= self._size:
                self._lock.notify_all()

    def flush(self) -> None:
        """Wait until everything that was given is handled."""
        self._refuse_forked()
        with self._lock:
            self._check()
            while self._waiting or self._busy:
                self._asked = True
                self._lock.notify_all()
                self._lock.wait()
                self._check()

    def end(self) -> list[Any]:
        """End the thread after its present group. Returns what it has not handled."""
        self._refuse_forked()
        with self._lock:
            self._ended = True
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._check()
            left, self._waiting = self._waiting, []
        return left

    def finish(self) -> None:
        """End the thread, and handle here what it has not; nothing in a process that was forked."""
        if not (self.forked or self._ended) and (left := self.end()):
            self._work(left)

    def _refuse_forked(self) -> None:
        if self.forked:
            raise StoreError(
                f"the process {self._process} records this run, and {os.getpid()} was forked from it: record "
                "in the one that began"
            )

    def _check(self) -> None:
        if self._error is not None:
            self._failed(self._error)

    def _run(self) -> None:
        while (group := self._next()) is not None:
            things, held = group
            try:
                self._work(things)
            except Exception as error:
                self._error = error
            with self._lock:
                self._busy = False
                self._held -= held
                self._lock.notify_all()
            if self._error is not None:
                return

    def _next(self) -> tuple[list[Any], int] | None:
        with self._lock:
            while not self._ended:
                left = self._since + self._seconds - time.monotonic() if self._waiting else None
                if left is not None and (self._asked or self._held >= self._size or left <= 0):
                    things, self._waiting = self._waiting, []
                    self._asked, self._busy = False, True
                    return things, self._held
                self._lock.wait(left)
        return None


_GOING: WeakSet[Background] = WeakSet()


@deferred()
def _finish() -> None:
    """The program ends, and nobody has closed these."""
    for one in list(_GOING):
        with suppress(Exception):  # nobody is there any more who could act on it
            one.finish()


# before the threads of others, which encode chunks, are shut down: when `atexit` calls they are
getattr(threading, "_register_atexit", atexit.register)(_finish)
