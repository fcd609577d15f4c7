"""`kill -9` at random moments of a recorded run: no committed step is lost, and the run is continued bitwise.

    python benchmarks/kills.py                          # writes results/kills.json and .md
    python benchmarks/kills.py --kills 20 --workload mnist-1v7-dnn:epochs=20

A child process records; it says how far it has committed after every commit, which here comes after every
10 ms (instead of 5 s) and in small chunks, so that a kill meets a write as often as possible. It is killed
after a random time, often a very short one. What it left must open, hold every step that it had said, read
with right checksums, equal the run that was never killed, and replay. Then the next child continues it, until
it is complete, and every array must be the bits of the run that was never killed.
"""

import argparse
import json
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

import numpy as np

RESULTS = Path(__file__).parent / "results"


class Run(NamedTuple):
    """A way to record: `record(workload, recorder, path)` begins or continues, `open(workload, path)`."""

    record: Callable[[str, str, Path], Any]
    open: Callable[[str, Path], Any]


@cache
def _workload(spec: str) -> Any:
    import influencekit as ik

    return ik.make("workload", spec)


def _record(spec: str, recorder: str, path: Path) -> Any:
    import influencekit as ik

    return ik.record(_workload(spec), recorder, path, resume=True)


def _open(spec: str, path: Path) -> Any:
    import influencekit as ik

    return ik.open(path, _workload(spec))


RUNS = {"record": Run(_record, _open)}


@dataclass
class Tally:
    """What happened in a campaign."""

    run: str
    workload: str
    recorder: str
    kills: int = 0
    completed: int = 0  # runs that were killed and continued until they were complete
    before_the_first_commit: int = 0
    in_the_middle_of_a_file: int = 0
    lost_steps: int = 0  # steps that were reported as committed and not there; any stops the campaign
    committed_when_killed: list[int] = field(default_factory=list)
    seconds_undisturbed: float = 0.0


def child(pipe: Connection, run: str, spec: str, recorder: str, path: Path) -> None:
    """Record, and say after every commit how many steps are committed."""
    import torch

    from influencekit.writing import ledger, writer

    torch.set_num_threads(1)
    ledger._BLOCK, ledger._ROWS, ledger._TABLE, writer.SECONDS = 500_000, 50, 20_000, 0.01
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
    from influencekit.store import open_group, read

    group = open_group(path)
    return {name: read(group, name) for name in group.array_keys()}


def differences(path: Path, reference: Path) -> Iterator[str]:
    """Every array whose committed rows are not those of the reference, bit for bit; every chunk is read."""
    from influencekit.store import open_group, read

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


def _complete(path: Path) -> bool:
    from influencekit.store import open_group

    return path.exists() and open_group(path).attrs["status"] == "complete"


def examine(path: Path, reference: Path, reported: int, run: str, spec: str) -> int:
    """The number of committed steps of what a killed child left, after checking that it is as promised."""
    from influencekit.store import open_group

    if not path.exists():
        assert reported <= 0, f"{reported} steps were committed, and there is no store"
        return 0
    group = open_group(path)
    committed: Any = group.attrs["committed"]
    assert committed >= reported, f"{reported} steps were committed, {committed} are there"
    wrong = list(differences(path, reference))
    assert not wrong, f"after {committed} steps these are not what was recorded: {wrong}"
    if "theta" in group and group["theta"].shape[0]:  # type: ignore[union-attr]
        found, expected = RUNS[run].open(spec, path), RUNS[run].open(spec, reference)
        for t in sorted({found.first, committed // 2, committed}):
            a, b = found.state(t), expected.state(t)
            assert np.array_equal(a.theta.numpy(), b.theta.numpy()), f"state {t} replays differently"
            assert all(np.array_equal(a.slots[k].numpy(), b.slots[k].numpy()) for k in b.slots)
    return committed


def campaign(run: str, spec: str, recorder: str, kills: int, folder: Path, seed: int = 0) -> Tally:
    """Kill `kills` times, continuing and comparing. Errors: AssertionError at the first broken promise."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["influencekit.recording", "influencekit.workloads.mnist", "xarray", "torch._dynamo"]
    )
    draw, tally = random.Random(seed), Tally(run, spec, recorder)
    reference = folder / "reference.zarr"
    _, tally.seconds_undisturbed = life(context, None, 3, run, spec, recorder, reference)
    number = 0
    path, reported = folder / "0.zarr", 0
    while tally.kills < kills or path.exists():
        # its words: that it begins; that there is a store; that the first state is there; then the steps
        words = draw.choice([1, 2, 3, 3, 3, 3])
        short = words < 3 or draw.random() < 0.2
        delay = 10 ** draw.uniform(-5, -1) if short else draw.uniform(0, 0.7 * tally.seconds_undisturbed)
        said, _ = life(context, delay if tally.kills < kills else None, words, run, spec, recorder, path)
        reported = max([reported, *[x for x in said if isinstance(x, int)]])
        killed = said[-1] != "done"
        tally.kills += killed
        if killed:
            tally.in_the_middle_of_a_file += any(path.rglob("*.partial"))
            committed = examine(path, reference, reported, run, spec)
            tally.before_the_first_commit += committed == 0
            tally.committed_when_killed.append(committed)
        if not killed or _complete(path):
            wrong = list(differences(path, reference))
            assert not wrong, f"the continued run is not the one that was never killed: {wrong}"
            tally.completed += 1
            number += 1
            path, reported = folder / f"{number}.zarr", 0
    return tally


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="for every run and recorder together")
    parser.add_argument("--workload", default="mnist-1v7-dnn:epochs=300")
    parser.add_argument("--recorders", default="full,every-k:k=7")
    parser.add_argument("--run", choices=sorted(RUNS), action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from machine import machine

    pairs = [(run, spec) for run in options.run or sorted(RUNS) for spec in options.recorders.split(",")]
    tallies = []
    for place, (run, spec) in enumerate(pairs):
        share = options.kills // len(pairs) + (place < options.kills % len(pairs))
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            tally = campaign(run, options.workload, spec, share, Path(folder), options.seed + place)
            print(f"{run} {spec}: {tally.kills} kills in {time.perf_counter() - began:.0f} s", flush=True)
        tallies.append(asdict(tally))
    report = {
        "command": f"python benchmarks/kills.py --kills {options.kills} --workload {options.workload}",
        "machine": machine(),
        "campaigns": tallies,
    }
    lines = [
        f"`{report['command']}`, {report['machine']}.",
        "",
        "| run | recorder | kills | before the first commit | in the middle of a file | committed steps lost "
        "| continued to the end, bitwise |",
        "|---|---|---|---|---|---|---|",
        *[
            f"| `{t['run']}` | `{t['recorder']}` | {t['kills']} | {t['before_the_first_commit']} | "
            f"{t['in_the_middle_of_a_file']} | {t['lost_steps']} | {t['completed']} of {t['completed']} |"
            for t in tallies
        ],
    ]
    (RESULTS / "kills.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "kills.md").write_text(text := "\n".join(lines) + "\n")
    print(text)
