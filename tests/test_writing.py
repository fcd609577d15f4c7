"""A store that is being written holds what was committed, whoever looks and whenever its writer dies."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers_writing import STEPS, about_a_run, begin, contents, go_on, never_killed, same, whole_and_true
from hypothesis import given, settings
from hypothesis import strategies as st

from influencekit import InputError, StoreError
from influencekit._files import Folder
from influencekit._trajectory.store import open_group, read
from influencekit._trajectory.writing import COLUMNS, Writer, ledger, writer
from influencekit._trajectory.writing.background import Background


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of four rows, so that every run crosses their borders."""
    monkeypatch.setattr(ledger, "_ROWS", 4)


def test_dying_in_the_middle_of_any_file_loses_nothing_that_was_committed(tmp_path):
    """The process ends half-way through its n-th file, for every fifth n; then the run is continued."""
    before_there_was_a_store, number = 0, 0
    while True:
        number += 5
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
    assert before_there_was_a_store > 0 and number > 100


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


@settings(max_examples=15)
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


def test_whoever_reads_while_it_is_written_sees_one_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SECONDS", 0.0)
    writing = begin(tmp_path / "run.zarr")
    seen: list[int] = []

    def write():  # a step while the store is being read, then the next
        for t in range(STEPS):
            go_on(writing, t + 1, commits=set())
            deadline = time.monotonic() + 30
            while len(seen) <= t and time.monotonic() < deadline:
                time.sleep(0.001)
        writing.close()

    thread = threading.Thread(target=write)
    thread.start()
    while thread.is_alive():
        reported, plain = writing.committed, xr.open_zarr(tmp_path / "run.zarr")
        seen.append(plain.attrs["committed"])
        assert seen[-1] >= reported
        for name, values in plain.load().variables.items():
            whole = never_killed()[name]
            assert values.values.tobytes() == whole[tuple(slice(n) for n in values.shape)].tobytes(), name
            assert values.dims[0] != "step" or len(values) == seen[-1]
    thread.join()
    assert seen == sorted(seen) and len(set(seen)) > 1
    assert whole_and_true(tmp_path / "run.zarr", STEPS) == STEPS


def test_much_is_committed_early_and_a_slow_disk_is_waited_for(tmp_path, monkeypatch):
    """More than BYTES starts a commit; never more than _MEMORY bytes are ahead of the disk."""
    monkeypatch.setattr(writer, "SECONDS", 1e9)
    monkeypatch.setattr(writer, "BYTES", 5_000)
    monkeypatch.setattr(writer, "_MEMORY", 20_000)
    gate, ahead = threading.Event(), []
    commit = ledger.Ledger.commit

    def slow(self, **attrs):
        if writing:
            gate.wait(30)
        return commit(self, **attrs)

    writing: list[Writer] = []
    monkeypatch.setattr(ledger.Ledger, "commit", slow)
    writing.append(Writer.create(tmp_path / "run.zarr", size=250, dtype="float32", attrs=about_a_run(250)))

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
    columns = {"loss": COLUMNS["loss"]}
    path = tmp_path / "run.zarr"
    writing = Writer.create(path, size=2, dtype="float32", columns=columns, attrs=about_a_run(2))
    for _ in range(5):
        writing.step({"loss": [0.5]})
    writing.flush()
    assert writing.committed == open_group(path).attrs["committed"] == 0
    writing.state(5, {"theta": np.zeros(2, "f4")})
    writing.flush()
    assert writing.committed == open_group(path).attrs["committed"] == 5
    writing.leave()


def test_what_goes_wrong_in_the_thread_is_told_at_the_next_call(tmp_path, monkeypatch):
    writing = begin(tmp_path / "run.zarr")
    go_on(writing, 4)
    writing.flush()

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Folder, "put", refuse)
    go_on(writing, 6, commits=set())
    for call in (writing.flush, lambda: writing.rows("rng", np.zeros((1, 6), "u1")), writing.close):
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
    with pytest.raises(StoreError, match="row 6 of 'rng' differs"):
        resumed.rows("rng", np.full((1, 6), 7, "u1"))
    with pytest.raises(StoreError, match="has 5 steps, and the resumed run ended after 4"):
        resumed.close()


def test_who_hands_over_more_than_there_is_room_for_waits_for_the_work_and_not_for_the_clock():
    done: list[list[str]] = []
    thread = Background(done.append, lambda error: None, seconds=600, size=1000, room=10)
    began = time.monotonic()
    for thing, size in (("a", 1), ("b", 100), ("c", 100)):
        thread.give(thing, size)
    assert thread.end() + [x for group in done for x in group] == ["c", "a", "b"]
    assert time.monotonic() - began < 60
