"""Does a process that ends well leave a whole store, whoever else makes, resumes or moves the same one?

Processes that record to the same path at once, or resume the same store, or record while the store is
renamed, removed or replaced. They wait for each other just before a store is published or locked, so that
they meet there. One that says that it has ended well must leave the complete store, bit for bit that of a run
alone; all others must be refused in one line, and leave nothing. A store that was moved must be whole where
it is now, up to the last commit.
"""

import multiprocessing
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import click
import torch

import influencekit as ik
from benchmarks.shared.kill_runs import differences, tape_loop
from influencekit._files import Folder
from influencekit._trajectory.store import open_group
from influencekit._trajectory.writing import ledger, writer

TAKES = "10 min"
QUICK = {"creators": 2, "resumers": 1, "moves": 1}
RECORDER = "every-k:k=7"
KINDS: tuple[Callable[[Path], Any], ...] = (
    lambda path: tape_loop(path, RECORDER),
    lambda path: ik.record(ik.make("workload", "mnist-1v7-lr:epochs=40"), RECORDER, path, resume=True),
)
AT_ONCE = 3
READY = (ik.record, ik.open, ik.Tape)  # imported once, by the process that children are forked from


def child(pipe: Connection, kind: int, path: Path, meet: str) -> None:
    """Record or resume; say what happens, and wait for an answer at the call `meet` of the folder."""
    torch.set_num_threads(1)
    ledger._BLOCK, ledger._ROWS, ledger._TABLE, writer.SECONDS = 500_000, 50, 20_000, 0.0
    commit, real = ledger.Ledger.commit, getattr(Folder, meet)

    def say(self: ledger.Ledger, **attrs: Any) -> int:
        number = commit(self, **attrs)
        pipe.send(("committed", number))
        return number

    def together(self: Folder, *args: Any) -> None:
        pipe.send(("waiting", ""))
        pipe.recv()
        real(self, *args)

    ledger.Ledger.commit = say  # type: ignore[method-assign]
    setattr(Folder, meet, together)
    try:
        KINDS[kind](path)
    except ik.InfluenceKitError as error:
        pipe.send(("refused", str(error)))
    except BaseException as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}"))
    else:
        pipe.send(("done", ""))


class Race:
    """Processes that record at the same path. `ends`: what each of them said at its end."""

    def __init__(self, context: Any, kind: int, path: Path, meet: str, count: int = AT_ONCE) -> None:
        self.ends: list[tuple[str, str]] = []
        self.committed = 0
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(count):
            mine, its = context.Pipe()
            process = context.Process(target=child, args=(its, kind, path, meet))
            process.start()
            its.close()
            self._pipes.append(mine)
            self._processes.append(process)

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """To the end of all, or until this is so after a commit. They go on when all that live wait."""
        waiting: list[Connection] = []
        while self._pipes:
            for pipe in wait(self._pipes):
                try:
                    kind, what = pipe.recv()  # type: ignore[union-attr]
                except EOFError:
                    kind, what = "failed", "it said nothing"
                if kind == "waiting":
                    waiting.append(pipe)  # type: ignore[arg-type]
                elif kind == "committed":
                    self.committed = max(self.committed, what)
                    if until():
                        return
                else:
                    self.ends.append((kind, what))
                    self._pipes.remove(pipe)  # type: ignore[arg-type]
            if waiting and len(waiting) == len(self._pipes):
                for pipe in waiting:
                    pipe.send("go")
                waiting = []
        self.join()

    def join(self) -> None:
        for process in self._processes:
            process.join()

    def signal(self, number: int) -> None:
        for process in self._processes:
            with suppress(ProcessLookupError):  # one that has ended by itself
                os.kill(process.pid, number)


def faults(race: Race, path: Path, reference: Path) -> list[str]:
    """What is wrong after a race: each line begins with `broken` where an end of 0 hides it."""
    kinds = [kind for kind, _ in race.ends]
    done, found = kinds.count("done"), []
    if done != 1:
        found.append(f"{'broken: ' if done else ''}{done} ended well")
    found += [f"raw: {what}" for kind, what in race.ends if kind == "failed" or "\n" in what]
    if not path.exists() or open_group(path).attrs["status"] != "complete":
        found.append(f"{'broken: ' if done else ''}no complete store")
    else:
        found += [f"broken: {what}" for what in differences(path, reference)]
    found += [f"left over: {p.name}" for p in path.parent.glob(".*")]
    return found


def cut_off(context: Any, kind: int, path: Path) -> None:
    """A store whose process was killed after some commits; one that had ended by then is made again."""
    while not path.exists() or open_group(path).attrs["status"] == "complete":
        shutil.rmtree(path, ignore_errors=True)
        race = Race(context, kind, path, "publish", 1)
        race.run(until=lambda: race.committed > 10)  # noqa: B023 -- it is asked within this turn
        race.signal(signal.SIGKILL)
        race.join()


