"""Does any command line end in a traceback, a raw error, or an exit code that is not true?

Random command lines of every command, with every option and with values that are right, odd and wrong, run in
processes forked from one that has imported everything. Of every value it is known whether it can work, cannot
or may. An exit code of 0 is believed only where what was asked for is there and can be read. Anything else
must be one line on stderr, after `error:`, and leave nothing. What is there already must stay as it is.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
import xarray as xr

import influencekit as ik
from benchmarks.shared.cli_words import FILES, LINKS, MADE, TINY, line
from benchmarks.shared.processes import at_once
from influencekit._trajectory.store import open_group
from influencekit.cli import main

TAKES = "20 min"
QUICK = {"commands": 60}
SECONDS = 120  # of one command line
_WRITES = ("--out", "--store", "--json", "--issues", "--card")
BATCH = 25  # command lines of one process


class Line(NamedTuple):
    """A command line, and whether it can work: True, False, or None where that is not known."""

    words: list[str]
    works: bool | None


def prepare(folder: Path) -> None:
    """What the command lines find: stores, scores, code, files and folders, whole and broken."""
    with chdir(folder):
        for each in ("empty", "full", "weights"):
            Path(each).mkdir()
        for file, text in FILES.items():
            Path(file).write_bytes(text.encode() if isinstance(text, str) else text)
        for link, target in LINKS.items():
            Path(link).symlink_to(target)
        os.mkfifo("pipe.csv")
        for words in MADE:
            code, _, errors = call(words)
            assert code == 0, errors
        work = ik.make("workload", TINY)
        ik.record(work, "every-k:k=2", store="python.zarr")
        shutil.copytree("run.zarr", "broken.zarr")
        Path("broken.zarr/zarr.json").write_text('{"zarr_format": 3')
        shutil.copytree("run.zarr", "short.zarr")
        shutil.rmtree("short.zarr/theta")
        xr.Dataset({"x": ("train", [1.0])}).to_zarr("foreign.zarr", zarr_format=3, consolidated=False)
        ids = [str(i) for i in work.train_ids or range(work.n_train)]
        Path("ids.txt").write_text("# two\n" + "\n".join(ids[:2]) + "\n")


def call(words: list[str]) -> tuple[Any, str, str]:
    """The exit code as the shell sees it, stdout and stderr of a command line in this process."""
    files = [tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") for _ in range(2)]
    kept, streams = [os.dup(1), os.dup(2)], (sys.stdout, sys.stderr)
    try:
        for number, file in enumerate(files, 1):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (open(os.dup(k), "w", encoding="utf-8") for k in (1, 2))
        try:
            main(words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.close()
    finally:
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.stdout, sys.stderr = streams
    said = []
    for file in files:
        file.seek(0)
        said.append(file.read())
        file.close()
    return code, *said


def faults(typed: Line, code: Any, out: str, errors: str, new: Path) -> Iterator[str]:
    """What is not as it must be."""
    text = out + errors
    for word in ("Traceback", "this is a bug", "Exception ignored"):
        if word in text:
            yield word
    if not all(one.isprintable() for one in text.split("\n")):
        yield "a control character is printed"
    if code not in (0, 1, 2):
        yield "an exit code that means something else"
    if typed.works is not None and (code == 0) != typed.works:
        yield "exit code 0 for what cannot work" if code == 0 else "what can work is refused"
    if code == 0:
        if "error:" in errors:
            yield "an error, and exit code 0"
        yield from missing(typed.words, out, new)
        return
    lines = [one for one in errors.splitlines() if not one.startswith("warning: ")]
    if typed.words and (len(lines) != 1 or not lines[0].startswith("error: ") or len(lines[0]) < 15):
        yield "not one line after error:"
    if out and typed.words[:1] != ["verify"]:
        yield "something on stdout besides the error"
    kept = "are kept in" in errors  # a run that diverged
    if not kept and (left := sorted(each.name for each in new.iterdir())):
        yield f"left behind: {left}"


def missing(words: list[str], out: str, new: Path) -> Iterator[str]:
    """What was asked for, and is not there or cannot be read."""
    if not out:
        yield "nothing is printed"
    if {"--help", "-h", "--version"} & {*words} or not words:
        return
    for option, path in zip(words, words[1:], strict=False):
        if not (option in _WRITES and path.startswith(str(new))):
            continue
        try:
            if option == "--store":
                assert open_group(path).attrs["status"] == "complete"
            elif option == "--json":
                json.loads(Path(path).read_text())
            elif words[0] == "compare":
                json.loads((Path(path) / "compare.json").read_text())
                assert len(xr.open_zarr(Path(path) / "scores.zarr", consolidated=False).load().influence)
            elif words[0] == "plot":
                assert any(each.suffix == ".png" for each in Path(path).iterdir())
            elif path.endswith((".html", ".md")):
                assert Path(path).read_text().rstrip()
            elif path.endswith(".csv"):
                assert len(Path(path).read_text().splitlines()) > 24
            else:
                load = xr.load_dataset if path.endswith(".nc") else xr.open_zarr
                assert load(path).sizes["train"]
        except Exception as error:
            yield f"{option} {path} is not there: {type(error).__name__} {error}"
    if "-" in words[1:] and words[words.index("-") - 1] == "--json":
        try:
            json.loads(out)
        except ValueError:
            yield "--json - is not JSON"
    if any(".partial" in each.name for each in new.rglob("*")):
        yield "a partial folder is left"


def batch(pipe: Connection, lines: list[tuple[int, Line]], folder: Path) -> None:
    """Run some command lines in this process: number, exit code, what was wrong, what was said."""
    signal.alarm(SECONDS)  # ends this process, also where the fork itself hangs
    torch.set_num_threads(1)
    new, known = folder / "new", {*os.listdir(folder), "new"}
    with chdir(folder):
        for number, typed in lines:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            pipe.send(number)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)
            words = [word.replace("NEW", str(new)) for word in typed.words]
            code, out, errors = call(words)
            found = list(faults(typed._replace(words=words), code, out, errors, new))
            signal.alarm(0)
            if extra := sorted({*os.listdir(folder)} - known):  # what an odd name, or a plot of scores, made
                found += [f"left behind: {extra}"] * (code != 0)
                for name in extra:
                    shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name)
            pipe.send((number, code, found, (out[-300:] + errors)[-600:] if found else ""))


def inventory(folder: Path) -> dict[str, Any]:
    """Every file that the command lines find, with its size and time."""
    found = {}
    for each in folder.rglob("*"):
        if "new" not in each.relative_to(folder).parts:
            stat = each.lstat()
            found[str(each)] = (
                stat.st_mode,
                stat.st_size if not each.is_dir() else 0,
                stat.st_mtime_ns if not each.is_dir() else 0,
            )
    return found


def campaign(commands: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run so many command lines; what happened."""
    prepare(folder)
    before, draw = inventory(folder), random.Random(seed)
    todo = [(k, line(draw)) for k in range(commands)]
    lines, codes, wrong = dict(todo), Counter[str](), list[dict[str, Any]]()
    context = multiprocessing.get_context("fork")
    while todo:
        mine, its = context.Pipe(duplex=False)
        process = context.Process(
            target=batch, args=(its, [(k, Line(*one)) for k, one in todo[:BATCH]], folder)
        )
        process.start()
        its.close()
        last = todo[0][0]
        done = last - 1
        with suppress(EOFError):
            while mine.poll(SECONDS + 60) or process.kill():
                said = mine.recv()
                if isinstance(said, int):
                    last = said
                    continue
                done, code, found, text = said
                codes[str(code)] += 1
                if found:
                    wrong.append({"line": lines[done][0], "code": code, "wrong": found, "said": text})
        process.join()
        if done < last:
            wrong.append(
                {
                    "line": lines[last][0],
                    "code": process.exitcode,
                    "wrong": ["the process died or took too long"],
                }
            )
        todo = [each for each in todo if each[0] > last]
        if (after := inventory(folder)) != before:
            changed = sorted({k for k, _ in set(before.items()) ^ set(after.items())})
            wrong.append({"line": [], "wrong": [f"changed around {last}: {changed[:5]}"]})
            before = after
    return {"codes": dict(sorted(codes.items())), "wrong": wrong}


def part(job: tuple[int, int]) -> dict[str, Any]:
    """A campaign in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return campaign(*job, Path(folder).resolve())


@click.option("--commands", default=5000)
@click.option("--seed", default=0)
@click.option("--processes", default=1, help="The second has the next seed, and so on.")
def answer(commands: int, seed: int, processes: int = 1) -> dict:
    began = time.perf_counter()
    jobs = [(len(range(k, commands, processes)), seed + k) for k in range(processes)]
    found = list(at_once(part, jobs, processes)) if processes > 1 else [part(jobs[0])]
    return {
        "commands": commands,
        "seed": seed,
        "codes": dict(sorted(sum((Counter(each["codes"]) for each in found), Counter()).items())),
        "wrong": [fault for each in found for fault in each["wrong"]],
        "seconds": round(time.perf_counter() - began),
    }


def wrong(report: dict) -> list[str]:
    return [f"{' '.join(each['line'])}: {'; '.join(each['wrong'])}" for each in report["wrong"]]
