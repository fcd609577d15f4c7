"""Work in other processes: several at once, or one alone, whose memory is then its own. Needs no library."""

import ctypes
import gc
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Failed(Exception):
    """A child process failed; the message says why in one line."""


def at_once(function: Callable[[Any], Any], jobs: Iterable[Any], processes: int) -> Iterator[Any]:
    """`function` of every job in so many processes of one thread each, in order."""
    os.environ |= ONE_THREAD
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, jobs)


def alone(
    function: Callable[..., Any],
    *arguments: Any,
    python: str | Path = sys.executable,
    environment: dict[str, str] | None = None,
    limit: int | None = None,
) -> Any:
    """What a function of ours gives in a process of its own; arguments and result travel as JSON.

    limit: seconds of the processor. Errors: `Failed` for a child that fails or is killed.
    """

    def limited() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))

    done = subprocess.run(
        [str(python), "-m", "benchmarks.shared.processes", function.__module__, function.__name__],
        input=json.dumps(arguments), capture_output=True, text=True, preexec_fn=limited, cwd=ROOT,
        env=os.environ | ONE_THREAD | (environment or {}),
    )  # fmt: skip
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if done.returncode < 0:
        slow = limit and -done.returncode in (signal.SIGXCPU, signal.SIGKILL)
        raise Failed(f"more than {limit} s" if slow else f"killed by signal {-done.returncode}")
    said = [line for line in done.stderr.splitlines() if re.match(r"[\w.]+(Error|Exception):", line)]
    last = (said or done.stderr.splitlines() or ["no message"])[-1]
    raise Failed(re.sub(r"(?<!\w)/\S+", "...", last.rpartition(": ")[2] if len(last) > 160 else last)[:160])


def command_cost(command: list[str], threads: int) -> dict[str, float]:
    """Seconds of a command, start-up included, and its peak of resident memory in GB. Call it `alone`:
    the peak of a child counts from that of the process that began it."""
    began = time.perf_counter()
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": str(threads)}
    )
    spent = time.perf_counter() - began
    return {"seconds": spent, "gb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20}


def memory(what: str) -> float:
    """MB of this process: VmRSS now, VmHWM at most since it began or since `count_the_peak_from_here`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def count_the_peak_from_here() -> float:
    """Forget the peak so far, and what is free but held by the allocator; the memory in MB now."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


if __name__ == "__main__":
    print("\n" + json.dumps(getattr(import_module(sys.argv[1]), sys.argv[2])(*json.load(sys.stdin))))
