"""Do the cells that are not there yet: in this process, or on an executor; each traces a workload once."""

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from influencekit.errors import InfluenceKitError
from influencekit.extend import begun_executor, drive
from influencekit.progress import announce
from influencekit_paper.reproduce import cells as store
from influencekit_paper.reproduce.cells import Cell, Result

__all__ = ["complete"]

Results = Generator[tuple[Cell, Result], None, None]


def complete(
    cells: Sequence[Cell], folder: Path, *, device: str = "cpu", executor: Any = None
) -> dict[Cell, Result]:
    """What every cell gave, from its file or done now; each is saved as soon as it is there.

    With an `executor` (a spec such as "processes:4", or what has `submit`) by its workers, of one thread
    each. Whatever ends this function early cancels what waits, and keeps what was saved. The exceptions of
    Ctrl-C and of a signal get a note that says how much. Every cell is announced. Errors: a file of a cell
    that cannot be read, an error of an experiment, workers that are lost again and again.
    """
    done = {cell: known for cell in cells if (known := store.load(folder, cell, device)) is not None}
    todo = [cell for cell in cells if cell not in done]
    before = len(done)
    announce("cells", 0, len(todo))
    try:
        here = executor is None or (len(todo) <= 1 and str(executor).startswith("processes"))
        each = _serial(todo, device) if here else _on(executor, todo, device, folder)
        with closing(each):
            for cell, result in each:
                store.save(folder, cell, device, result)
                done[cell] = result
                announce("cells", len(done) - before, len(todo))
    except (KeyboardInterrupt, SystemExit) as stop:
        stop.add_note(
            f"{len(done)} of {len(cells)} cells are done and kept in {folder}; the same command continues"
        )
        raise
    return done


def _serial(todo: Sequence[Cell], device: str) -> Results:
    for cell in todo:
        yield cell, store.run(cell, device)


def _on(executor: Any, todo: Sequence[Cell], device: str, folder: Path) -> Results:
    named = {str(number): cell for number, cell in enumerate(todo)}
    calls = {number: (_done, (cell, device)) for number, cell in named.items()}
    with begun_executor(executor, folder) as begun:
        with closing(drive(begun, calls, f"the cells that are done are saved in {folder}")) as each:
            for number, found in each:
                if isinstance(found, InfluenceKitError):
                    raise found
                yield named[number], found


def _done(cell: Cell, device: str, attempt: int) -> Result | InfluenceKitError:
    """In a worker: the result, or what is wrong."""
    import torch

    torch.set_num_threads(1)
    try:
        return store.run(cell, device)
    except InfluenceKitError as error:
        return error
