"""The console script: what a signal does to a command, from before the imports until the process ends."""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

from influencekit._signals import ENDING

__all__ = ["Ended", "main"]

_SAME = 5.0  # seconds in which further signals mean the first


class Ended(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or a lost terminal end the command, with the exit code `code`."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.code = number, 128 + number


class _Signals:
    """Raises `Ended` once; while the command cleans up for it, further signals are of no use."""

    def __init__(self) -> None:
        self.last, self.over = -_SAME, False

    def came(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.over and now - self.last >= _SAME:
            self.last = now
            raise Ended(number)

    def unraisable(self, lost: Any) -> None:
        """Python cannot pass on what is raised in a callback: the signal is sent once more."""
        if isinstance(lost.exc_value, Ended) and not self.over:
            self.last = -_SAME
            threading.Timer(0.01, os.kill, [os.getpid(), lost.exc_value.number]).start()
        else:
            sys.__unraisablehook__(lost)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The console script `influencekit`. Ctrl-C, SIGTERM and a lost terminal are one line and an exit code,
    128 and the signal's number, after what was recorded is safe. What is ignored (`nohup`) stays so.

    `args`: None for those of the process, which then ends.
    """
    signals, hook = _Signals(), sys.unraisablehook
    ending = ENDING if threading.current_thread() is threading.main_thread() else ()
    before = {n: h for n in ending if (h := signal.getsignal(n)) not in (None, signal.SIG_IGN)}
    sys.unraisablehook = signals.unraisable
    try:
        try:
            for number in before:
                signal.signal(number, signals.came)
            _open_streams()
            from influencekit.cli.app import cli

            cli.main(args, prog_name="influencekit")
        finally:
            signals.over = True
            for number in before:  # also while the interpreter ends, where no handler of Python's is left
                signal.signal(number, signal.SIG_IGN)
    except KeyboardInterrupt as error:  # before the command began, or in the last moment
        os.write(2, b"interrupted\n")
        sys.exit(getattr(error, "code", 130))
    finally:
        if args is not None:
            sys.unraisablehook = hook
            for number, handler in before.items():
                signal.signal(number, handler)
    raise RuntimeError("click ends the process")


def _open_streams() -> None:
    """Open a closed stdin or stderr to nowhere, and refuse a closed stdout.

    Else the next file that is opened takes its number, and what a library prints gets into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8")
    if sys.stdout is None:
        os.write(2, b"error: stdout is closed, so that nothing can be printed; send it somewhere\n")
        sys.exit(1)
