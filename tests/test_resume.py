"""A killed recording, at any moment, holds what it said; continued, it is the one that was not killed."""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import influencekit.step
from influencekit import Adam, InputError, StoreError, open, record
from influencekit.store import chunks, open_group, read
from influencekit.testing import tiny_workload
from influencekit.writing import COLUMNS, Column, Writer, ledger, writer
from influencekit.writing.files import Folder

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import kills  # noqa: E402

WORKLOAD = tiny_workload(Adam(lr=0.05), dtype=torch.float32)
STEPS = 9
COLUMNS_OF_A_RUN = {
    **{name: COLUMNS[name] for name in ("batch", "coefficient", "loss", "lr", "epoch")},
    "note": Column(("rng", "byte"), "u1"),
    "buffers": Column(("kept", "buffer"), "f8", np.nan),
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of four rows, so that every run crosses their borders."""
    monkeypatch.setattr(ledger, "_ROWS", 4)


# a run without a model: every kind of array, batches that get wider --------------------------------------


def begin(path: Path | None) -> Writer:
    return Writer.create(
        path, size=5, dtype="float32", slots=("m",), columns=COLUMNS_OF_A_RUN,
        fixed={"train": (("train",), np.arange(10))},
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
        first = writer.rows("note", draw.integers(0, 255, (1 + t % 2, 6)).astype("u1"))
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
    for name, key, _ in chunks(group):
        assert (path / name / key).exists()
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
        assert read(group, "epoch")[committed - 1] < len(read(group, "note"))
    return committed


def test_dying_in_the_middle_of_any_file_loses_nothing_that_was_committed(tmp_path):
    """The process ends half-way through its n-th file, for every third n; then the run is continued."""
    before_there_was_a_store, number = 0, 0
    while True:
        number += 3
        path = tmp_path / f"{number}.zarr"
        reported, died = dies_at_file(number, path)
        if not died:
            break
        if path.exists():
            whole_and_true(path, reported)
            resumed = Writer.resume(path)
        else:
            assert reported == 0
            before_there_was_a_store += 1
            resumed = begin(path)
        go_on(resumed, commits=set())
        resumed.close()
        same(path, never_killed())
        assert not list(tmp_path.rglob("*.partial"))
    assert before_there_was_a_store > 1 and number > 100


def dies_at_file(number: int, path: Path) -> tuple[int, bool]:
    """A child that writes the run and ends, without a word, half-way through file `number`."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            written = 0

            def put(self: Folder, key: str, data: object) -> None:
                nonlocal written
                written += 1
                if written == number:
                    half = bytes(data)[: len(bytes(data)) // 2]
                    target = self.root / key
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.with_name(target.name + ".partial").write_bytes(half)
                    os._exit(9)
                original(self, key, data)

            original, Folder.put = Folder.put, put
            commit = ledger.Ledger.commit

            def tell(self: ledger.Ledger, **attrs: object) -> int:
                done = commit(self, **attrs)
                os.write(into, f"{done}\n".encode())
                return done

            ledger.Ledger.commit = tell
            writing = begin(path)
            go_on(writing, commits={1, 6})
            writing.close()
            status = 0
        finally:
            os._exit(status)
    os.close(into)
    with os.fdopen(out) as pipe:
        said = [int(line) for line in pipe.read().splitlines()]
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 9)
    return max(said, default=0), os.waitstatus_to_exitcode(status) == 9


@settings(max_examples=30)
@given(
    cuts=st.lists(st.integers(0, STEPS), max_size=4).map(sorted),
    commits=st.sets(st.integers(0, STEPS)),
    every=st.integers(1, 4),
)
def test_cut_off_anywhere_and_continued_it_is_the_same_store(tmp_path_factory, cuts, commits, every):
    path = tmp_path_factory.mktemp("cut") / "run.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "_ROWS", 4)
        writing = begin(path)
        for cut in cuts:
            go_on(writing, max(cut, writing.steps), commits, every)
            committed = writing.committed
            writing.leave()
            writing = Writer.resume(path)
            assert writing.committed >= committed
            if writing.resumed is not None:
                assert writing.resumed.snapshot == {"t": writing.steps} and writing.steps <= writing.committed
        go_on(writing, commits=commits, every=every)
        writing.close()
        whole = begin(None)
        go_on(whole, every=every)
        whole.close()
    same(path, contents(whole.store))
    assert "resume" not in open_group(path).attrs


# real processes, killed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("recorder", "count"), [("full", 5), ("every-k:k=7", 5)])
def test_a_run_killed_at_random_moments_loses_no_committed_step_and_ends_as_if_it_had_not_been(
    tmp_path, recorder, count
):
    """SIGKILL after random times, some very short; see benchmarks/kills.py, which does this 200 times."""
    tally = kills.campaign("record", "mnist-1v7-lr:epochs=150", recorder, count, tmp_path, seed=count)
    assert tally.kills == count and tally.completed >= 1 and tally.lost_steps == 0 and not tally.faults
    assert any(tally.committed_when_killed)


def test_a_killed_process_lets_go_of_its_store_at_once_even_with_a_forked_worker(tmp_path):
    """Data loaders fork; a worker that outlives its parent must not keep the store from being resumed."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        begin(tmp_path / "run.zarr")
        worker = os.fork()
        if not worker:
            time.sleep(60)
            os._exit(0)
        os.write(into, f"{worker}\n".encode())
        time.sleep(60)
        os._exit(0)
    worker = int(os.read(out, 20))
    try:
        with pytest.raises(StoreError, match="is being written by another process"):
            Writer.resume(tmp_path / "run.zarr")
        assert open_group(tmp_path / "run.zarr").attrs["status"] == "recording"  # reading is free
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        Writer.resume(tmp_path / "run.zarr").leave()
    finally:
        os.kill(worker, signal.SIGKILL)


# commits ------------------------------------------------------------------------------------------------


def test_steps_are_committed_after_a_while_without_being_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SECONDS", 0.05)
    writing = begin(tmp_path / "run.zarr")
    go_on(writing, 3, commits=set())
    deadline = time.monotonic() + 30
    while writing.committed < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert whole_and_true(tmp_path / "run.zarr", 3) == 3
    writing.leave()


def test_much_is_committed_early_and_a_slow_disk_is_waited_for(tmp_path, monkeypatch):
    """More than BYTES starts a commit; never more than _ROOM bytes are ahead of the disk."""
    monkeypatch.setattr(writer, "SECONDS", 1e9)
    monkeypatch.setattr(writer, "BYTES", 5_000)
    monkeypatch.setattr(writer, "_ROOM", 20_000)
    gate, ahead = threading.Event(), []
    commit = ledger.Ledger.commit

    def slow(self, **attrs):
        if writing:
            gate.wait(30)
        return commit(self, **attrs)

    writing: list[Writer] = []
    monkeypatch.setattr(ledger.Ledger, "commit", slow)
    writing.append(Writer.create(tmp_path / "run.zarr", size=250, dtype="float32"))

    def hand_over():
        for t in range(60):
            writing[0].state(t, {"theta": np.full(250, t, "f4")})
            writing[0].step({})
            ahead.append(t)

    thread = threading.Thread(target=hand_over)
    thread.start()
    thread.join(1)
    assert thread.is_alive() and len(ahead) == 13  # steps of 1000 bytes, and 500 for what is around them
    gate.set()
    thread.join(30)
    assert not thread.is_alive()
    writing[0].close()
    assert read(open_group(tmp_path / "run.zarr"), "theta")[:, 0].tolist() == list(range(60))


def test_no_step_is_committed_before_a_state_from_which_it_can_be_replayed(tmp_path):
    writing = Writer.create(tmp_path / "run.zarr", size=2, dtype="float32", columns={"loss": COLUMNS["loss"]})
    for _ in range(5):
        writing.step({"loss": [0.5]})
    writing.flush()
    assert writing.committed == open_group(tmp_path / "run.zarr").attrs["committed"] == 0
    writing.state(5, {"theta": np.zeros(2, "f4")})
    writing.flush()
    assert writing.committed == open_group(tmp_path / "run.zarr").attrs["committed"] == 5
    writing.leave()


def test_what_goes_wrong_in_the_thread_is_told_at_the_next_call(tmp_path, monkeypatch):
    writing = begin(tmp_path / "run.zarr")
    go_on(writing, 4)
    writing.flush()

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Folder, "put", refuse)
    go_on(writing, 6, commits=set())
    for call in (writing.flush, lambda: writing.rows("note", np.zeros((1, 6), "u1")), writing.close):
        with pytest.raises(
            StoreError, match="^cannot write the trajectory to [^:]*: No space left on device; "
        ):
            call()
    assert whole_and_true(tmp_path / "run.zarr", 4) == writing.committed == 4
    monkeypatch.undo()
    resumed = Writer.resume(tmp_path / "run.zarr")  # it was let go of
    go_on(resumed)
    resumed.close()
    same(tmp_path / "run.zarr", never_killed())


def test_what_is_handed_over_must_be_complete():
    writing = begin(None)
    with pytest.raises(InputError, match="expected values of batch, .* with every step, got batch"):
        writing.step({"batch": [1]})
    with pytest.raises(InputError, match="expected values of buffers, m, theta with every kept"):
        writing.state(0, {"theta": np.zeros(5, "f4")})
    writing.leave()


def test_a_resumed_run_that_does_other_things_is_refused(tmp_path):
    writing = begin(tmp_path / "run.zarr")
    go_on(writing, 5)
    writing.close("recording")

    def again(**changes):
        resumed = Writer.resume(tmp_path / "run.zarr")
        assert resumed.steps == 4 and resumed.committed == 5
        draw = np.random.default_rng(4)
        for _ in range(3):
            draw.standard_normal(5 if _ < 2 else 2)
        draw.integers(0, 255, (1, 6))
        batch = draw.permutation(10)[:4]
        row = {"batch": batch, "coefficient": np.full(4, 0.25), "epoch": 6, "lr": [0.1, 0.2],
               "loss": draw.standard_normal(4).astype("f4")}  # fmt: skip
        try:
            resumed.step({**row, **{name: change(row[name]) for name, change in changes.items()}})
            if not changes:
                resumed.close()
        finally:
            resumed.leave()

    for changes, named in (
        ({"batch": lambda x: x[::-1]}, "'batch' of step 4"),
        ({"batch": lambda x: [*x, 0, 1, 2]}, "'batch' of step 4"),
        ({"loss": lambda x: x + 1}, "'loss' of step 4"),
        ({"epoch": lambda x: x + 1}, "'epoch' of step 4"),
    ):
        with pytest.raises(StoreError, match=f"{named} differs between the recording and the resumed run"):
            again(**changes)
    again(loss=lambda x: x * (1 + 1e-6))  # the rounding of another machine
    resumed = Writer.resume(tmp_path / "run.zarr")
    with pytest.raises(StoreError, match="row 6 of 'note' differs"):
        resumed.rows("note", np.full((1, 6), 7, "u1"))
    with pytest.raises(StoreError, match="has 5 steps, and the resumed run ended after 4"):
        resumed.close()


# recorded runs ------------------------------------------------------------------------------------------


def interrupt_at(monkeypatch, step: int, error: type[BaseException] = KeyboardInterrupt) -> None:
    original = influencekit.step.Step.advance

    def advance(self, state):
        if state.step == step:
            monkeypatch.setattr(influencekit.step.Step, "advance", original)
            raise error
        return original(self, state)

    monkeypatch.setattr(influencekit.step.Step, "advance", advance)


@pytest.mark.parametrize("window", [None, (2, 5)])
@pytest.mark.parametrize("recorder", ["full", "every-k:k=4"])
@pytest.mark.parametrize(("step", "error"), [(0, RuntimeError), (1, KeyboardInterrupt), (4, SystemExit)])
def test_an_interrupted_recording_is_continued_to_the_same_bits(
    tmp_path, monkeypatch, window, recorder, step, error
):
    path = tmp_path / "run.zarr"
    interrupt_at(monkeypatch, step, error)
    with pytest.raises(error):
        record(WORKLOAD, recorder, path, window)
    begun = window is None or step >= window[0]
    assert open_group(path).attrs["committed"] == (step if begun else 0)
    if begun:
        assert open(path, WORKLOAD).last == step
    else:
        with pytest.raises(StoreError, match="holds no state yet"):
            open(path, WORKLOAD)
    continued = record(WORKLOAD, store=path, resume=True)
    whole = record(WORKLOAD, recorder, tmp_path / "whole.zarr", window)
    same(path, contents(tmp_path / "whole.zarr"))
    a, b = dict(continued.attrs), dict(whole.attrs)
    assert a.pop("created") and b.pop("created") and a == b


def test_a_recording_that_is_open_elsewhere_is_a_dataset_of_what_is_committed(tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        record(WORKLOAD, "every-k:k=3", tmp_path / "run.zarr")
    trajectory = open(tmp_path / "run.zarr", WORKLOAD)
    assert trajectory.kept == trajectory.dataset.kept.values.tolist() == [0, 3]
    assert trajectory.dataset.theta.shape[0] == 2 and trajectory.last == 4


def test_a_refused_continuation_lets_go_of_the_store(tmp_path, monkeypatch):
    """Another loss with the same parameters; a machine that computes otherwise: found in steps done again."""
    interrupt_at(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        record(WORKLOAD, "every-k:k=3", tmp_path / "run.zarr")
    double = replace(WORKLOAD, loss=lambda out, y: 2 * WORKLOAD.loss(out, y))
    for _ in range(2):
        with pytest.raises(StoreError, match="not a run of this workload: the mean loss of step 0"):
            record(double, store=tmp_path / "run.zarr", resume=True)
    original = influencekit.step.Step.advance
    with monkeypatch.context() as patch:
        shift = lambda self, s: (original(self, s)[0], original(self, s)[1] + (s.step >= 3))  # noqa: E731
        patch.setattr(influencekit.step.Step, "advance", shift)
        with pytest.raises(StoreError, match="'loss' of step 3 differs between the recording and the resu"):
            record(WORKLOAD, store=tmp_path / "run.zarr", resume=True)
    assert record(WORKLOAD, store=tmp_path / "run.zarr", resume=True).last == 6


def test_resuming_where_nothing_is_begins(tmp_path):
    record(WORKLOAD, store=tmp_path / "run.zarr", resume=True)
    record(WORKLOAD, store=tmp_path / "whole.zarr")
    same(tmp_path / "run.zarr", contents(tmp_path / "whole.zarr"))


def test_what_cannot_be_resumed_is_refused_and_left_as_it_is(tmp_path, monkeypatch):
    path = tmp_path / "run.zarr"
    interrupt_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        record(WORKLOAD, "every-k:k=2", path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    other = tiny_workload(Adam(lr=0.06), dtype=torch.float32)
    for arguments, words in (
        ({"workload": other}, "not a run of this workload: .*optimizer"),
        ({"recorder": "full"}, "recorded by every-k:k=2 over steps 0 to 6, not by full"),
        ({"window": (0, 4)}, "over steps 0 to 6, not by every-k:k=2 over 0 to 4"),
    ):
        with pytest.raises(StoreError, match=words) as error:
            record(**{"workload": WORKLOAD, "store": path, "resume": True, **arguments})
        assert "\n" not in str(error.value)
    assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    record(WORKLOAD, "every-k:k=2", path, resume=True)
    with pytest.raises(StoreError, match="is complete: there is nothing to resume"):
        record(WORKLOAD, store=path, resume=True)
    with pytest.raises(InputError, match="expected the path of a store"):
        record(WORKLOAD, resume=True)
    foreign = tmp_path / "foreign.zarr"
    foreign.mkdir()
    with pytest.raises(StoreError, match="not a zarr group"):
        record(WORKLOAD, store=foreign, resume=True)


def test_a_store_that_does_not_say_how_to_resume_it_is_refused(tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        record(WORKLOAD, store=tmp_path / "run.zarr")
    file = tmp_path / "run.zarr" / "zarr.json"
    content = json.loads(file.read_text())
    del content["attributes"]["resume"]
    file.write_text(json.dumps(content))
    with pytest.raises(StoreError, match="does not say how to resume it; record again"):
        record(WORKLOAD, store=tmp_path / "run.zarr", resume=True)


def test_a_corrupted_chunk_is_named_when_resuming(tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        record(WORKLOAD, store=tmp_path / "run.zarr")
    chunk = tmp_path / "run.zarr" / "theta" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-5])
    with pytest.raises(StoreError, match=r"chunk theta/c/0/0 .* is corrupted"):
        record(WORKLOAD, store=tmp_path / "run.zarr", resume=True)
