"""Does a run that is killed with `kill -9` lose a committed step, and is it continued bitwise?

A child process records; it says how far it has committed after every commit, which here comes after every
20 ms (instead of 5 s) and in small chunks, so that a kill meets a write as often as possible. It is killed
after a random time, often a very short one. What it left must open, hold every step that it had said, read
with right checksums, equal the run that was never killed, and replay. Then the next child continues it, until
it is complete, and every array must be the bits of the run that was never killed.
"""

import multiprocessing
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from benchmarks.shared.results import RESULTS as FOLDER
from benchmarks.shared.results import load, machine
from influencekit._trajectory.store import open_group, read
from influencekit._trajectory.writing import ledger, writer

TAKES = "1 hour"
CASES = ("record full", "record every-k:k=7", "tape full", "tape every-k:k=7")
MERGES = True
QUICK = {"kills": 2, "cases": ["record full"]}
READY = (ik.record, ik.open, ik.Tape)  # imported once, by the process that children are forked from


class Run(NamedTuple):
    """A way to record: `record(workload, recorder, path)` begins or continues, `open(workload, path)`."""

    record: Callable[[str, str, Path], Any]
    open: Callable[[str, Path], Any]
    workload: str


@cache
def _workload(spec: str) -> Any:
    return ik.make("workload", spec)


def _record(spec: str, recorder: str, path: Path) -> Any:
    return ik.record(_workload(spec), recorder, path, resume=True)


def _open(spec: str, path: Path) -> Any:
    return ik.open(path, _workload(spec))


class _Noisy(TensorDataset):
    """Examples that are augmented anew every time, from all generators."""

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = super().__getitem__(i)
        scale = random.uniform(0.9, 1.1) * float(np.random.uniform(0.9, 1.1))
        return x * scale + 0.1 * torch.randn(len(x)), y


def _parts() -> dict[str, Any]:
    """The model, loss and data of a user's own loop."""
    torch.manual_seed(3)
    random.seed(3)  # a tape keeps these states, too
    np.random.seed(3)
    x = torch.randn(96, 12)
    data = _Noisy(x, (x[:, 0] * x[:, 1] > 0).long())
    return {
        "model": nn.Sequential(nn.Linear(12, 40), nn.GELU(), nn.Dropout(0.2), nn.Linear(40, 2)),
        "loss": nn.CrossEntropyLoss(reduction="none"),
        "data": data,
    }


def _tape(spec: str, recorder: str, path: Path) -> None:
    """Dropout, augmentation, AdamW, clipping, a schedule, two micro-batches a step."""
    epochs, parts = int(spec.partition("epochs=")[2]), _parts()
    model, loss, data = parts["model"], parts["loss"], parts["data"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6 * epochs)
    loader = DataLoader(data, batch_size=8, shuffle=True)
    with ik.Tape(
        path, model, optimizer, loss=loss, data=data, scheduler=scheduler, recorder=recorder, accumulate=2,
        clip_norm=1.0, resume=True,
    ) as tape:  # fmt: skip
        for _ in range(epochs):
            for number, (_, (inputs, target)) in enumerate(tape.batches(loader)):
                (loss(model(inputs), target).mean() / 2).backward()
                if number % 2:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
                    scheduler.step()


def _open_taped(spec: str, path: Path) -> Any:
    parts = _parts()
    return ik.open(path, test=parts["data"], **parts)


RUNS = {
    "record": Run(_record, _open, "mnist-1v7-dnn:epochs=300"),
    "tape": Run(_tape, _open_taped, "epochs=20"),
}


@dataclass
class Tally:
    """What happened in a campaign."""

    run: str
    workload: str
    recorder: str
    kills: int = 0
    completed: int = 0  # runs that were continued until they were complete
    before_the_first_commit: int = 0
    in_the_middle_of_a_commit: int = 0  # files were newer than the last commit, or half-written
    lost_steps: int = 0  # steps that were reported as committed, and not there
    faults: list[str] = field(default_factory=list)  # what was there, or at the end, and had other bits
    committed_when_killed: list[int] = field(default_factory=list)
    seconds_undisturbed: float = 0.0


def child(pipe: Connection, run: str, spec: str, recorder: str, path: Path) -> None:
    """Record, and say after every commit how many steps are committed."""
    torch.set_num_threads(1)
    ledger._BLOCK, ledger._ROWS, ledger._TABLE, writer.SECONDS = 500_000, 50, 20_000, 0.02
    commit = ledger.Ledger.commit

    def tell(self: ledger.Ledger, **attrs: Any) -> int:
        number = commit(self, **attrs)
        pipe.send(number)
        return number

    ledger.Ledger.commit = tell  # type: ignore[method-assign]
    pipe.send("begun")
    RUNS[run].record(spec, recorder, path)
    pipe.send("done")


def life(context: Any, delay: float | None, words: int, *what: Any) -> tuple[list[Any], float]:
    """One child: what it said, and the seconds from its first `words` words to its end.

    `delay`: how long after these it is killed. Errors: AssertionError for a child that failed by itself.
    """
    mine, its = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(its, *what))
    process.start()
    its.close()
    said: list[Any] = [mine.recv() for _ in range(words)]
    began = time.perf_counter()
    if delay is not None:
        process.join(delay)  # not a word is read meanwhile: the pipe holds some thousand
        process.kill()
    while True:
        try:
            said.append(mine.recv())
        except (EOFError, OSError):
            break
    process.join()
    expected = {0} if delay is None else {0, -signal.SIGKILL}
    assert process.exitcode in expected and (said[-1] == "done" or process.exitcode), "a child failed"
    return said, time.perf_counter() - began


