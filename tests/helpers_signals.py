"""Children that are forked from one process, which has imported everything, and get signals at any moment.

The first comes at a random step of a recording, or at a random time of another command; a busy machine, on
which one child takes twice as long as the next, then changes nothing.

As a script: FOLDER SEED COUNT [CASES]; prints a JSON list of what happened. A child ends as any program does,
with everything that Python does then, so it cannot be forked from a process that runs tests.
"""

import gc
import json
import os
import random
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from influencekit._trajectory.store import open_group
from influencekit._trajectory.writing import Writer, writer
from influencekit.cli import cli, main, start

SPEC = "mnist-1v7-lr:n_train=64:epochs={}"
READY = (cli, ik.record, ik.Tape, ik.open, ik.estimate)
RECORD = ("record", "tape", "api")
STEPS = 150  # of a recording; the tape has ten more
LONG = 60.0  # seconds until a child must have ended


def command(*words: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        sys.argv = ["influencekit", *[word.format(path=path, run=path.parent / "run.zarr") for word in words]]
        main()

    return run


def tape(path: Path) -> None:
    """A loop of a user's own, which ends at Ctrl-C and at SIGTERM as it likes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    data = TensorDataset(x, (x[:, 0] > 0).long())
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Dropout(0.1), torch.nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters())
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    loader = DataLoader(data, batch_size=8, shuffle=True)
    try:
        with ik.Tape(path, model, optimizer, loss=loss, data=data, recorder="every-k:k=9") as taped:
            for _ in range(20):
                for _, (a, b) in taped.batches(loader):
                    optimizer.zero_grad()
                    loss(model(a), b).mean().backward()
                    optimizer.step()
    except KeyboardInterrupt:
        sys.exit(130)


def api(path: Path) -> None:
    try:
        ik.record(ik.make("workload", SPEC.format(STEPS)), "every-k:k=7", path)
    except KeyboardInterrupt:
        sys.exit(130)


CASES: dict[str, Callable[[Path], None]] = {
    "record": command("record", SPEC.format(STEPS), "--store", "{path}", "--recorder", "every-k:k=7"),
    "tape": tape,
    "api": api,
    "estimate": command("estimate", "{run}", "--out", "{path}"),
    "compare": command("compare", SPEC.format(4), "--estimators", "dit,if,loo", "--out", "{path}"),
    "verify": command("verify", "{run}"),
    "list": command("list"),
}


def child(case: str, path: Path, seconds: float, said: int) -> None:
    """Runs the case; it tells the number of every step that was handed over or committed."""
    writer.SECONDS = seconds
    step = Writer.step

    def tell(self: Writer, row: dict) -> None:
        step(self, row)
        os.write(said, b"%d\n" % max(self.committed, self.steps))

    Writer.step = tell  # type: ignore[method-assign]
    opened = start._open_streams

    def listens() -> None:  # a command, from here on
        os.write(said, b"0\n")
        opened()

    start._open_streams = listens
    if case in ("tape", "api"):
        os.write(said, b"0\n")
    try:
        CASES[case](path)
    finally:
        os.write(said, b"-1\n")


def life(case: str, path: Path, draw: random.Random, undisturbed: float | None) -> dict:
    """One child: what it said, its exit code, and what it left."""
    errors = path.with_suffix(".stderr")
    mine, its = os.pipe()
    number = os.fork()
    if not number:
        os.close(mine)
        out = os.open(errors, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(out, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        child(case, path, draw.choice([0.02, 5.0]), its)
        sys.exit(0)
    os.close(its)
    began, words, worked = time.monotonic(), b"", LONG
    sent: list[str] = []
    times: list[float] = []  # since the first word
    step = draw.randint(-STEPS // 10, STEPS + STEPS // 10) if case in RECORD else 0
    delays = [draw.random() * 0.05 if case in RECORD else draw.uniform(0, undisturbed or 0)]
    delays += [draw.choice([0, 0.001, 0.01, 0.1]) * draw.random() for _ in range(draw.choice([0, 1, 2]))]
    while True:
        if delays and undisturbed is not None and words and last(words) >= min(step, STEPS - 1):
            times, delays = [*accumulate(delays, initial=time.monotonic() - began)][1:], []
        left = times[0] - (time.monotonic() - began) if times else 0.05
        if times and left <= 0:
            times.pop(0)
            sent.append("SIGINT" if case == "api" else draw.choice(["SIGINT", "SIGTERM", "SIGHUP"]))
            os.kill(number, getattr(signal, sent[-1]))
            continue
        if select.select([mine], [], [], max(0.0, left))[0]:
            more = os.read(mine, 1 << 16)
            if not words:
                began = time.monotonic()
            words += more
            if b"-1" in more:
                worked = time.monotonic() - began
            if not more:
                break
        if time.monotonic() - began > LONG:
            os.kill(number, signal.SIGKILL)
    os.close(mine)
    code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    return {
        "case": case, "signals": sent, "code": code, "handed_over": max(0, last(words)),
        "committed": committed(path), "worked": worked, "seconds": time.monotonic() - began,
        "stderr": errors.read_text(errors="replace"),
    }  # fmt: skip


def last(words: bytes) -> int:
    """The highest number that was said."""
    return max(map(int, words.split(b"\n")[:-1]), default=-1)


def committed(path: Path) -> int:
    """How many steps the store has; 0 where there is none, or another's."""
    return open_group(path).attrs["committed"] if path.suffix == ".zarr" and path.exists() else 0  # type: ignore


def wrong(one: dict) -> list[str]:
    """What must not be: steps that were lost, another exit code, more than a line, a hang."""
    found = []
    if one["case"] in RECORD and one["committed"] < one["handed_over"]:
        found.append(f"{one['handed_over'] - one['committed']} steps lost")
    if one["case"] not in ("tape", "api"):  # whose ends are the user's own
        if one["code"] not in {0, *(128 + getattr(signal, name) for name in one["signals"])}:
            found.append(f"exit code {one['code']}")
        if any(word in one["stderr"] for word in ("Traceback", "Exception ignored", "this is a bug")):
            found.append("a traceback")
    if one["seconds"] > LONG:
        found.append("hangs")
    return found


if __name__ == "__main__":
    folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    cases = sys.argv[4].split(",") if len(sys.argv) > 4 else [*CASES]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    made = ["record", SPEC.format(40), "--store", str(folder / "run.zarr"), "--recorder", "every-k:k=7"]
    cli.main(made, standalone_mode=False)
    gc.freeze()  # what is there is not looked at again by every child
    draw, whole, results = random.Random(seed), {}, []
    for k in range(count):
        case = cases[k % len(cases)]
        suffix = ".zarr" if case in RECORD else ".csv"
        if case not in whole:
            once = life(case, folder / f"whole-{case}{suffix}", draw, None)
            whole[case] = once["worked"]
            results.append(once)
        results.append(life(case, folder / f"{k}{suffix}", draw, whole[case]))
    print("\n" + json.dumps([{**one, "wrong": wrong(one)} for one in results]))
