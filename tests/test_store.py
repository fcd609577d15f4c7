"""The trajectory store gives back what it was given, to us and to plain xarray, however it is chunked."""

import copy
import math
import pickle
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import influencekit
from influencekit import SGD, Adam, DivergedError, InputError, StoreError, make, open, record
from influencekit._trajectory.store import SCHEMA, open_group, read
from influencekit._trajectory.writing import COLUMNS, Writer, ledger
from influencekit.testing import tiny_workload

WORKLOAD = tiny_workload(Adam(lr=0.05), dtype=torch.float32)
recorders = st.one_of(st.just("full"), st.integers(1, 9).map(lambda k: f"every-k:k={k}"))


# the writer and reader alone ----------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    steps=st.integers(1, 12),
    size=st.integers(1, 40),
    slots=st.sampled_from([(), ("m",), ("m", "v")]),
    dtype=st.sampled_from(["float32", "float64"]),
    k=st.integers(1, 13),
    block=st.sampled_from([1, 200, 1000, 8 << 20]),
    data=st.data(),
)
def test_what_was_written_is_read_bitwise(steps, size, slots, dtype, k, block, data):
    """Random shapes, recorded states and bytes a chunk; values of every kind that a float has."""
    seed = data.draw(st.integers(0, 2**31))
    generator = np.random.default_rng(seed)
    states = generator.standard_normal((steps + 1, 1 + len(slots), size)).astype(dtype)
    states[0, 0, 0] = -0.0
    states *= np.array([1e-30, 1.0, 1e30], dtype=dtype)[generator.integers(0, 3, states.shape)]
    kept = sorted({*range(0, steps + 1, k), steps})
    batch = generator.integers(-1, 5, (steps, 3))
    losses = generator.standard_normal((steps, 3)).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "_BLOCK", block)
        columns = {name: COLUMNS[name] for name in ("batch", "loss")}
        writer = Writer.create(None, size=size, dtype=dtype, slots=slots, columns=columns)
        for t in range(steps + 1):
            if t in kept:
                writer.state(t, dict(zip(("theta", *slots), states[t], strict=True)))
            if t < steps:
                writer.step({"batch": batch[t], "loss": losses[t]})
        writer.close()
    group = open_group(writer.store)
    rows = data.draw(
        st.tuples(st.integers(0, len(kept) - 1), st.integers(1, len(kept))).filter(lambda r: r[0] < r[1])
    )
    for i, name in enumerate(("theta", *slots)):
        assert read(group, name).tobytes() == np.ascontiguousarray(states[kept, i]).tobytes()
        some = np.ascontiguousarray(states[kept, i][slice(*rows)])
        assert read(group, name, slice(*rows)).tobytes() == some.tobytes()
        long = group[name].chunks[0]
        assert long * size * np.dtype(dtype).itemsize <= max(block, size * np.dtype(dtype).itemsize)
    assert read(group, "loss").tobytes() == losses.tobytes()
    assert (read(group, "batch") == batch).all() and read(group, "kept").tolist() == kept
    assert (group.attrs["status"], group.attrs["committed"]) == ("complete", steps)


@cache
def whole_run():
    return record(WORKLOAD)


# recorded runs ------------------------------------------------------------------------------------------


def test_a_large_state_is_read_again_and_is_the_readers_own(monkeypatch):
    """So the run holds none: what a reader does to it is not seen by the next."""
    run = record(WORKLOAD, "every-k:k=3")
    there = {t: run.state(t) for t in (run.steps, 0, 3, 4)}
    monkeypatch.setattr("influencekit._trajectory.trajectory._LARGE", 0)
    run = open(run.group.store, WORKLOAD)
    for t, state in there.items():
        run.state(t).theta.zero_()
        again = run.state(t)
        assert torch.equal(again.theta, state.theta)
        assert all(torch.equal(again.slots[name], x) for name, x in state.slots.items())


@settings(max_examples=8)
@given(
    recorder=recorders, window=st.tuples(st.integers(0, 5), st.integers(1, 6)).filter(lambda w: w[0] < w[1])
)
def test_a_window_under_any_recorder_replays_the_states_of_the_whole_run_bitwise(recorder, window):
    whole, part = whole_run(), record(WORKLOAD, recorder, window=window)
    assert (part.first, part.last) == window
    for t in range(window[0], window[1] + 1):
        a, b = whole.state(t), part.state(t)
        assert torch.equal(a.theta, b.theta) and all(torch.equal(a.slots[k], b.slots[k]) for k in a.slots)
    for t in (window[0] - 1, window[1] + 1):
        with pytest.raises(InputError, match="the trajectory holds"):
            part.state(t)


