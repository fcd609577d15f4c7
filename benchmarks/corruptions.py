"""Is every change of a store found, or harmless?

A small store of every kind is recorded, in chunks of four rows. Then one thing of it is changed: a bit, the
length of a file, a file is deleted, emptied, exchanged or added, a value of its metadata, or an array or an
attribute by zarr, with right checksums. `verify` and `estimate` run on each in a child of their own.
Named: `verify` refuses it, in one line. Harmless: it does not, and the scores are those of the store as it
was, bit for bit. Wrong: `estimate` gives other scores or another error than ours, or does not end.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import zarr

from benchmarks.shared.small_stores import KINDS, made, scores
from influencekit._trajectory.integrity import read_all
from influencekit._trajectory.store import open_group
from influencekit._verbs.meaning import check_meaning
from influencekit._verbs.verify import replayed
from influencekit.errors import InfluenceKitError

TAKES = "30 min"
CASES = tuple(KINDS)
QUICK = {"each": 2, "cases": ["full"]}
SECONDS = 60.0  # a child that takes longer hangs

Files = dict[str, bytes]
Change = Callable[[Path, random.Random], str]  # makes it, and says what it was


# what happens to files -------------------------------------------------------------------------------------


def _files(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file())


def _chunks(store: Path) -> list[Path]:
    return [path for path in _files(store) if path.name != "zarr.json"]


def flipped(store: Path, draw: random.Random) -> str:
    file = draw.choice(_files(store))
    data, at = bytearray(file.read_bytes()), draw.randrange(file.stat().st_size)
    data[at] ^= 1 << draw.randrange(8)
    file.write_bytes(data)
    return f"{file.relative_to(store)}, byte {at}"


def flipped_in_the_root(store: Path, draw: random.Random) -> str:
    file = store / "zarr.json"
    data, at = bytearray(file.read_bytes()), draw.randrange(file.stat().st_size)
    data[at] ^= 1 << draw.randrange(8)
    file.write_bytes(data)
    return f"byte {at}, {bytes(data[max(0, at - 20) : at + 20])!r}"


def cut(store: Path, draw: random.Random) -> str:
    file = draw.choice(_files(store))
    length = draw.randrange(file.stat().st_size)
    file.write_bytes(file.read_bytes()[:length])
    return f"{file.relative_to(store)} to {length} bytes"


def grown(store: Path, draw: random.Random) -> str:
    file = draw.choice(_files(store))
    file.write_bytes(file.read_bytes() + draw.randbytes(draw.randint(1, 9)))
    return str(file.relative_to(store))


def deleted(store: Path, draw: random.Random) -> str:
    path = draw.choice(sorted(store.rglob("*")))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return str(path.relative_to(store))


def zeroed(store: Path, draw: random.Random) -> str:
    file = draw.choice(_files(store))
    data = bytearray(file.read_bytes())
    start = draw.choice([0, draw.randrange(len(data))])
    data[start:] = bytes(len(data) - start)
    file.write_bytes(data)
    return f"{file.relative_to(store)} from byte {start}"


def exchanged(store: Path, draw: random.Random) -> str:
    """Two chunks of one array, if it has two."""
    a = draw.choice(_chunks(store))
    array = a.relative_to(store).parts[0]
    return _swap(store, a, draw.choice([b for b in _chunks(store) if b.relative_to(store).parts[0] == array]))


def exchanged_between_arrays(store: Path, draw: random.Random) -> str:
    return _swap(store, *draw.sample(_chunks(store), 2))


def _swap(store: Path, a: Path, b: Path) -> str:
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    return f"{a.relative_to(store)} and {b.relative_to(store)}"


def copied(store: Path, draw: random.Random) -> str:
    """A chunk takes the place of another, or a place where none was."""
    a, b = draw.choice(_chunks(store)), draw.choice(_chunks(store))
    if draw.random() < 0.5:
        b = b.with_name(str(draw.randint(1, 9)))
    b.write_bytes(a.read_bytes())
    return f"{a.relative_to(store)} to {b.relative_to(store)}"


def added(store: Path, draw: random.Random) -> str:
    name = draw.choice(
        ["notes.txt", "theta/.zarray", ".zgroup", "theta/c/note", "other/zarr.json", ".zmetadata"]
    )
    (store / name).parent.mkdir(exist_ok=True)
    (store / name).write_text(draw.choice(["", "{}", "hello"]))
    return name


# what happens to metadata ----------------------------------------------------------------------------------


def changed_in_the_root(store: Path, draw: random.Random) -> str:
    return _change_json(store / "zarr.json", ("attributes",), draw)


def changed_in_consolidated(store: Path, draw: random.Random) -> str:
    return _change_json(store / "zarr.json", ("consolidated_metadata",), draw)


def changed_in_an_array(store: Path, draw: random.Random) -> str:
    file = draw.choice(sorted(store.glob("*/zarr.json")))
    return f"{file.parent.name}: {_change_json(file, (), draw)}"


def _change_json(file: Path, within: tuple[str, ...], draw: random.Random) -> str:
    whole = json.loads(file.read_text())
    part = whole
    for name in within:
        part = part[name]
    place = draw.choice(list(_places(part, ())))
    holder: Any = part
    for key in place[:-1]:
        holder = holder[key]
    old = holder[place[-1]]
    if draw.random() < 0.15:
        del holder[place[-1]]
    else:
        holder[place[-1]] = _other(old, draw)
    file.write_text(json.dumps(whole, indent=1))
    return f"{'/'.join(map(str, place))}: {str(old)[:40]}"


def _places(value: Any, path: tuple[Any, ...]) -> Any:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from _places(value[key], (*path, key))


def _other(value: Any, draw: random.Random) -> Any:
    """Another value, often of the same type."""
    if draw.random() < 0.1:
        return next(x for x in (None, -1, "x", [], {}, True) if x != value and draw.random() < 0.5 or x == {})
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return draw.choice([value + 1, value - 1, value * 2 + 1, -value - 1])
    if isinstance(value, str):
        return draw.choice([value + "x", value[1:] + "y", ""]) if value else "x"
    if isinstance(value, list):
        return draw.choice([[*value, *value[-1:], 0], value[:-1] if value else [1], [*value[1:], 0]])
    if isinstance(value, dict):
        return {**value, "extra": 1}
    return 1


# what another program does, with right checksums -----------------------------------------------------------


def rewritten(store: Path, draw: random.Random) -> str:
    """One value of one array, through zarr, which rewrites the chunk."""
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    committed = group.attrs["committed"]
    name = draw.choice(sorted(name for name, array in group.arrays() if array.size))
    array: Any = group[name]
    steps = array.metadata.dimension_names[0] == "step"
    rows = max(1, min(array.shape[0], committed)) if steps else array.shape[0]
    row = draw.randrange(rows)
    values = np.array(array[row : row + 1])
    flat = values.reshape(-1)
    at = draw.randrange(len(flat))
    flat[at] = f"{flat[at]}x" if values.dtype.kind in "OTU" else 1 - np.nan_to_num(flat[at])
    array[row : row + 1] = values
    return f"{name}, row {row}"


def reversed_rows(store: Path, draw: random.Random) -> str:
    """The rows of one array in another order, through zarr."""
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    name = draw.choice(sorted(name for name, array in group.arrays() if array.shape[0] > 1))
    array: Any = group[name]
    array[:] = np.array(array[:])[::-1].copy()
    return name


def attribute_by_zarr(store: Path, draw: random.Random) -> str:
    """One attribute, through zarr, which writes the root document and the consolidated metadata anew."""
    group = zarr.open_group(store, mode="r+")
    name = draw.choice(sorted(group.attrs))
    group.attrs[name] = _other(group.attrs[name], draw)
    return name


CHANGES: tuple[Change, ...] = (
    flipped, flipped_in_the_root, cut, grown, deleted, zeroed, exchanged, exchanged_between_arrays, copied,
    added, changed_in_the_root, changed_in_consolidated, changed_in_an_array, rewritten, reversed_rows,
    attribute_by_zarr,
)  # fmt: skip


# what comes of it ------------------------------------------------------------------------------------------


def _verify(kind: str, store: Path) -> str:
    """As `influencekit verify` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_all(open_group(store))
        run = KINDS[kind].open(store)
        check_meaning(run)
        replayed(run, None)
    return "silent"


