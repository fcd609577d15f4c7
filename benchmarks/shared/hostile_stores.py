"""Small stores of every kind, and how they are changed by somebody who makes every checksum anew."""

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import torch
import zarr
from numcodecs import blosc
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from influencekit._trajectory.digests import Checks, crc_of_file, crc_of_rows, digest_of_document
from influencekit.cli.problems import WorkloadSource

__all__ = [
    "CODE", "HUGE", "KINDS", "SPEC", "Spoil", "a_socket", "array", "at", "attribute", "compressed", "content",
    "edited", "header", "link", "make_good", "moved", "opened", "pipe", "remove", "seal", "text", "values",
]  # fmt: skip

SPEC = "mnist-1v7-lr:epochs=2:n_train=24:batch_size=8"
CODE = """from benchmarks.shared.hostile_stores import parts, rows
taped, stream = lambda: parts(), lambda: rows()
"""
KINDS = ("record", "taped", "stream")
Spoil = Callable[[Path], None]

HUGE = 10**15


@cache
def problem() -> ik.Workload:
    """The workload of the recorded store, with text for ids."""
    return WorkloadSource(SPEC)(0)


def parts() -> dict[str, Any]:
    """What opens the taped store."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 4, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Linear(5, 2))
    y = (x[:, 0] > 0).long()
    return {
        "model": model,
        "loss": nn.CrossEntropyLoss(reduction="none"),
        "data": TensorDataset(x, y),
        "test": (x[:6], y[:6]),
    }


def rows() -> dict[str, Any]:
    """What opens the store that keeps its examples."""
    return {**parts(), "data": None}


def make_good(kind: str, path: Path) -> Path:
    """A small store of a kind."""
    if kind == "record":
        ik.record(problem(), "every-k:k=2", store=path)
        return path
    made = parts()
    torch.manual_seed(2)
    loader = DataLoader(made["data"], batch_size=8, shuffle=True)
    model, loss = made["model"].train(), made["loss"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=6)
    data = made["data"] if kind == "taped" else None
    with ik.Tape(
        path, model, optimizer, loss=loss, data=data, scheduler=schedule, recorder="every-k:k=2"
    ) as tape:
        for _ in range(2):
            for _, (x, y) in tape.batches(loader if data is not None else list(loader)):
                optimizer.zero_grad()
                loss(model(x), y).mean().backward()
                optimizer.step()
                schedule.step()
    return path


def opened(kind: str, path: Path) -> ik.Trajectory:
    """The run in a store of a kind."""
    if kind == "record":
        return ik.open(path, problem())
    return ik.open(path, **(parts() if kind == "taped" else rows()))


# the root document ------------------------------------------------------------------------------------


def edited(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """A store whose root document was changed; its digest is made anew, as whoever is hostile does."""

    def spoil(path: Path) -> None:
        document = json.loads((path / "zarr.json").read_text())
        change(document)
        seal(document)
        (path / "zarr.json").write_text(json.dumps(document))

    return spoil


def seal(document: dict[str, Any]) -> None:
    """Make the digest of a root document right again."""
    if isinstance(said := document.get("attributes"), dict) and "digest" in said:
        said["digest"] = digest_of_document(document)


def at(*keys: str | int, to: Any) -> Spoil:
    """One entry changed to another value, or with `...` removed."""

    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for key in keys[:-1]:
            place = place[key]
        if to is ...:
            del place[keys[-1]]
        else:
            place[keys[-1]] = to

    return edited(change)


def attribute(*keys: str | int, to: Any) -> Spoil:
    return at("attributes", *keys, to=to)


def array(name: str, *keys: str | int, to: Any) -> Spoil:
    return at("consolidated_metadata", "metadata", name, *keys, to=to)


def text(change: Callable[[str], str]) -> Spoil:
    """The root document as text, changed."""
    return lambda path: (path / "zarr.json").write_text(change((path / "zarr.json").read_text())) and None


# the files ----------------------------------------------------------------------------------------------


def pipe(name: str) -> Spoil:
    """A named pipe in the place of a file: whoever reads it waits for ever."""

    def spoil(path: Path) -> None:
        remove(path / name)
        os.mkfifo(path / name)

    return spoil


def link(name: str, to: str | Path) -> Spoil:
    """A link in the place of a file or a folder."""

    def spoil(path: Path) -> None:
        remove(path / name)
        (path / name).symlink_to(to)

    return spoil


def moved(name: str) -> Spoil:
    """What is there is moved outside of the store, and a link points to it."""

    def spoil(path: Path) -> None:
        outside = path.parent / "outside"
        shutil.move(path / name, outside)
        (path / name).symlink_to(outside)

    return spoil


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def a_socket(path: Path) -> None:
    (path / "theta/c/0/0").unlink()
    here = os.getcwd()
    os.chdir(path / "theta/c/0")  # the name of a socket is short
    socket.socket(socket.AF_UNIX).bind("0")
    os.chdir(here)


def content(name: str, change: Callable[[bytes], bytes]) -> Spoil:
    """A chunk's file, changed before its checksum, which is made anew."""

    def spoil(path: Path) -> None:
        data = change((path / name).read_bytes()[:-4])
        data += google_crc32c.value(data).to_bytes(4, "little")
        (path / name).write_bytes(data)
        edited(lambda document: listed(path, name, data, document["attributes"]["checks"]))(path)

    return spoil


def listed(path: Path, name: str, data: bytes, checks: dict[str, Any]) -> None:
    """Put the checksum of a chunk into the list, as far as the chunk can be read."""
    name = name.split("/")[0]
    old = Checks.parse(checks[name])
    full, last = list(old.full), list(old.last)
    if full:
        full[0] = crc_of_file(data)
    else:
        with contextlib.suppress(Exception):
            rows = zarr.open_group(path, mode="r")[name][: old.rows]  # type: ignore[index]
            last[0] = crc_of_rows(np.asarray(rows))
    checks[name] = Checks(old.rows, full, last).as_json()


def compressed(data: bytes, size: int = 1) -> bytes:
    return blosc.compress(data, b"zstd", 1, 0, typesize=size)


def values(name: str, change: Callable[[np.ndarray], Any], dtype: str = "i8") -> Spoil:
    """The numbers of a chunk of a table, changed."""

    def altered(data: bytes) -> bytes:
        numbers = np.frombuffer(blosc.decompress(data), dtype).copy()
        change(numbers)
        return blosc.compress(numbers.tobytes(), b"zstd", 1, 2, typesize=numbers.itemsize)

    return content(name, altered)


def header(place: int, number: int) -> Spoil:
    """A number in the header of a chunk's compression."""
    return content("theta/c/0/0", lambda b: b[:place] + number.to_bytes(4, "little") + b[place + 4 :])