@cache
def _whole(path: Path) -> dict[str, np.ndarray]:
    group = open_group(path)
    return {name: read(group, name) for name in group.array_keys()}


def differences(path: Path, reference: Path) -> Iterator[str]:
    """Every array whose committed rows are not those of the reference, bit for bit; every chunk is read."""
    group, whole = open_group(path), _whole(reference)
    complete = group.attrs["status"] == "complete"
    for name in whole if complete else group.array_keys():
        if name not in group:
            yield f"{name} is missing"
            continue
        rows = slice(None)
        if group[name].metadata.dimension_names[0] == "step" and not complete:  # type: ignore[union-attr]
            rows = slice(0, group.attrs["committed"])  # type: ignore[misc]
        found = read(group, name, rows)
        expected = whole[name] if complete else whole[name][: len(found)]
        if found.dtype != expected.dtype or found.tobytes() != expected.tobytes():
            yield f"{name}, {len(found)} rows"


def _newer(path: Path) -> bool:
    """Whether a commit had begun: its last file is the root's."""
    if not path.exists():
        return False
    last = (path / "zarr.json").stat().st_mtime_ns
    return any(file.stat().st_mtime_ns > last for file in path.rglob("*") if file.is_file())


def _complete(path: Path) -> bool:
    return path.exists() and open_group(path).attrs["status"] == "complete"


@cache
def _undisturbed(run: str, spec: str, reference: Path) -> Any:
    return RUNS[run].open(spec, reference)


def examine(path: Path, reference: Path, run: str, spec: str) -> tuple[int, list[str]]:
    """How many steps a killed child left committed, and what of them is not as it was recorded."""
    if not path.exists():
        return 0, []
    committed: Any = open_group(path).attrs["committed"]
    faults = list(differences(path, reference))
    if committed:
        found = RUNS[run].open(spec, path)
        for t in sorted({found.first, committed // 2, committed}):
            a, b = found.state(t), _undisturbed(run, spec, reference).state(t)
            same = np.array_equal(a.theta.numpy(), b.theta.numpy())
            if not (same and all(np.array_equal(a.slots[k].numpy(), b.slots[k].numpy()) for k in b.slots)):
                faults.append(f"state {t} replays differently")
    return committed, faults


def campaign(run: str, spec: str, recorder: str, kills: int, folder: Path, seed: int = 0) -> Tally:
    """Kill `kills` times, continue every run to its end, compare, and count."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    draw, tally = random.Random(seed), Tally(run, spec, recorder)
    reference = folder / "reference.zarr"
    _, tally.seconds_undisturbed = life(context, None, 3, run, spec, recorder, reference)
    number, path, reported = 0, folder / "0.zarr", 0
    while tally.kills < kills or path.exists():
        # its words: that it begins; that there is a store; that the first state is there; then the steps
        words = draw.choice([1, 2, 3, 3, 3, 3])
        short = words < 3 or draw.random() < 0.2
        delay = 10 ** draw.uniform(-5, -1) if short else draw.uniform(0, 0.7 * tally.seconds_undisturbed)
        said, _ = life(context, delay if tally.kills < kills else None, words, run, spec, recorder, path)
        reported = max([reported, *[x for x in said if isinstance(x, int)]])
        committed, faults = examine(path, reference, run, spec)
        tally.lost_steps += max(0, reported - committed)
        if said[-1] != "done":
            tally.kills += 1
            tally.in_the_middle_of_a_commit += _newer(path)
            tally.before_the_first_commit += committed == 0
            tally.committed_when_killed.append(committed)
        if said[-1] == "done" or _complete(path):
            tally.completed += 1
            number, reported = number + 1, 0
            path = folder / f"{number}.zarr"
        tally.faults += [f"run {number}, kill {tally.kills}: {fault}" for fault in faults]
    return tally


@click.option("--kills", default=100, help="Of every case.")
@click.option("--seed", default=0)
def answer(kills: int, seed: int, cases: list[str]) -> dict:
    found = {}
    for place, case in enumerate(cases):
        run, recorder = case.split()
        with tempfile.TemporaryDirectory() as folder:
            tally = campaign(run, RUNS[run].workload, recorder, kills, Path(folder), seed + place)
        print(f"{case}: {tally.kills} kills, {tally.lost_steps} steps lost, {tally.faults}", flush=True)
        command = f"python -m benchmarks kills --kills {kills}"
        found[case] = {"command": command, "machine": machine(), **asdict(tally)}
    old = load(FOLDER / "kills.json").get("campaigns", [])
    stored = {f"{c['run']} {c['recorder']}": c for c in old} | found
    every = sorted(stored.values(), key=lambda c: (c["run"], -len(c["recorder"])))
    return {"command": "python -m benchmarks kills", "campaigns": every}


def wrong(report: dict) -> list[str]:
    return [f"{c['run']} {c['recorder']}: {c['lost_steps']} steps lost, {c['faults']}"
            for c in report["campaigns"] if c["lost_steps"] or c["faults"]]  # fmt: skip
