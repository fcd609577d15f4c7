"""Other stores, what is in a folder, and what processes leave in it."""

import errno
import os
import time
from pathlib import Path

from helpers_writing import begin, go_on

from influencekit._files import scratch


def tree(path: Path) -> dict[str, object]:
    """Everything below a folder: links, contents of files, folders."""
    return {
        str(p.relative_to(path)): os.readlink(p)
        if p.is_symlink()
        else p.read_bytes()
        if p.is_file()
        else None
        for p in sorted(path.rglob("*"))
    }


def another_store(path: Path) -> None:
    writing = begin(path)
    go_on(writing, 3)
    writing.close("recording")


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def child_with_scratch(goal: Path) -> tuple[int, Path]:
    """A process that has a hidden folder for `goal`, and waits."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        made = scratch.Scratch(goal)
        (made.path / "half").write_text("half")
        os.write(into, os.fsencode(made.path))
        time.sleep(60)
        os._exit(0)
    path = Path(os.fsdecode(os.read(out, 4096)))
    os.close(out)
    os.close(into)
    return child, path
