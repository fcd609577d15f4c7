"""What is killed: recordings, tapes and commands, how each is continued, and what it may leave."""

import json
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from benchmarks.shared.killing import left_over
from influencekit._files import is_held
from influencekit._trajectory.store import open_group, read
from influencekit._trajectory.writing import ledger, writer

Tell = Callable[[int], None]
TINY = "mnist-1v7-lr:epochs=2:n_train=24:batch_size=8"


@dataclass(frozen=True)
class Run:
    """`do(folder, tell)` begins in a folder, or continues what it finds there, and tells what is committed.

    `result`: the name of what is there in the end. `given`: makes what the run needs, once, in the folder
    above. `inspect(path, reference)`: of a store that a kill left, the committed steps and what of them is
    not as in the run that was never killed. `workers`: it has processes of its own.
    """

    do: Callable[[Path, Tell], None]
    result: str
    inspect: Callable[[Path, Path], tuple[int, list[str]]] = lambda path, reference: (0, [])
    given: Callable[[Path], None] = lambda folder: None
    workers: bool = False


# recordings -------------------------------------------------------------------------------------------------


def _tells(do: Callable[[Path], Any], tell: Tell, path: Path) -> None:
    """Small chunks, a commit every 20 ms instead of 5 s, and a word after each."""
    ledger._BLOCK, ledger._ROWS, ledger._TABLE, writer.SECONDS = 500_000, 50, 20_000, 0.02
    commit = ledger.Ledger.commit

    def telling(self: ledger.Ledger, **attrs: Any) -> int:
        number = commit(self, **attrs)
        tell(number)
        return number

    ledger.Ledger.commit = telling  # type: ignore[method-assign]
    do(path)


@cache
def _workload(optimizer: ik.Optimizer, epochs: int) -> ik.Workload:
    return replace(ik.make("workload", f"mnist-1v7-dnn:epochs={epochs}"), optimizer=optimizer)


def recording(recorder: str, optimizer: ik.Optimizer, epochs: int = 60) -> Run:
    workload = _workload(optimizer, epochs)

    def do(folder: Path, tell: Tell) -> None:
        _tells(lambda path: ik.record(workload, recorder, path, resume=True), tell, folder / "run.zarr")

    opened = cache(lambda path: ik.open(path, workload))
    return Run(do, "run.zarr", lambda path, reference: inspect(path, reference, opened))


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


def tape_loop(path: Path, recorder: str, epochs: int = 8, workers: int = 0, stream: bool = False) -> None:
    """Dropout, augmentation, AdamW, clipping, a schedule, two micro-batches a step. `stream`: no data set."""
    parts = _parts()
    model, loss, data = parts["model"], parts["loss"], parts["data"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6 * epochs)
    source = data.tensors if stream else data
    loader = DataLoader(data, batch_size=8, shuffle=True, num_workers=workers)
    with ik.Tape(
        path, model, optimizer, loss=loss, data=None if stream else data, scheduler=scheduler,
        recorder=recorder, accumulate=2, clip_norm=1.0, resume=True,
    ) as tape:  # fmt: skip
        for epoch in range(epochs):
            batches = _streamed(source, epoch) if stream else loader
            for number, (_, (inputs, target)) in enumerate(tape.batches(batches)):
                (loss(model(inputs), target).mean() / 2).backward()
                if number % 2:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
                    scheduler.step()


def taped(recorder: str, workers: int = 0, stream: bool = False) -> Run:
    def loop(path: Path) -> None:
        tape_loop(path, recorder, workers=workers, stream=stream)

    def opened(path: Path) -> Any:
        parts = _parts()
        data = parts["data"]
        return ik.open(
            path, test=data.tensors if stream else data, **(parts | ({"data": None} if stream else {}))
        )

    keep = cache(opened)
    return Run(
        lambda folder, tell: _tells(loop, tell, folder / "run.zarr"), "run.zarr",
        lambda path, reference: inspect(path, reference, keep), workers=workers > 0,
    )  # fmt: skip


