"""Do the cells that are not there yet: in this process, or in several; each traces a workload once."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from influencekit.errors import InfluenceKitError
from influencekit.progress import announce
from influencekit_paper.reproduce import cells as store
from influencekit_paper.reproduce.cells import Cell, Result

__all__ = ["complete"]


def complete(
    cells: Sequence[Cell], folder: Path, *, device: str = "cpu", workers: int = 1
) -> dict[Cell, Result]:
    """What every cell gave, from its file or done now; each is saved as soon as it is there.

    With `workers` above 1, in so many processes of one thread. They are spawned, because a forked process
    must not use this one's device. Whatever ends this function early ends them, and keeps what was saved.
    The exceptions of Ctrl-C and of a signal get a note that says how much. Every cell is announced.
    Errors: a file of a cell that cannot be read, an error of an experiment, a process that was killed.
    """
    done = {cell: known for cell in cells if (known := store.load(folder, cell, device)) is not None}
    todo = [cell for cell in cells if cell not in done]
    workers = min(workers, len(todo))
    before = len(done)
    announce("cells", 0, len(todo))
    try:
        for cell, result in _serial(todo, device) if workers <= 1 else _parallel(todo, device, workers):
            store.save(folder, cell, device, result)
            done[cell] = result
            announce("cells", len(done) - before, len(todo))
    except (KeyboardInterrupt, SystemExit) as stop:
        stop.add_note(
            f"{len(done)} of {len(cells)} cells are done and kept in {folder}; the same command continues"
        )
        raise
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
    """Ctrl-C is ignored within the block, and for good by the processes that begin in it."""
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
