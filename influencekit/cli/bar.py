"""Progress on a terminal: one line that rewrites itself, from the third second on, gone at the end."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from influencekit.progress import listen

__all__ = ["Bar", "progress"]


@contextmanager
def progress(stream: TextIO | None = None, after: float = 2.0) -> Iterator[None]:
    """Within the block, show what the long loops announce; silence unless `stream` (stderr) is a terminal."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield
        return
    bar = Bar(stream, after)
    with listen(bar.hear), bar:
        yield


class Bar:
    """Draws from a thread of its own, so that the clock moves even while one item takes long."""

    def __init__(self, stream: TextIO, after: float = 2.0, every: float = 0.25) -> None:
        self._stream, self._after, self._every = stream, after, every
        self._levels: dict[str, tuple[int, int]] = {}  # outermost first
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True)
        self._began = time.monotonic()
        utf8 = (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"
        self._full, self._empty, self._dot = ("━", "╌", "·") if utf8 else ("#", "-", "|")

    def hear(self, what: str, done: int, total: int) -> None:
        """A loop has finished `done` of `total`; loops begun after it are inside it, and over."""
        levels = dict(self._levels)
        inner = list(levels)[list(levels).index(what) :] if what in levels else []
        for name in inner:
            del levels[name]
        if done < total:
            levels[what] = (done, total)
        self._levels = levels

    def line(self) -> str:
        """What is shown now: `seeds 3/16 · estimators 1/3 ━━━╌╌╌╌ 42 s`."""
        levels = list(self._levels.items())
        share = 0.0
        for _, (done, total) in reversed(levels):
            share = (done + share) / total
        parts = [f"{what} {done + 1}/{total}" if total > 1 else what for what, (done, total) in levels]
        filled = round(16 * share)
        passed = int(time.monotonic() - self._began)
        clock = f"{passed} s" if passed < 100 else f"{passed // 60} min {passed % 60} s"
        bar = self._full * filled + self._empty * (16 - filled)
        return f" {self._dot} ".join(parts or ["working"]) + f" {bar} {clock}"

    def _draw(self) -> None:
        if self._done.wait(self._after):
            return
        while True:
            room = shutil.get_terminal_size((80, 24)).columns - 1
            self._stream.write(f"\r\x1b[K{self.line()[:room]}")
            self._stream.flush()
            if self._done.wait(self._every):
                self._stream.write("\r\x1b[K")
                self._stream.flush()
                return

    def __enter__(self) -> Bar:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
