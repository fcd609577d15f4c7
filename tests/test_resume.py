"""A recording that was killed or interrupted is continued; it ends as the one that was not."""

from dataclasses import replace

import pytest
import torch
from helpers_stores import changed
from helpers_writing import contents, same

import influencekit._training.step
from influencekit import Adam, InputError, StoreError, open, record
from influencekit._trajectory.store import open_group
from influencekit._trajectory.writing import ledger
from influencekit.testing import tiny_workload

WORKLOAD = tiny_workload(Adam(lr=0.05), dtype=torch.float32)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of four rows, so that every run crosses their borders."""
    monkeypatch.setattr(ledger, "_ROWS", 4)


def interrupt_at(monkeypatch, step: int, error: type[BaseException] = KeyboardInterrupt) -> None:
    original = influencekit._training.step.Step.advance

    def advance(self, state):
        if state.step == step:
            monkeypatch.setattr(influencekit._training.step.Step, "advance", original)
            raise error
        return original(self, state)

    monkeypatch.setattr(influencekit._training.step.Step, "advance", advance)


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
    assert all(each.pop(of_its_time) for each in (a, b) for of_its_time in ("created", "digest")) and a == b


def test_a_recording_that_is_open_elsewhere_is_a_dataset_of_what_is_committed(tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        record(WORKLOAD, "every-k:k=3", tmp_path / "run.zarr")
    trajectory = open(tmp_path / "run.zarr", WORKLOAD)
    assert trajectory.stored_states == trajectory.dataset.kept.values.tolist() == [0, 3]
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
    original = influencekit._training.step.Step.advance
    with monkeypatch.context() as patch:
        shift = lambda self, s: (original(self, s)[0], original(self, s)[1] + (s.step >= 3))  # noqa: E731
        patch.setattr(influencekit._training.step.Step, "advance", shift)
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
    changed(tmp_path / "run.zarr", resume=None)
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
