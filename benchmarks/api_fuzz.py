"""Does every call of the Python API give the right result, or one line that says what is wrong?

Calls are drawn at random from a seed: a verb or a class of the API with usual arguments, of which one or
two are replaced: by the same number in another guise (of NumPy, in a tensor), by what is no number, by a
spec with odd characters, by another thing altogether (a run for a path, a result for an estimator), by
examples, ids, models and losses that misbehave. A value that stands for a plain one must give the plain
one's result, or be refused; what means nothing must be refused, by an `InfluenceKitError` of one line that
does not call itself a bug. Where a model, a loss or data may be admitted or refused, scores of what is
admitted must be those of a plain loop of torch. Counted are raw errors, hangs, ends of the process, wrong
results, and what was admitted and means nothing.
"""

from __future__ import annotations

import random
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
import xarray as xr

import influencekit as ik
from benchmarks.shared.odd.calls import CALLEES
from benchmarks.shared.odd.drawing import Call
from benchmarks.shared.odd.values import EITHER, REFUSED
from benchmarks.shared.odd.world import world

TAKES = "2 min"
QUICK = {"count": 60}
SECONDS = 30  # after which a call hangs


class Verdict(NamedTuple):
    """What a call came to: `right`, `refused`, or a fault, with the words for it."""

    kind: str
    call: str
    said: str = ""


def judged(call: Call) -> Verdict:
    """Make the call, and say what it came to."""
    text = f"{call.name}({', '.join(f'{k}={v.text}' for k, v in call.values.items())})"
    try:
        found = call.make({k: v.it for k, v in call.values.items()})
    except ik.InfluenceKitError as error:
        said = str(error)
        one = said and len(said.splitlines()) == 1 and said.isprintable() and "bug" not in said
        return Verdict("refused" if one else "not one line", text, said)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = (str(error).splitlines() or [""])[0][:200]
        said = f"{type(error).__name__}: {line} ({Path(where.filename).name}:{where.lineno})"
        return Verdict("raw error", text, said)
    meant = [v.stands_for for v in call.values.values()]
    if REFUSED in [m for m in meant if isinstance(m, type(REFUSED))]:
        return Verdict("admitted", text, f"gave {' '.join(repr(found).split())[:200]}")
    if any(m is EITHER for m in meant):
        wrong = call.oracle(found, {k: v.it for k, v in call.values.items()}) if call.oracle else ""
        return Verdict("wrong", text, wrong) if wrong else Verdict("right", text)
    plain = {k: v.stands_for for k, v in call.values.items()}
    try:
        expected = call.make(plain)
    except ik.InfluenceKitError as error:
        return Verdict("wrong", text, f"the plain value is refused: {error}")
    return (
        Verdict("right", text) if alike(found, expected) else Verdict("wrong", text, "not that of the plain")
    )


def alike(a: Any, b: Any) -> bool:
    """Whether two results are equal, whatever they are."""
    if isinstance(a, xr.Dataset):
        drop = ["seconds", "training_seconds"]
        return a.drop_vars(drop, errors="ignore").identical(b.drop_vars(drop, errors="ignore"))
    if isinstance(a, xr.DataArray):
        return a.identical(b)
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(nan=9e9), b.nan_to_num(nan=9e9))
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, ik.Trajectory):
        return all(torch.equal(a.state(t).theta, b.state(t).theta) for t in (a.first, a.last)) and (
            a.stored_states == b.stored_states and _attrs(a) == _attrs(b)
        )
    if isinstance(a, ik.Workload):
        return alike(ik.record(a), ik.record(b))
    if isinstance(a, tuple | list) and type(a) is type(b):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if type(a).__module__.startswith(("matplotlib", "influencekit._tape")):
        return type(a) is type(b)
    return bool(type(a) is type(b) and repr(a) == repr(b))


def _attrs(run: ik.Trajectory) -> dict[str, str]:
    return {name: repr(value) for name, value in run.attrs.items() if name != "created"}


def _child(pipe: Connection, seed: int, numbers: range) -> None:
    """Judge the calls of these numbers, and say so before and after each."""
    import resource

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        every = world(Path(folder))
        for number in numbers:
            call = drawn(every, seed, number)
            pipe.send(f"{call.name}({', '.join(f'{k}={v.text}' for k, v in call.values.items())})")
            before = _switches()
            verdict = judged(call)
            if _switches() != before:
                verdict = Verdict("switch left", verdict.call, f"{before} became {_switches()}")
                _restore(before)
            pipe.send(verdict)


def _switches() -> tuple[Any, ...]:
    return torch.is_grad_enabled(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()


def _restore(before: tuple[Any, ...]) -> None:
    torch.set_grad_enabled(before[0])
    torch.set_default_dtype(before[1])


def drawn(every: dict[str, Any], seed: int, number: int) -> Call:
    """The call of this number; the same whatever was called before."""
    r = random.Random(f"{seed}/{number}")
    return r.choice(CALLEES).draw(every, r)


def campaign(seed: int, count: int) -> Iterator[Verdict]:
    """The verdicts on so many calls, made in a child process, which is made anew where it hangs or ends."""
    context, begin = get_context("fork"), 0
    while begin < count:
        mine, its = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(its, seed, range(begin, count)))
        process.start()
        its.close()
        said = "the beginning"
        while begin < count:
            try:
                if not mine.poll(SECONDS if said != "the beginning" else 120):
                    yield Verdict("hang", said)
                    begin += 1
                    break
                came = mine.recv()
            except (EOFError, OSError):
                process.join()
                if said == "the beginning":
                    raise
                yield Verdict("end of the process", said, f"exit code {process.exitcode}")
                begin += 1
                break
            if isinstance(came, str):
                said = came
            else:
                yield came
                begin += 1
        process.kill()
        process.join()


@click.option("--count", default=500, help="How many calls.")
@click.option("--seed", default=0)
@click.option("--show", is_flag=True, help="Print every call and what it came to.")
def answer(count: int, seed: int, show: bool) -> dict:
    found = []
    for verdict in campaign(seed, count):
        found.append(verdict)
        if show or verdict.kind not in ("right", "refused"):
            print(f"{verdict.kind}: {verdict.call}: {verdict.said}", flush=True)
    counts = Counter(verdict.kind for verdict in found)
    faults = [v._asdict() for v in found if v.kind not in ("right", "refused")]
    verbs = dict(sorted(Counter(v.call.partition("(")[0] for v in found).items()))
    return {"calls": len(found), "seed": seed, "came_to": dict(counts), "faults": faults, "verbs": verbs}


def wrong(report: dict) -> list[str]:
    return [f"{f['kind']}: {f['call']}: {f['said']}" for f in report["faults"]]
