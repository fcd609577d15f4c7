"""What a verb hands its retraining to: an executor, a folder, and what was learnt of the machines."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from influencekit._address import local
from influencekit._arguments import short
from influencekit._executors.folder import SliceFolder, named
from influencekit._executors.futures import drive
from influencekit._executors.machine import described, differing, this_machine
from influencekit._executors.slices import Run, Slice, order_of, perform
from influencekit._executors.specs import begun_executor, check_executor
from influencekit.errors import InfluenceKitError, InputError
from influencekit.progress import announce

__all__ = ["Session", "Workers"]


@dataclass(frozen=True)
class Workers:
    """Who retrains, where the slices of the work are kept, and how a worker makes what the run was made of.

    `executor`: "processes:4" (of this machine), "dask:ADDRESS", "submitit:partition=NAME", or any object
    whose `submit(function, *arguments)` gives a future (`done`, `result`, `cancel`): one of
    concurrent.futures with processes, `dask.distributed.Client.get_executor()`, `submitit.AutoExecutor`.
    Threads are refused, since they would take turns.

    `folder`: a folder that all workers see, under the same path; beside the run's store unless you say, as in
    run.slices for run.zarr. Slices that are there are not done again, whoever asks for them.

    `opens`: a function without parameters that gives the workload, or a dict with the arguments of `ik.open`
    (model, loss, data, test): a worker calls it, and opens the store with it. Needed for a run that a tape
    recorded. Of others the workload itself is sent to the workers with every slice, and must be picklable.

    Errors: `InputError` for what is no executor.

    Example:

        >>> import influencekit as ik
        >>> from tempfile import mkdtemp
        >>> work = ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2")
        >>> run = ik.record(work, store=mkdtemp() + "/run.zarr")
        >>> truth = ik.estimate(run, estimator="loo", executor=ik.Workers("processes:1"))
        >>> bool((truth.influence == ik.estimate(run, estimator="loo").influence).all())
        True
    """

    executor: Any
    folder: str | Path | None = None
    opens: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        check_executor(self.executor)
        if self.opens is not None and not callable(self.opens):
            raise InputError("Workers: opens is a function without parameters; pass the function itself")
        if self.folder is not None:
            object.__setattr__(self, "folder", local(self.folder))


Reach = Callable[[Any, Workers, Path], Run]
Results = Generator[tuple[int, xr.Dataset], None, None]


class Session:
    """A verb's call with an executor, which is begun when it is first needed; a context that closes it.

    `reach` says how a worker gets a run.
    """

    def __init__(self, workers: Workers, reach: Reach) -> None:
        self._workers, self._reach = workers, reach
        self._stack, self._executor = ExitStack(), None
        self._machines, self._here = Counter[str](), this_machine()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *ended: Any) -> None:
        self._stack.__exit__(*ended)

    def of(self, run: Any, what: str, slices: Sequence[Slice]) -> Results:
        """(number of a slice, what it gave), as they are there. What each does is given the run first.

        Every slice is of the run that `of` names. Progress is announced as the loop `what`. Errors: a run in
        memory without a folder; those of the slices and of the executor.
        """
        folder = self._folder(run)
        folder.make()
        reached = self._reach(run, self._workers, folder.path)
        return self._results(folder, what, [one._replace(run=reached) for one in slices])

    def alone(self, what: str, slices: Sequence[Slice]) -> Results:
        """The same, of no run that is there."""
        if self._workers.folder is None:
            raise InputError(_NO_FOLDER)
        folder = SliceFolder(Path(self._workers.folder))
        folder.make()
        return self._results(folder, what, slices)

    def notes(self) -> dict[str, str]:
        """What results say of the machines: the attr `retrained_on`, and `caution` where they differ."""
        if not self._machines:
            return {}
        beware = differing(self._machines, self._here)
        return {"retrained_on": described(self._machines), **({"caution": beware} if beware else {})}

    def _folder(self, run: Any) -> SliceFolder:
        if self._workers.folder is not None:
            return SliceFolder(Path(self._workers.folder))
        store = getattr(run.group.store, "root", None)
        if store is None:
            raise InputError(_NO_FOLDER)
        return SliceFolder(Path(store).with_suffix(".slices"))

    def _results(self, folder: SliceFolder, what: str, slices: Sequence[Slice]) -> Results:
        numbers = defaultdict[str, list[int]](list)  # one slice may be asked for twice
        for number, one in enumerate(slices):
            numbers[named(one.of)].append(number)
        different = {name: slices[some[0]] for name, some in numbers.items()}
        todo = {name: one for name, one in different.items() if not folder.has(one.of)}
        folder.keep_manifest([one.of for one in different.values()])
        done, total = len(different) - len(todo), len(different)
        announce(what, done, total)

        def found(name: str) -> Results:
            content = folder.read(different[name].of)
            self._machines[content.attrs.pop("slice_machine")] += 1
            for number in numbers[name]:
                yield number, content

        try:
            for name in different.keys() - todo.keys():
                yield from found(name)
            if todo:
                order = order_of(folder.path)
                calls = {name: (perform, (order, one)) for name, one in todo.items()}
                there = {name: one.of for name, one in todo.items()}
                each = drive(
                    self._begun(folder.path), calls, f"what is done is kept in {folder.path}",
                    lambda name: folder.has(there[name]),
                )  # fmt: skip
                with closing(each):
                    for name, error in each:
                        if error is not None:
                            raise error if isinstance(error, InfluenceKitError) else _no_result(error)
                        done += 1
                        announce(what, done, total)
                        yield from found(name)
        except (KeyboardInterrupt, SystemExit) as stop:
            stop.add_note(
                f"{done} of {total} slices are done and kept in {folder.path}; the same call continues"
            )
            raise
        finally:
            announce(what, total, total)

    def _begun(self, folder: Path) -> Any:
        if self._executor is None:
            self._executor = self._stack.enter_context(begun_executor(self._workers.executor, folder))
        return self._executor


def _no_result(value: Any) -> InputError:
    return InputError(
        f"executor: a future gave {short(value)}, which is not what the function gave that was submitted; "
        "let submit(function, *arguments) give a future of function(*arguments)"
    )


_NO_FOLDER = (
    "executor: the run is in memory or at an address, and workers need a folder that all of them see: "
    "name one, influencekit.Workers(executor, folder=...) or --slices DIR, or record the run with store="
)
