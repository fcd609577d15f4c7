"""Fork a child, kill it at some moment, and say what it was, and left."""

import os
import re
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHANGES = {
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.remove",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
}
_WORD = struct.Struct("<q")


@dataclass
class Life:
    """Of a child: how it ended (negative: by a signal), the numbers that it told, how often it changed the
    file system, its seconds, what it printed, and those of its own processes that outlived it."""

    code: int
    told: list[int]
    changes: int
    seconds: float
    text: str
    orphans: list[int]


def live(
    do: Callable[[Callable[[int], None]], None], log: Path, *, seconds: float | None = None,
    change: int | None = None, group: bool = False, patience: float = 0.0,
) -> Life:  # fmt: skip
    """`do(tell)` in a forked child, killed after so many seconds, or before so many changes of files.

    The child is the leader of a session; `group`: all of it is killed. `patience`: seconds that its own
    processes have to notice that it is no more.
    """
    log.touch()
    reads, writes = os.pipe()
    began = time.perf_counter()
    child = os.fork()
    if not child:
        os.close(reads)
        _be(do, log, writes, change, group)
    os.close(writes)
    ended = os.pidfd_open(child)
    if not select.select([ended], [], [], seconds)[0]:
        with suppress(ProcessLookupError):  # it leads no group yet
            (os.killpg if group else os.kill)(child, signal.SIGKILL)
        os.kill(child, signal.SIGKILL)
        select.select([ended], [], [])
    os.close(ended)
    os.set_blocking(reads, False)  # processes of its own may hold the other end
    with open(reads, "rb", buffering=0) as pipe:
        data = pipe.read(1 << 16) or b""  # all of it: a pipe holds as much
    words = [word for (word,) in _WORD.iter_unpack(data)]
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    spent, until = time.perf_counter() - began, time.perf_counter() + patience
    while (left := [*_session(child)]) and time.perf_counter() < until:
        time.sleep(0.05)
    for one in left:
        os.kill(one, signal.SIGKILL)
    changes = [-word for word in words if word < 0]
    told = [word for word in words if word >= 0]
    return Life(code, told, sum(changes), spent, log.read_text(errors="replace"), left)


def _be(do: Callable[..., None], log: Path, pipe: int, change: int | None, group: bool) -> None:
    """The child, which never returns."""
    code, seen = 1, 0

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in CHANGES and not (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if os.getpid() != mine:  # a forked worker of its own
            return
        seen += 1
        if seen == change:
            (os.killpg if group else os.kill)(mine, signal.SIGKILL)

    try:
        os.setsid()
        mine = os.getpid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        sys.addaudithook(count)
        do(lambda number: os.write(pipe, _WORD.pack(number)))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(pipe, _WORD.pack(-seen))
        os._exit(code)


def _session(leader: int) -> Iterator[int]:
    """The processes of a session, zombies not counted."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rpartition(") ")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(session) == leader and state not in "ZX":
            yield int(path.parent.name)


def left_over(folder: Path) -> list[str]:
    """Hidden and half-written files and folders below a folder; of those within each other the outermost."""
    odd = re.compile(r"\..*|.*\.(partial|tmp)")
    found = []
    for place, folders, names in os.walk(folder):
        found += [
            os.path.relpath(os.path.join(place, n), folder) for n in folders + names if odd.fullmatch(n)
        ]
        folders[:] = [name for name in folders if not odd.fullmatch(name)]
    return sorted(found)
