"""Does what is killed with `kill -9` lose or spoil anything, and is it continued bitwise?

A child does something: it records in one of several ways, or runs a command. It is killed after a random
time, or just before the n-th file is opened to be written, made, renamed or removed, n random, so that many
kills fall within a commit, a publication or a removal. Recordings commit every 20 ms (instead of 5 s) and
in small chunks, and say after every commit how far they are. What a kill left must open, hold every step that
had been said, read with right checksums, equal the run that was never killed, and replay. The next child does
the same again, with resume where there is one. It may be killed, too; the last one is not, and must end well.
Then every file must hold what the run that was never killed left, and there must be no other file.
"""

import random
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path

import click
import torch

from benchmarks.shared.kill_runs import Run, runs, unlike
from benchmarks.shared.killing import Life, left_over, live

TAKES = "10 minutes"
CASES = {
    "record full sgd": 20, "record every-k:k=7 momentum": 20, "record every-k:k=7 adam": 20,
    "record rounded:bits=7 adam": 20, "record rounded:bits=5:k=3 sgd": 15,
    "record revolve:states=9 momentum": 15, "influencekit record": 15, "tape full": 20,
    "tape every-k:k=7": 20, "tape stream": 20, "tape loader workers": 15, "estimate --out zarr": 15,
    "estimate --out nc": 10, "estimate --out csv": 10, "compare --out": 10,
    "compare --out, a folder": 10, "compare --subsets": 15, "reproduce": 20, "reproduce --workers 2": 10,
}  # fmt: skip
QUICK = {"fraction": 0.05, "cases": ["record every-k:k=7 adam", "compare --subsets"]}
PATIENCE = 8.0  # seconds in which processes of a killed one have to end; those of a DataLoader look every 5


@dataclass
class Tally:
    """What happened in a campaign."""

    run: str
    kills: int = 0
    of_resumes: int = 0  # kills of a child that had found something
    before_anything: int = 0  # nothing was committed, or published
    half_written: int = 0  # something was half-written, and still there
    continued: int = 0  # runs that ended well after kills
    lost_steps: int = 0  # steps that were said to be committed, and not there
    faults: list[str] = field(default_factory=list)  # what was there, or at the end, and had other bits
    left_over: list[str] = field(default_factory=list)  # files that were there after the call that ended well
    failed: list[str] = field(default_factory=list)  # calls after a kill that did not end well
    orphans: int = 0  # processes of killed ones that went on
    committed_when_killed: list[int] = field(default_factory=list)
    seconds_undisturbed: float = 0.0


def campaign(name: str, kills: int, folder: Path, seed: int = 0, rehearse: bool = True) -> Tally:
    """Kill `kills` times, continue every run to its end, compare, and count.

    `rehearse`: the undisturbed run is done twice, which makes its seconds right, and must end alike.
    """
    run, draw, tally = runs()[name](), random.Random(seed), Tally(name)
    run.given(folder)
    whole = _child(run, folder / "reference", tally, imports=folder / "imports")
    if rehearse:
        for module in (folder / "imports").read_text().split():  # children need not import them
            with suppress(Exception):
                import_module(module)
        whole = _child(run, folder / "again", tally)
        tally.faults += unlike(folder / "again", folder / "reference")
    assert not whole.code, whole.text
    tally.seconds_undisturbed = whole.seconds
    number = 0
    while tally.kills < kills:
        number += 1
        mine, said = folder / str(number), 0
        for _ in range(draw.choice([1, 1, 2, 3])):
            found = (mine / run.result).exists()
            life = _child(run, mine, tally, **_moment(draw, whole))
            if life.code >= 0:
                break  # it was faster
            said = max([said, *life.told])
            tally.kills, tally.of_resumes = tally.kills + 1, tally.of_resumes + found
            _look(run, mine, folder / "reference", said, tally)
        else:
            life = _child(run, mine, tally)
        if life.code and not _is_there(life):
            tally.failed.append(f"run {number}: {' '.join(life.text.split())[-200:]}")
        tally.left_over += [f"run {number}: {one}" for one in left_over(mine)]
        tally.faults += [f"run {number}: {one}" for one in unlike(mine, folder / "reference")]
        tally.continued += 1
    return tally


def _child(
    run: Run, mine: Path, tally: Tally, imports: Path | None = None, **moment: float | int | bool
) -> Life:
    mine.mkdir(exist_ok=True)

    def do(tell: Callable[[int], None]) -> None:
        torch.set_num_threads(1)
        try:
            run.do(mine, tell)
        finally:
            if imports is not None:
                imports.write_text("\n".join(sys.modules))

    life = live(do, mine.with_suffix(".log"), patience=PATIENCE if run.workers else 0, **moment)  # type: ignore[arg-type]
    tally.orphans += len(life.orphans)
    if life.code >= 0 and not _is_there(life) and ("Traceback" in life.text or "this is a bug" in life.text):
        tally.failed.append(" ".join(life.text.split())[-300:])
    return life


def _moment(draw: random.Random, whole: Life) -> dict[str, float | int | bool]:
    """When to kill: by the clock, often early, or by the changes of files, often late; the group, or one."""
    group = draw.random() < 0.3
    if draw.random() < 0.5:
        seconds = 10 ** draw.uniform(-2.5, -0.5) if draw.random() < 0.3 else draw.uniform(0, whole.seconds)
        return {"seconds": seconds, "group": group}
    last = draw.random() < 0.3
    return {"change": draw.randint(max(1, whole.changes - 12) if last else 1, whole.changes), "group": group}


def _look(run: Run, mine: Path, reference: Path, said: int, tally: Tally) -> None:
    """At what a kill left."""
    result = mine / run.result
    committed, faults = run.inspect(result, reference / run.result)
    tally.lost_steps += max(0, said - committed)
    tally.half_written += bool(left_over(mine))
    tally.before_anything += not (committed or result.exists())
    tally.committed_when_killed.append(committed)
    tally.faults += [f"kill {tally.kills}: {fault}" for fault in faults]


def _is_there(life: Life) -> bool:
    """Whether a call was refused because it had nothing to do: what it makes, an earlier one had made."""
    said = ("is complete: there is nothing to resume", "exists already", "is a folder that is not empty")
    return any(words in life.text for words in said)


@click.option("--fraction", default=1.0, help="Of the kills of every case.")
@click.option("--seed", default=0)
def answer(fraction: float, seed: int, cases: list[str]) -> dict:
    campaigns = []
    for place, case in enumerate(cases):
        with tempfile.TemporaryDirectory() as folder:
            tally = campaign(case, max(1, round(fraction * CASES[case])), Path(folder), seed + place)
        print(f"{case}: {tally.kills} kills, {wrong({'campaigns': [asdict(tally)]})}", flush=True)
        campaigns.append(asdict(tally))
    return {"campaigns": campaigns, "kills": sum(one["kills"] for one in campaigns)}


def wrong(report: dict) -> list[str]:
    bad = ("lost_steps", "faults", "left_over", "failed", "orphans")
    return [f"{c['run']}: {what} {c[what]}" for c in report["campaigns"] for what in bad if c[what]]
