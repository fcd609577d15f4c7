"""A replay is what was recorded, or the difference is named; stretches are replayed in any memory."""

import pytest
import torch
import zarr
from helpers_stores import sealed
from hypothesis import given, settings
from hypothesis import strategies as st

import influencekit as ik
from influencekit._trajectory import blocks as sizes
from influencekit._verbs.verify import NearReplay, verify
from influencekit.testing.oracle import tiny_workload


@pytest.fixture(scope="module")
def workload():
    return tiny_workload(optimizer=ik.Adam(lr=0.05))


def altered(path, name, row, by):
    """One number of one kept state changed behind the library's back, its checksums written anew."""
    array = zarr.open_group(path, mode="r+")[name]
    values = array[row]
    values[5] += by
    array[row] = values
    sealed(path)


@pytest.mark.parametrize("recorder", ["full", "every-k:k=3"])
def test_a_recorded_run_replays_bit_for_bit(workload, recorder):
    run = ik.record(workload, recorder)
    found = verify(run)
    assert found[:2] == (run.steps, 0.0) and "bit for bit" in str(found)
    assert f"losses of {run.steps} steps; ids, batches, learning rates, epochs" in found.compared
    assert verify(run, spans=1).steps == run.stored_states[1] - run.stored_states[0]
    assert verify(run, spans=0).steps == 0


@pytest.mark.parametrize("name", ["theta", "exp_avg"])
def test_a_changed_number_is_found_by_the_name_of_its_parameter(workload, tmp_path, name):
    path = tmp_path / "run.zarr"
    ik.record(workload, "every-k:k=2", store=path)
    altered(path, name, 2, 0.25)
    with pytest.raises(ik.StoreError) as refused:
        verify(ik.open(path, workload))
    line = str(refused.value)
    names = workload.layout.names
    assert "steps 2 to 3" in line and any(n in line for n in names) and "differs by up to 2.5e-01" in line
    assert (f"{name} of parameter" in line) == (name != "theta") and "\n" not in line


def test_a_replay_that_goes_astray_says_until_when_losses_agree(workload, tmp_path):
    """A loop that trained differently from some step on: its recorded losses tell from which."""
    path = tmp_path / "run.zarr"
    run = ik.record(workload, f"every-k:k={workload.plan.steps}", store=path)
    loss = zarr.open_group(path, mode="r+")["loss"]
    values = loss[:]
    values[3:] += 1.0
    loss[:] = values
    altered(path, "theta", len(run.stored_states) - 1, 0.5)
    with pytest.raises(ik.StoreError, match="losses agree until step 2"):
        verify(ik.open(path, workload))


@settings(max_examples=15, deadline=None)
@given(k=st.integers(1, 12), read=st.integers(1, 5), held=st.integers(2, 5), start=st.integers(0, 3))
def test_blocks_hold_every_state_once_last_first_in_any_memory(k, read, held, start):
    workload = tiny_workload()
    run, full = ik.record(workload, f"every-k:k={k}"), ik.record(workload)
    each = workload.theta0.nbytes * (1 + len(workload.optimizer.slots))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizes, "_BLOCK", read * each)
        patch.setattr(sizes, "_HELD", held * each)
        blocks = list(run.blocks(start, run.steps))
    states = [state for block in blocks for state in reversed(block)]
    assert [s.step for s in states] == list(range(run.steps - 1, start - 1, -1))
    assert all(len(block) <= max(read, held) for block in blocks)
    assert all(torch.equal(s.theta, full.state(s.step).theta) for s in states)


def test_a_step_that_differs_says_both_numbers_of_threads(workload, tmp_path):
    path = tmp_path / "run.zarr"
    ik.record(workload, "every-k:k=2", store=path)
    altered(path, "theta", 2, 0.25)
    for recorded, said in ((7, "7 threads"), (None, "a number of threads that is not known")):
        run = ik.open(path, workload)
        assert run.attrs["threads"] == 1
        run.attrs = {name: value for name, value in run.attrs.items() if name != "threads"}
        run.attrs |= {} if recorded is None else {"threads": recorded}
        with pytest.raises(ik.StoreError, match=f"and {said}; here with torch .* and 1 thread$"):
            verify(run)


def test_what_trains_nothing_again_does_not_say_bit_for_bit(workload):
    said = "no step was trained again, so nothing is known of the replay"
    assert str(verify(ik.record(workload), spans=0)).startswith(f"{said}; compared: ")
    assert str(NearReplay(0, 0.0, "smooth:epsilon=1e-8")) == said
