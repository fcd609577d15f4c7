"""One thread at a time, since torch keeps for the whole process what results depend on.

Random generators, switches of kernels, the parameters of a module while it is called with others, the record
of kernels that a trace makes: threads that compute at once would change them under each other. They take
turns instead, so that results are those of calls in a row. A tape that is open has the turn of its thread
until it is closed, since its loop may draw random numbers at any time: other threads are told so.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from weakref import ref

from influencekit._ambient import as_outside
from influencekit.errors import InputError
from influencekit.progress import announce

__all__ = ["Claim", "exclusive"]

_turn = threading.RLock()
_has_it: str | None = None  # the name of the thread that has the turn, for whoever waits
_claims: list[Claim] = []
_forks = False  # whether this process was forked, and has not computed yet


@contextmanager
def exclusive() -> Iterator[None]:
    """Within the block no other thread is in one. Waits for its turn; a thread may nest such blocks.

    The outermost one leaves the modes of torch that the caller is in (`as_outside`). `@exclusive()` puts a
    function into such a block. Errors: `InputError` while a tape is open in another thread.
    """
    global _has_it
    if _serves_another():
        yield
        return
    if _forks:
        _use_one_thread()
    _refuse()
    me, other = threading.current_thread().name, _has_it
    if other not in (None, me):
        announce(f"waiting for the thread {other}", 0, 1)
    with _turn:
        _refuse()  # a tape may have been opened meanwhile
        if other not in (None, me):
            announce(f"waiting for the thread {other}", 1, 1)
        outer, _has_it = _has_it, me
        try:
            with as_outside() if outer is None else nullcontext():
                yield
        finally:
            _has_it = outer


def _serves_another() -> bool:
    """Whether this is a thread of torch that runs a part of the backward pass of the thread whose turn it is
    (on a GPU): a part of a model that is evaluated in pieces is run again there."""
    if type(threading.current_thread()).__name__ != "_DummyThread":
        return False
    torch = sys.modules.get("torch")
    return torch is not None and torch._C._current_graph_task_id() != -1


class Claim:
    """The turn of a thread from now until `release`, without holding others up: they are refused.

    `whose`: what claims it, in words. `alive`: as long as it lives, and its thread. `move` passes the claim
    on to the thread that asks. Errors: `InputError` where another thread has one.
    """

    def __init__(self, whose: str, alive: object) -> None:
        self.whose, self._alive = whose, ref(alive)
        self.thread = threading.current_thread()
        with exclusive():
            _claims.append(self)

    def move(self) -> None:
        self.thread = threading.current_thread()

    def release(self) -> None:
        if self in _claims:
            _claims.remove(self)

    @property
    def forgotten(self) -> bool:
        return self._alive() is None


def _refuse() -> None:
    for claim in list(_claims):
        if claim.forgotten:
            claim.release()
        elif claim.thread is not threading.current_thread() and claim.thread.is_alive():
            raise InputError(
                f"{claim.whose} is open in the thread {claim.thread.name}, and its loop draws from random "
                "generators that all threads share: call this in that thread, close the tape first, or use "
                "another process"
            )


def _forked() -> None:
    """The child has one thread, which has the turn; a tape is its parent's."""
    global _turn, _has_it, _forks
    _turn, _has_it, _forks = threading.RLock(), None, True
    _claims.clear()


def _use_one_thread() -> None:
    """The threads of OpenMP, which torch computes with, are the parent's: a child waits for them forever."""
    global _forks
    if (torch := sys.modules.get("torch")) is not None:
        _forks = False
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
