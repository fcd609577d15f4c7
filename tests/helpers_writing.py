"""A run without a model, for the laws of writing: every kind of array, and batches that get wider."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from influencekit._trajectory.integrity import read_all
from influencekit._trajectory.store import chunks, open_group, read
from influencekit._trajectory.writing import COLUMNS, Column, Writer, ledger

STEPS = 9
COLUMNS_OF_A_RUN = {
    **{name: COLUMNS[name] for name in ("batch", "coefficient", "loss", "lr", "epoch")},
    "rng": Column(("generators", "byte"), "u1"),
    "buffers": Column(("kept", "buffer"), "f8", np.nan),
}


def about_a_run(size: int) -> dict[str, object]:
    """The attributes that every run has; `size`: of its one parameter."""
    return {
        "stop": 1000, "workload": "none", "seed": 0, "info": {}, "recorder": "full", "optimizer": "",
        "l2": 0.0, "schedule": "", "device": "cpu", "influencekit_version": "0.1.0", "torch_version": "2",
        "buffers": [["mean", [2]]],
        "fingerprint": {"parameters": [["w", [size]]], "dtype": "float32", "training examples": 10},
    }  # fmt: skip


def begin(path: Path | None, durable: bool = False) -> Writer:
    return Writer.create(
        path, size=5, dtype="float32", slots=("m",), columns=COLUMNS_OF_A_RUN,
        fixed={"train": (("train",), np.arange(10))}, attrs=about_a_run(5),
        durable=durable,
    )  # fmt: skip


def go_on(writer: Writer, stop: int = STEPS, commits: set[int] | None = None, every: int = 2) -> None:
    """Hand over the run, from where the writer stands to `stop`; commit before the steps `commits`."""
    for t in range(writer.steps, stop + 1):
        if commits is None or t in commits:
            writer.flush()
        draw = np.random.default_rng(t)
        if t % every == 0 or t == STEPS:
            states = {name: draw.standard_normal(5).astype("f4") for name in ("theta", "m")}
            writer.state(t, {**states, "buffers": draw.standard_normal(2)}, {"t": t})
        if t == stop:
            return
        width = 2 + t * t % 7
        first = writer.rows("rng", draw.integers(0, 255, (1 + t % 2, 6)).astype("u1"))
        batch = draw.permutation(10)[:width]
        writer.step(
            {"batch": batch, "coefficient": np.full(width, 1 / width), "epoch": first,
             "loss": draw.standard_normal(width).astype("f4"), "lr": [0.1, 0.2]}
        )  # fmt: skip


def contents(store: object) -> dict[str, np.ndarray]:
    group = open_group(store)
    return {name: read(group, name) for name in group.array_keys()}


@cache
def never_killed() -> dict[str, np.ndarray]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "_ROWS", 4)
        writer = begin(None)
        go_on(writer, commits=set())
        writer.close()
        return contents(writer.store)


def same(store: object, expected: dict[str, np.ndarray]) -> None:
    found = contents(store)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype and found[name].shape == values.shape, name
        assert found[name].tobytes() == values.tobytes(), name


def whole_and_true(path: Path, reported: int) -> int:
    """It opens, with plain xarray too, and holds what was reported, as in the run. The committed steps."""
    group, plain, expected = open_group(path), xr.open_zarr(path), never_killed()
    committed = int(group.attrs["committed"])
    assert committed >= reported
    assert read_all(group).number == len(chunks(group))
    for name in group.array_keys():
        found, all_of_it = read(group, name), expected[name]
        assert plain[name].shape == found.shape
        here = all_of_it[tuple(slice(n) for n in found.shape)]
        assert found.tobytes() == here.tobytes(), name
        if group[name].metadata.dimension_names[0] == "step":
            assert len(found) >= committed
    if committed:
        kept = read(group, "kept")
        assert kept[0] == 0 and kept[-1] <= committed
        # the rows that the committed steps refer to are there
        assert read(group, "epoch")[committed - 1] < len(read(group, "rng"))
    return committed
