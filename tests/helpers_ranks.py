"""Ranks of torch.distributed: forked children of this process in a gloo group, and what each of them says."""

import os
import pickle
import signal
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

__all__ = ["on_ranks"]

_LIMIT = 90  # seconds
_STOPPED = "stopped: it took too long"


def on_ranks(size, function):
    """[function(rank)] of each rank: what it returns, or the error that it raises; None of one that dies.

    A child of a process with threads may wait for ever for a lock that one of them held when it was forked.
    So where all ranks had to be stopped after `_LIMIT`, they begin once more, in another group. What leaves a
    file behind must take that."""
    found = _once(size, function)
    return _once(size, function) if all(said is _STOPPED for said in found) else found


def _once(size, function):
    folder = tempfile.mkdtemp()
    children = [_started(rank, size, f"{folder}/group", function) for rank in range(size)]
    found = []
    for process, pipe in children:
        with pipe:
            said = pipe.read()
        status = os.waitpid(process, 0)[1]
        stopped = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
        found.append(pickle.loads(said) if said else _STOPPED if stopped else None)
    return found


def _started(rank, size, path, function):
    mine, its = os.pipe()
    child = os.fork()
    if child:
        os.close(its)
        return child, open(mine, "rb")
    signal.alarm(_LIMIT)
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=Path(path).as_uri(), rank=rank, world_size=size)
        said = function(rank)
    except BaseException as error:
        said = type(error)(str(error))
    os.write(its, b"") if said is None else _write(its, pickle.dumps(said))
    os._exit(0)


def _write(pipe, data):
    with open(pipe, "wb") as file:
        file.write(data)