# ways of moving a store: (path, another store) -> where its data are now ------------------------------------


def rename(path: Path, other: Path) -> Path | None:
    return path.rename(path.with_name("elsewhere.zarr"))


def remove(path: Path, other: Path) -> Path | None:
    shutil.rmtree(path, ignore_errors=True)
    return None


def remove_an_array(path: Path, other: Path) -> Path | None:
    shutil.rmtree(path / "loss", ignore_errors=True)
    return None


def replace_by_a_store(path: Path, other: Path) -> Path | None:
    there = rename(path, other)
    shutil.copytree(other, path)
    return there


def replace_by_a_link(path: Path, other: Path) -> Path | None:
    there = rename(path, other)
    path.symlink_to(other)
    return there


def replace_by_a_folder(path: Path, other: Path) -> Path | None:
    there = rename(path, other)
    path.mkdir()
    return there


def rename_its_parent(path: Path, other: Path) -> Path | None:
    return path.parent.rename(path.parents[1] / "moved") / path.name


MOVES = (
    rename, remove, remove_an_array, replace_by_a_store, replace_by_a_link, replace_by_a_folder,
    rename_its_parent,
)  # fmt: skip


def moved(
    context: Any, kind: int, folder: Path, move: Callable[..., Path | None], reference: Path, after: int
) -> list[str]:
    """What is wrong after a store was moved when `after` steps were committed."""
    path, other = folder / "parent" / "run.zarr", folder / "other.zarr"
    path.parent.mkdir(parents=True)
    shutil.copytree(reference, other)
    race = Race(context, kind, path, "publish", 1)
    race.run(until=lambda: race.committed >= after)
    race.signal(signal.SIGSTOP)  # wherever it is, also within a commit
    if open_group(path).attrs["status"] == "complete":
        race.signal(signal.SIGKILL)
        shutil.rmtree(folder)
        return moved(context, kind, folder, move, reference, after // 2)
    there = move(path, other)
    race.signal(signal.SIGCONT)
    race.run()
    [(end, what)] = race.ends
    found = [f"{'broken: ' if end == 'done' else 'raw: '}{end}: {what}"] if end != "refused" else []
    if "\n" in what or (there is not None and str(there) not in what):
        found.append(f"raw: it does not say where the data are: {what}")
    if list(differences(other, reference)):
        found.append("broken: the other store was written to")
    if there is not None:
        found += [f"broken: {array}" for array in differences(there, reference)]
        if open_group(there).attrs["committed"] < race.committed:  # type: ignore[operator]
            found.append("broken: committed steps are lost")
    return found


@click.option("--creators", default=50, help="Races of processes that make the same store.")
@click.option("--resumers", default=20, help="Races of processes that resume the same store.")
@click.option("--moves", default=6, help="Times that a store is moved in each of the ways.")
@click.option("--seed", default=0)
def answer(creators: int, resumers: int, moves: int, seed: int) -> dict:
    context, draw = multiprocessing.get_context("forkserver"), random.Random(seed)
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    found: dict[str, Any] = {"processes in a race": AT_ONCE, "moves": {}}
    with tempfile.TemporaryDirectory() as name:
        references = [Path(name, f"reference-{kind}.zarr") for kind in range(len(KINDS))]
        for kind, reference in enumerate(references):
            Race(context, kind, reference, "publish", 1).run()
        for what, races, meet in (("creators", creators, "publish"), ("resumers", resumers, "hold")):
            tally: dict[str, Any] = {"races": races, "refused": 0, "faults": []}
            for number in range(races):
                kind, path = number % len(KINDS), Path(name, f"{what}-{number}", "run.zarr")
                path.parent.mkdir()
                if what == "resumers":
                    cut_off(context, kind, path)
                race = Race(context, kind, path, meet)
                race.run()
                tally["refused"] += sum(end == "refused" for end, _ in race.ends)
                tally["faults"] += faults(race, path, references[kind])
            found[what] = tally
        for move in MOVES:
            each: list[str] = []
            for number in range(moves):
                kind, folder = number % len(KINDS), Path(name, f"{move.__name__}-{number}")
                each += moved(context, kind, folder, move, references[kind], draw.randint(1, 30))
            found["moves"][move.__name__.replace("_", " ")] = {"times": moves, "faults": each}
    return found


def wrong(report: dict) -> list[str]:
    tallies = [("creators", report["creators"]), ("resumers", report["resumers"]), *report["moves"].items()]
    return [f"{name}: {fault}" for name, tally in tallies for fault in tally["faults"]]