@pytest.mark.parametrize("recorder", ["full", "every-k:k=4"])
def test_a_store_on_disk_opens_again_bitwise(tmp_path, recorder):
    memory = record(WORKLOAD, recorder)
    record(WORKLOAD, recorder, store=tmp_path / "run.zarr")
    again = open(tmp_path / "run.zarr", WORKLOAD)
    for t in range(7):
        a, b = memory.state(t), again.state(t)
        assert torch.equal(a.theta, b.theta) and all(torch.equal(a.slots[k], b.slots[k]) for k in a.slots)
    query, dit = make("query", "test-loss"), make("estimator", "dit")
    window = [influencekit.Window(0, 6)]
    assert torch.equal(dit.scores(memory, query, window), dit.scores(again, query, window))


def test_plain_xarray_opens_it_with_named_dimensions(tmp_path):
    trajectory = record(WORKLOAD, "every-k:k=4", store=tmp_path / "run.zarr")
    ds = xr.open_zarr(tmp_path / "run.zarr")
    assert {name: variable.dims for name, variable in ds.variables.items()} == {
        "theta": ("kept", "param"), "exp_avg": ("kept", "param"), "exp_avg_sq": ("kept", "param"),
        "kept": ("kept",), "batch": ("step", "slot"), "loss": ("step", "slot"), "lr": ("step", "group"),
        "epoch": ("step",), "step": ("step",), "train": ("train",),
    }  # fmt: skip
    assert ds.kept.values.tolist() == [0, 4, 6]
    assert ds.train.values.tolist() == list(WORKLOAD.train_ids)
    assert (ds.batch.values == WORKLOAD.plan.indices.numpy()).all()
    assert (ds.lr.values == WORKLOAD.plan.lr.numpy()).all() and ds.epoch.values.tolist() == [0, 0, 1, 1, 2, 2]
    assert ds.theta.sel(kept=6).values.tobytes() == trajectory.final.theta.numpy().tobytes()
    assert ds.identical(trajectory.dataset) or ds.equals(trajectory.dataset)


def test_losses_are_those_of_the_batches_before_each_update(tmp_path):
    trajectory = record(WORKLOAD)
    loss = trajectory.dataset.loss.values
    for t in range(6):
        rows = WORKLOAD.plan.batch(t)
        all_losses = WORKLOAD.losses(trajectory.state(t).theta, WORKLOAD.train)
        np.testing.assert_allclose(loss[t, : len(rows)], all_losses[rows].numpy(), rtol=1e-6)
        assert np.isnan(loss[t, len(rows) :]).all()


def test_the_attributes_say_what_was_run(tmp_path):
    record(WORKLOAD, "every-k:k=4", store=tmp_path / "run.zarr")
    attrs = xr.open_zarr(tmp_path / "run.zarr").attrs
    assert attrs["influencekit_schema"] == SCHEMA and attrs["status"] == "complete"
    assert attrs["committed"] == 6 and attrs["start"] == 0
    assert attrs["recorder"] == "every-k:k=4" and attrs["workload"] == "tiny" and attrs["seed"] == 0
    assert attrs["optimizer"] == repr(WORKLOAD.optimizer) and attrs["schedule"] == "InverseSqrt()"
    assert attrs["influencekit_version"] == influencekit.__version__
    assert attrs["torch_version"] == torch.__version__ and attrs["created"].endswith("+00:00")
    assert 0 <= attrs["accuracy"] <= 1


@pytest.mark.parametrize("ids", [list("abcdefgh"), [f"img/{k}é" for k in range(8)], list(range(8))[::-1]])
def test_example_ids_of_any_kind_come_back(tmp_path, ids):
    record(replace(WORKLOAD, train_ids=ids), store=tmp_path / "run.zarr")
    assert xr.open_zarr(tmp_path / "run.zarr").train.values.tolist() == ids


def test_arrays_are_compressed_and_checksummed(tmp_path):
    record(WORKLOAD, store=tmp_path / "run.zarr")
    group = zarr.open_group(tmp_path / "run.zarr", mode="r")
    assert group.metadata.zarr_format == 3
    for name in ("theta", "exp_avg", "loss", "batch"):
        codecs = [type(c).__name__ for c in group[name].metadata.codecs]
        assert "BloscCodec" in codecs and "Crc32cCodec" in codecs


# stores that are not what they should be ----------------------------------------------------------------


