"""Do the cells that are not there yet: in this process, or in several; each traces a workload once."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from influencekit.errors import InfluenceKitError
from influencekit_paper.reproduce import cells as store
from influencekit_paper.reproduce.cells import Cell, Result

__all__ = ["Progress", "complete"]

_NOMINAL = {"lr": 1.0, "dnn": 2.0, "cnn": 20.0}  # seconds of a cell, until one of its kind was measured


@dataclass(frozen=True)
class Progress:
    """How many of all cells are done, and how many seconds the others will take."""

    done: int
    total: int
    left: float


def complete(
    cells: Sequence[Cell], folder: Path, *, device: str = "cpu", workers: int = 1,
    hear: Callable[[Progress], None] = lambda _: None,
) -> dict[Cell, Result]:  # fmt: skip
    """What every cell gave, from its file or done now; each is saved as soon as it is there.

    With `workers` above 1, in so many processes of one thread. They are spawned, because a forked process must
    not use this one's device. Whatever ends this function early ends them, and keeps what was saved.
    Errors: a file of a cell that cannot be read, an error of an experiment, a process that was killed.
    """
    done: dict[Cell, Result] = {}
    for cell in cells:
        if (known := store.load(folder, cell, device)) is not None:
            done[cell] = known
    todo = [cell for cell in cells if cell not in done]
    workers = min(workers, len(todo))

    def tell() -> None:
        left = _left([cell for cell in todo if cell not in done], done)
        hear(Progress(len(done), len(cells), left / max(1, workers)))

    tell()
    for cell, result in _serial(todo, device) if workers <= 1 else _parallel(todo, device, workers):
        store.save(folder, cell, device, result)
        done[cell] = result
        tell()
    return done


def _serial(todo: Sequence[Cell], device: str) -> Iterator[tuple[Cell, Result]]:
    for cell in todo:
        yield cell, store.run(cell, device)


def _parallel(todo: Sequence[Cell], device: str, workers: int) -> Iterator[tuple[Cell, Result]]:
    with _pool(workers) as pool:
        waiting = list(todo)
        running: dict[Future[Result], Cell] = {}
        while waiting or running:
            while waiting and len(running) < workers:  # one at a time each: an error stops the others soon
                cell = waiting.pop(0)
                running[pool.submit(store.run, cell, device)] = cell
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                try:
                    yield cell, future.result()
                except BrokenProcessPool:
                    raise InfluenceKitError(
                        f"a process was killed (for its memory?) at {cell}, or at another cell beside it; "
                        "what was done before is saved: run the command again, with fewer --workers"
                    ) from None


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(os.getpid(),)
    )
    ours: list[multiprocessing.process.BaseProcess] = []
    try:
        with _ignoring_ctrl_c():
            pool.submit(int)  # starts them all
        yield pool
    except BaseException:
        ours = [child for child in multiprocessing.active_children() if child not in before]
        raise
    finally:
        for child in ours:  # they are in the middle of cells that are no longer needed
            child.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    """Ctrl-C is ignored within the block, and for good by the processes that begin in it: this process acts."""
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


def _left(cells: Sequence[Cell], done: dict[Cell, Result]) -> float:
    """Seconds that these cells will take, one after the other, by the mean of the finished cells of their row."""
    rows: dict[Cell, list[float]] = defaultdict(list)
    for cell, known in done.items():
        rows[cell.row].append(known.seconds)
    total = 0.0
    for cell in cells:
        times = rows.get(cell.row)
        nominal = _NOMINAL.get(cell.workload.partition(":")[0].rpartition("-")[2], 2.0)
        nominal *= dict(cell.options).get("examples", 4) / 4 if cell.experiment == "retraining" else 1
        total += sum(times) / len(times) if times else nominal
    return total
