"""Ranks of torch.distributed: forked children of this process in a gloo group, and what each of them says.

A child of a process with threads may wait for ever for what one of them held when it was forked. So the files
that use ranks are marked `fresh`: conftest.py runs each of their tests in a process that has run no other.
"""

import faulthandler
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

__all__ = ["in_a_fresh_process", "on_ranks"]

_LIMIT = 60  # seconds
_FRESH = "INFLUENCEKIT_TESTS_IN_A_FRESH_PROCESS"


def on_ranks(size, function):
    """[function(rank)] of each rank: what it returns, or the error that it raises; None of one that dies.
    One that takes too long fails the test, which says where each rank was."""
    folder = Path(tempfile.mkdtemp())
    children = [_started(rank, size, folder, function) for rank in range(size)]
    found, stopped = [], False
    for process, pipe in children:
        with pipe:
            said = pipe.read()
        status = os.waitpid(process, 0)[1]
        stopped |= os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
        found.append(pickle.loads(said) if said else None)
    traces = "\n".join(path.read_text() for path in sorted(folder.glob("trace-*")))
    shutil.rmtree(folder)
    assert not stopped, f"a rank took more than {_LIMIT} s: {found}\n{traces}"
    return found


def in_a_fresh_process(item):
    """Runs a test there. Returns False where this is one, and fails as the test does."""
    if _FRESH in os.environ:
        return False
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", item.nodeid]
    names = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    done = subprocess.run(
        words, cwd=item.config.rootpath, env={**names, _FRESH: "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return True


def _started(rank, size, folder, function):
    mine, its = os.pipe()
    child = os.fork()
    if child:
        os.close(its)
        return child, open(mine, "rb")
    trace = (folder / f"trace-{rank}").open("w")
    faulthandler.register(signal.SIGALRM, file=trace, chain=True)
    signal.alarm(_LIMIT)
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=(folder / "group").as_uri(), rank=rank, world_size=size)
        said = function(rank)
    except BaseException as error:
        said = type(error)(str(error))
    os.write(its, b"") if said is None else _write(its, pickle.dumps(said))
    os._exit(0)


def _write(pipe, data):
    with open(pipe, "wb") as file:
        file.write(data)