def test_a_diverging_run_stops_and_what_came_before_can_be_read(tmp_path):
    wild = tiny_workload(SGD(lr=1e200), batches="tensor")
    path = tmp_path / "run.zarr"
    with pytest.raises(
        DivergedError, match=r"NaN or infinite at step \d+; lower the learning rate; states 0 to"
    ):
        record(wild, store=path)
    stopped = open(path, wild)
    assert stopped.attrs["status"] == "stopped" and "step" in stopped.attrs["reason"]
    assert 0 < stopped.last < 6 and all(
        stopped.state(t).theta.isfinite().all() for t in range(stopped.last + 1)
    )
    with pytest.raises(InputError, match="the trajectory holds 0 to"):
        _ = stopped.final


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 0, "order": None, "batch_size": 4}, "order of batches"),
        ({"optimizer": Adam(lr=0.051)}, "learning rates, optimizer"),
        ({"l2": 0.06}, "l2"),
        ({"train": (WORKLOAD.train[0] + 1e-4, WORKLOAD.train[1])}, "training data"),
        ({"model": tiny_workload(seed=1, dtype=torch.float32).model}, "initial parameters"),
        ({"model": tiny_workload(classes=3, dtype=torch.float32).model}, "parameters"),
    ],
)
def test_another_workloads_store_is_refused_and_what_differs_is_named(tmp_path, change, named):
    record(WORKLOAD, store=tmp_path / "run.zarr")
    with pytest.raises(StoreError, match=f"is not a run of this workload: .*{named}.* differ"):
        open(tmp_path / "run.zarr", replace(WORKLOAD, **change))


def test_other_layers_or_another_loss_between_the_same_parameters_are_refused(tmp_path):
    workload = tiny_workload()
    record(workload, store=tmp_path / "run.zarr")

    def bent(output, target):
        return workload.loss(2 * output, target)

    with pytest.raises(StoreError, match="mean loss of step 0 is .* in the store"):
        open(tmp_path / "run.zarr", replace(workload, loss=bent))
    assert open(tmp_path / "run.zarr", workload).last == workload.plan.steps


def test_an_existing_path_is_left_alone(tmp_path):
    (tmp_path / "run.zarr").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        record(WORKLOAD, store=tmp_path / "run.zarr")
    assert (tmp_path / "run.zarr").read_text() == "mine"


def test_an_interrupted_recording_keeps_what_it_had(tmp_path, monkeypatch):
    def interrupt(self, state):
        if state.step == 3:
            raise KeyboardInterrupt
        return original(self, state)

    whole, original = whole_run(), influencekit._training.step.Step.advance
    monkeypatch.setattr(influencekit._training.step.Step, "advance", interrupt)
    with pytest.raises(KeyboardInterrupt):
        record(WORKLOAD, store=tmp_path / "run.zarr")
    part = open(tmp_path / "run.zarr", WORKLOAD)
    assert part.attrs["status"] == "recording" and (part.first, part.last) == (0, 3)
    assert all(torch.equal(part.state(t).theta, whole.state(t).theta) for t in range(4))
    with pytest.raises(InputError, match="the trajectory holds 0 to 3"):
        _ = part.final


def test_chunks_stay_near_their_size_whatever_the_model(monkeypatch):
    monkeypatch.setattr(ledger, "_BLOCK", 3 * 16 * 4)  # room for three states
    trajectory = record(WORKLOAD)
    assert trajectory.group["theta"].chunks == (3, 16)
    assert len({tuple(trajectory.state(t).theta.tolist()) for t in range(7)}) == 7
    assert math.prod(trajectory.group["theta"].shape) == 7 * 16


def test_a_relative_path_keeps_its_meaning_when_the_working_folder_changes(tmp_path, monkeypatch):
    """And errors say the path as it was given."""
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    work = influencekit.make("workload", "mnist-1v7-lr:n_train=24:epochs=2")
    influencekit.record(work, store="run.zarr")
    run = influencekit.open("run.zarr", work)
    monkeypatch.chdir("sub")
    assert influencekit.verify(run).gap == 0 and influencekit.estimate(run).influence.shape == (1, 1, 24)
    assert run.dataset.loss.notnull().any()
    (tmp_path / "run.zarr/loss/c/0/0").unlink()
    with pytest.raises(influencekit.StoreError, match="^run.zarr: chunk loss/c/0/0"):
        influencekit.verify(run)


@pytest.mark.parametrize("kept", [True, False])
def test_a_run_is_not_pickled_and_can_be_copied(tmp_path, kept):
    work = make("workload", "mnist-1v7-lr:n_train=24:epochs=2")
    run = record(work, store=tmp_path / "run.zarr" if kept else None)
    with pytest.raises(InputError, match="^a run cannot be pickled: pass its store's path, and call ik.open"):
        pickle.dumps(run)
    for other in (copy.copy(run), copy.deepcopy(run)):
        assert other is not run and torch.equal(other.final.theta, run.final.theta)
