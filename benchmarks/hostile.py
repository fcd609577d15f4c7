"""Does a hostile store hang a program, fill its memory, run code, or end it in other ways than by one line?

Small stores of three kinds are made hostile in some two hundred ways, with all checksums right: the root
document, its attributes and its arrays say what is not so, files are pipes, links and devices, chunks become
a thousand times what they are. Each is opened, asked, verified and compared, from Python and by the command
line, in a process that is forked from one which has imported everything. It must end in time, by one line or
with the scores of the good store, and without more memory than the good store takes, twice.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.testing import CliRunner

import influencekit as ik
from benchmarks.shared.hostile_documents import DOCUMENTS
from benchmarks.shared.hostile_files import FILES, STREAM, TAPED
from benchmarks.shared.hostile_stores import CODE, KINDS, Spoil, make_good, opened
from benchmarks.shared.processes import count_the_peak_from_here, memory
from benchmarks.shared.results import machine
from influencekit.cli import cli

TAKES = "15 minutes"
QUICK = {"every": 20}
SECONDS = 60  # of one store
ROOM = 3000  # MB that a process may take more than it had


def hostile() -> Iterator[tuple[str, str, Spoil]]:
    """(kind of store, what is wrong with it, the change)."""
    for kind, changes in (("record", DOCUMENTS | FILES), ("taped", TAPED), ("stream", STREAM)):
        yield from ((kind, name, change) for name, change in changes.items())


def ask(kind: str, path: Path, code: Path, everything: bool = True) -> dict[str, str]:
    """What becomes of each use of a store: `scores ...`, `fine`, `refused: ...`, `raw: ...` or `bug: ...`."""
    more = [] if kind == "record" else ["--code", f"{code}:{kind}"]

    def estimate() -> str:
        found = ik.estimate(opened(kind, path)).influence.values.ravel()
        return "scores " + json.dumps([float(x) for x in found])

    def verify() -> str:
        ik.verify(opened(kind, path))
        return "fine"

    def command(*words: str) -> str:
        result = CliRunner().invoke(cli, [words[0], str(path), *words[1:], *more], prog_name="influencekit")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            return f"raw: {type(result.exception).__name__}: {result.exception}"[:200]
        errors = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
        if "this is a bug" in result.output or "Traceback" in result.output:
            return "bug: " + " ".join(errors)[:200]
        if result.exit_code == 0:
            return "fine"
        return f"refused: {errors[0]}"[:300] if len(errors) == 1 else f"raw: {len(errors)} lines"

    uses: dict[str, Callable[[], str]] = {"open and estimate": estimate}
    if everything:
        uses |= {
            "verify": verify,
            "influencekit verify": lambda: command("verify"),
            "influencekit estimate": lambda: command("estimate", "--trust", "none"),
            "influencekit compare": lambda: command("compare", "--estimators", "dit", "--loo-examples", "2"),
        }
    found = {}
    for name, use in uses.items():
        try:
            found[name] = use()
        except ik.InfluenceKitError as error:
            found[name] = f"refused: {error}"[:300]
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            found[name] = (
                f"raw: {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"[:300]
            )
    return found


def forked(work: Callable[[], Any], folder: Path) -> dict[str, Any]:
    """`found`, what the function gave in a forked process, its `seconds` and its peak of memory in `mb`;
    without `found`, `ended`: how it ended instead."""
    reading, writing = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if not child:
        os.close(reading)
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        room = (round(memory("VmSize")) + ROOM) << 20
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        try:
            count_the_peak_from_here()
            found = work()
            with os.fdopen(writing, "w") as out:
                json.dump({"found": found, "mb": round(memory("VmHWM"))}, out)
        finally:
            os._exit(0)
    os.close(writing)
    said = b""
    with contextlib.suppress(TimeoutError), os.fdopen(reading, "rb", 0) as pipe:
        os.set_blocking(pipe.fileno(), False)
        while time.monotonic() - began < 2 * SECONDS:
            part = pipe.read(1 << 16)
            if part == b"":
                break
            said += part or b""
            time.sleep(0 if part else 0.01)
        else:
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    ended = {} if said else {"ended": f"signal {os.waitstatus_to_exitcode(status)}"}
    return {"seconds": round(time.monotonic() - began, 1), **ended, **json.loads(said or "{}")}


def judged(answer: dict[str, Any], good: dict[str, Any]) -> str:
    """One word for what became of a store."""
    if "found" not in answer:
        slow = answer["seconds"] > SECONDS or answer["ended"] in ("signal -24", "signal -9")
        return "hangs" if slow else "crashes"
    for word, start in (("bug lines", "bug"), ("raw errors", "raw")):
        if any(text.startswith(start) for text in answer["found"].values()):
            return word
    if all(text.startswith("refused") for text in answer["found"].values()):
        return "refused"
    scores, theirs = (x["found"]["open and estimate"] for x in (answer, good))
    if scores.startswith("scores"):
        mine, its = (np.array(json.loads(text[7:])) for text in (scores, theirs))
        if mine.shape != its.shape or not np.array_equal(mine, its):
            return "other scores"
        return "the same scores"
    return "refused by some"


@click.option("--every", default=1, help="Only every n-th store.")
def answer(every: int) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    counts: dict[str, int] = {}
    odd: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        code = folder / "code.py"
        code.write_text(CODE)
        good = {}
        for kind in KINDS:
            path = make_good(kind, folder / f"{kind}.zarr")
            ask(kind, path, code)  # whatever is imported or traced once
            good[kind] = forked(partial(ask, kind, path, code), folder)
        peak = max(each["mb"] for each in good.values())
        most, longest, number = 0, 0.0, 0
        for kind, what, spoil in list(hostile())[::every]:
            number += 1
            path = folder / "hostile" / "run.zarr"
            shutil.copytree(folder / f"{kind}.zarr", path)
            forked(partial(spoil, path), folder)
            answer = forked(partial(ask, kind, path, code), folder)
            word = judged(answer, good[kind])
            counts[word] = counts.get(word, 0) + 1
            most, longest = max(most, answer.get("mb", 0)), max(longest, answer["seconds"])
            if word not in ("refused", "the same scores") or answer.get("mb", 0) > 2 * peak:
                odd[f"{kind}: {what}"] = {"became": word, **answer}
            print(f"{kind}: {what}: {word}, {answer['seconds']} s, {answer.get('mb')} MB", flush=True)
            shutil.rmtree(folder / "hostile")
        owned = (folder / "owned").exists()
    return {
        "command": "python -m benchmarks hostile",
        "machine": machine(),
        "stores": number,
        "became": counts,
        "code_was_run": owned,
        "good_mb": peak,
        "most_mb": most,
        "times_the_memory": round(most / peak, 2),
        "longest_seconds": longest,
        "odd": odd,
    }


def wrong(report: dict[str, Any]) -> list[str]:
    bad = ("hangs", "crashes", "bug lines", "raw errors", "other scores")
    found = [f"{report['became'][word]} {word}" for word in bad if word in report["became"]]
    if report["times_the_memory"] > 2:
        found.append(f"{report['times_the_memory']} times the memory of a good store")
    return found + ["code of a store was run"] * report["code_was_run"]