def _streamed(tensors: tuple[torch.Tensor, ...], epoch: int) -> Iterator[Any]:
    """(names, batch) of an epoch, as a stream makes them."""
    generator = torch.Generator().manual_seed(epoch)
    for rows in torch.randint(len(tensors[0]), (12, 8), generator=generator):
        yield [f"example {i}" for i in rows.tolist()], tuple(each[rows] for each in tensors)


def inspect(path: Path, reference: Path, opened: Callable[[Path], Any]) -> tuple[int, list[str]]:
    """How many steps a killed child left committed, and what of them is not as it was recorded."""
    if not path.exists():
        return 0, []
    committed: Any = open_group(path).attrs["committed"]
    faults = [*differences(path, reference), *(["a lock is held"] if is_held(path) else [])]
    if committed:
        found = opened.__wrapped__(path)  # type: ignore[attr-defined]
        stored = read(open_group(path), "kept").tolist()  # between rounded ones, a replay is of rounded ones
        lossy = "rounded" in found.attrs["recorder"]
        for t in {
            stored[0],
            stored[len(stored) // 2],
            stored[-1],
            *([] if lossy else [committed // 2, committed]),
        }:
            a, b = found.state(t), opened(reference).state(t)
            same = np.array_equal(a.theta.numpy(), b.theta.numpy())
            if not (same and all(np.array_equal(a.slots[k].numpy(), b.slots[k].numpy()) for k in b.slots)):
                faults.append(f"state {t} replays differently")
    return committed, faults


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


# commands ---------------------------------------------------------------------------------------------------


def command(
    result: str, *words: str, given: Callable[[Path], None] = lambda folder: None, workers: bool = False,
    filled: bool = False,
) -> Run:  # fmt: skip
    """`influencekit WORDS`, where {} is the folder of this run and {given} the one above.

    `filled`: the result is a folder that is there, empty, before the first call.
    """

    def do(folder: Path, tell: Tell) -> None:
        if filled:
            (folder / result).mkdir(exist_ok=True)
        from influencekit.cli import cli
        from influencekit.evaluation import retraining

        retraining._PIECE = 3
        writer.SECONDS = 0.02
        texts = [word.format(folder, given=folder.parent) for word in words]
        cli.main(texts, prog_name="influencekit")

    return Run(do, result, given=given, workers=workers)


def _recorded(folder: Path) -> None:
    from click.testing import CliRunner

    from influencekit.cli import cli

    CliRunner().invoke(cli, ["record", TINY, "--store", str(folder / "given.zarr")], catch_exceptions=False)


def _small_tables(folder: Path) -> None:
    """The tables of the paper on tiny problems."""
    from influencekit_paper.reproduce import plan

    plan.spec = lambda model, data, setting="paper": TINY  # type: ignore[assignment]
    plan.SMALL, plan.LARGE = [("lr", "mnist")], []


def runs() -> Mapping[str, Callable[[], Run]]:
    """{what is killed: how to make it}; a recording's name ends in its recorder and its optimizer."""
    sgd, momentum, adam = ik.SGD(lr=0.05), ik.SGD(lr=0.02, momentum=0.9), ik.Adam(lr=0.001)
    compare = ("compare", TINY, "--estimators", "dit,if", "--device", "cpu")
    reproduce = ("reproduce", "table4", "--seeds", "3", "--out", "{}/tables", "--device", "cpu", "--workers")
    estimate = ("estimate", "{given}/given.zarr", "--trust", "none", "--device", "cpu", "--out")
    return {
        "record full sgd": lambda: recording("full", sgd),
        "record every-k:k=7 momentum": lambda: recording("every-k:k=7", momentum),
        "record every-k:k=7 adam": lambda: recording("every-k:k=7", adam),
        "record rounded:bits=7 adam": lambda: recording("rounded:bits=7", adam),
        "record rounded:bits=5:k=3 sgd": lambda: recording("rounded:bits=5:k=3", sgd),
        "record revolve:states=9 momentum": lambda: recording("revolve:states=9", momentum),
        "tape full": lambda: taped("full"),
        "tape every-k:k=7": lambda: taped("every-k:k=7"),
        "tape stream": lambda: taped("every-k:k=7", stream=True),
        "tape loader workers": lambda: taped("every-k:k=7", workers=2),
        "influencekit record": lambda: command(
            "run.zarr", "record", "mnist-1v7-lr:epochs=60", "--store", "{}/run.zarr", "--recorder",
            "every-k:k=5", "--resume", "--device", "cpu",
        ),
        "estimate --out zarr": lambda: command("scores.zarr", *estimate, "{}/scores.zarr", given=_recorded),
        "estimate --out nc": lambda: command("scores.nc", *estimate, "{}/scores.nc", given=_recorded),
        "estimate --out csv": lambda: command("scores.csv", *estimate, "{}/scores.csv", given=_recorded),
        "compare --out": lambda: command("results", *compare, "--out", "{}/results"),
        "compare --out, a folder": lambda: command(
            "results", *compare, "--out", "{}/results", filled=True
        ),
        "compare --subsets": lambda: command(
            "results", *compare, "--estimators", "dit", "--evaluate", "lds:m=5,leave-k-out:groups=3:k=2",
            "--subsets", "{}/sets", "--out", "{}/results",
        ),
        "reproduce": lambda: command("tables/table4.md", *reproduce, "1", given=_small_tables),
        "reproduce --workers 2": lambda: command(
            "tables/table4.md", *reproduce, "2", given=_small_tables, workers=True
        ),
    }  # fmt: skip


# what is the same -------------------------------------------------------------------------------------------

# what depends on times: also which steps a tape checks, and the digest of a text with seconds in it
_TIMES = {"seconds", "cell_seconds", "created", "digest", "replay", "known", "checksums"}


def unlike(folder: Path, reference: Path) -> list[str]:
    """Files that are not in both folders, or have other contents; seconds and dates do not count."""
    mine, theirs = _files(folder), _files(reference)
    wrong = [f"{name} is there" for name in sorted(mine.keys() - theirs)]
    wrong += [f"{name} is missing" for name in sorted(theirs.keys() - mine)]
    for name in sorted(mine.keys() & theirs):
        if "seconds/c/" not in name and _content(mine[name], folder) != _content(theirs[name], reference):
            at = _where(*(_content(*each) for each in ((mine[name], folder), (theirs[name], reference))))
            wrong.append(f"{name} differs{at}")
    return wrong


def _files(folder: Path) -> dict[str, Path]:
    odd = left_over(folder)  # counted by itself
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: p for name, p in found.items() if not name.startswith(tuple(odd))}


def _content(path: Path, folder: Path) -> Any:
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text().replace(os.fspath(folder), "")))
    if path.suffix == ".csv":
        import pandas as pd

        return pd.read_csv(path, dtype=str).drop(columns="seconds", errors="ignore").to_csv()
    data = path.read_bytes()
    if path.suffix == ".html":  # a report says where it was made, and when the run was recorded
        return re.sub(rb"\d{4}-\d\d-\d\dT[\d:+]+", b"", data.replace(os.fsencode(folder), b""))
    return re.sub(rb"[0-9.]+ s\b", b"", data) if path.suffix in (".md", ".tex") else data


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in _TIMES}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def _where(mine: Any, theirs: Any) -> str:
    if not (isinstance(mine, dict) and isinstance(theirs, dict)):
        return f": {str(mine)[:60]} is not {str(theirs)[:60]}" if isinstance(mine, str | int | float) else ""
    name = next(k for k in (mine | theirs) if mine.get(k) != theirs.get(k))
    return f" at {name}{_where(mine.get(name), theirs.get(name))}"