def _tried(act: Callable[[], str]) -> str:
    try:
        return act()
    except InfluenceKitError as error:
        return "refused" if "\n" not in str(error) else f"error of several lines: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def _judge(pipe: Any, kind: str, store: Path, right: Any) -> None:
    pipe.send(_tried(lambda: _verify(kind, store)))
    pipe.send(_tried(lambda: "same" if scores(kind, store) == right else "other scores"))


def outcome(kind: str, store: Path, right: Any) -> tuple[str, str]:
    """What `verify` and `estimate` make of it: (refused or silent, refused or same), or what was wrong."""
    context = multiprocessing.get_context("fork")
    mine, its = context.Pipe(duplex=False)
    child = context.Process(target=_judge, args=(its, kind, store, right))
    child.start()
    its.close()
    found = []
    try:
        while len(found) < 2:
            found.append(mine.recv() if mine.poll(SECONDS) else "hangs")
    except EOFError:
        found.append("dies")
    child.kill()
    child.join()
    return found[0], found[-1]


def campaign(kind: str, changes: Sequence[Change], seed: int, folder: Path) -> dict[str, Any]:
    """These changes, each on a store of this kind as it was recorded."""
    draw, original, copy = random.Random(f"{kind} {seed}"), folder / "original.zarr", folder / "run.zarr"
    made(kind, original)
    right = scores(kind, original)
    assert outcome(kind, original, right) == ("silent", "same")
    counts, harmless, faults = Counter[str](), Counter[str](), list[str]()
    for change in changes:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(original, copy)
        said = change(copy, draw)
        if _content(copy) == _content(original):
            continue
        named, scored = outcome(kind, copy, right)
        what = f"{change.__name__} {said}"
        if named not in ("refused", "silent") or scored not in ("refused", "same"):
            faults.append(f"{what}: verify {named}, estimate {scored}")
        counts["changes"] += 1
        counts["named by verify"] += named == "refused"
        counts["harmless"] += (named, scored) == ("silent", "same")
        counts["refused by estimate"] += scored == "refused"
        if named == "silent":
            harmless[change.__name__] += 1
            print(f"{kind}: not named: {what}: {scored}", flush=True)
    return {**counts, "not named, by change": dict(harmless), "faults": faults}


def _content(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in _files(store)}


@click.option("--each", default=7, help="How often every kind of change is made, on every kind of store.")
@click.option("--seed", default=0)
def answer(each: int, seed: int, cases: list[str]) -> dict:
    found = {}
    for kind in cases:
        with tempfile.TemporaryDirectory() as folder:
            found[kind] = campaign(kind, CHANGES * each, seed, Path(folder))
        print(f"{kind}: {found[kind]}", flush=True)
    names = ("changes", "named by verify", "harmless", "refused by estimate")
    total = {name: sum(one.get(name, 0) for one in found.values()) for name in names}
    return {**total, "faults": sum(len(one["faults"]) for one in found.values()), "kinds": found}


def wrong(report: dict) -> list[str]:
    return [f"{kind}: {fault}" for kind, one in report["kinds"].items() for fault in one["faults"]]
