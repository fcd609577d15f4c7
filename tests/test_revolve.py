"""The binomial schedule: as few steps as any schedule takes, and never more states than it is allowed."""

import weakref
from dataclasses import replace
from functools import cache

import helpers_writing
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import influencekit as ik
from influencekit._training.state import State
from influencekit._training.step import Step
from influencekit._trajectory import binomial_schedule as checkpoints
from influencekit._trajectory.binomial_schedule import backwards, binomial_schedule, evaluations
from influencekit._trajectory.trajectory import Trajectory
from influencekit.recorders import Revolve
from influencekit.testing.oracle import tiny_workload

lengths, slots = st.integers(1, 200), st.integers(1, 10)


@cache
def cheapest(length: int, slots: int) -> float:
    """Steps of the best of all schedules, by trying each place for the next state to be held."""
    if length == 1:
        return 0
    if slots == 0:
        return float("inf")
    return min(k + cheapest(length - k, slots - 1) + cheapest(k, slots) for k in range(1, length))


@cache
def cheapest_recorded(steps: int, states: int) -> float:
    """The same of a sweep over a recorded run, whose last state is one of `states` and in hand at first."""
    if steps == 0:
        return 0
    if states == 1:
        return float("inf")
    return min(cheapest(k, states) + cheapest_recorded(steps - k, states - 1) for k in range(1, steps + 1))


class Counted:
    """A state that is a number; the class knows how many are alive."""

    alive = 0

    def __init__(self, number: int) -> None:
        self.number = number
        Counted.alive += 1

    def __del__(self) -> None:
        Counted.alive -= 1


def went_back(length: int, slots: int) -> tuple[list[int], int, int]:
    """The numbers in the order they came, the steps, the most states at once (one of them in hand)."""
    Counted.alive, steps, alive, found = 0, 0, [1], []

    def advance(state: Counted) -> Counted:
        nonlocal steps
        steps += 1
        alive.append(Counted.alive)
        return Counted(state.number + 1)

    lists = backwards(Counted(0), length, slots, advance)
    while (block := next(lists, None)) is not None:
        alive.append(Counted.alive)
        found += [state.number for state in reversed(block)]
        del block
    assert Counted.alive == 0
    return found, steps, max(alive)


@settings(max_examples=60, deadline=None)
@given(length=lengths, slots=slots)
def test_every_state_comes_once_last_first_in_the_fewest_steps_and_places(length, slots):
    found, steps, most = went_back(length, slots)
    assert found == list(range(length))[::-1]
    assert steps == evaluations(length, slots) == cheapest(length, slots)
    assert most <= slots + 1  # and one in hand


@settings(max_examples=60, deadline=None)
@given(steps=lengths, states=st.integers(2, 10))
def test_the_kept_states_are_those_of_a_sweep_that_no_choice_makes_cheaper(steps, states):
    kept = binomial_schedule(steps, states)
    assert kept == sorted(set(kept)) and kept[0] == 0 and kept[-1] == steps and len(kept) <= states
    cost = sum(evaluations(b - a, states - i) for i, (a, b) in enumerate(zip(kept, kept[1:], strict=False)))
    assert cost == cheapest_recorded(steps, states)


def test_the_formula_of_griewank_and_walther_for_long_runs():
    """Their closed form: at most r times every step, and a run of B(s, r) states uses all of it."""
    assert [checkpoints.reach(3, r) for r in range(4)] == [1, 4, 10, 20]
    assert evaluations(checkpoints.reach(64, 2), 64) == 2 * 2145 - 66
    kept = binomial_schedule(20_000, 64)
    cost = sum(evaluations(b - a, 64 - i) for i, (a, b) in enumerate(zip(kept, kept[1:], strict=False)))
    assert len(kept) == 64 and cost == 37_795
    limit = checkpoints.reach(64, 3) - 4  # as the recorder's docstring says
    for steps, times in ((limit, 2), (limit + 1, 3)):
        kept = binomial_schedule(steps, 64)
        stretches = enumerate(zip(kept, kept[1:], strict=False))
        assert max(checkpoints._times(b - a, 64 - i) for i, (a, b) in stretches) == times


# on a run -----------------------------------------------------------------------------------------------


@cache
def full() -> ik.Trajectory:
    workload = tiny_workload(ik.Adam(lr=0.05))
    return ik.record(replace(workload, order=workload.plan.indices.repeat(8, 1)))


@settings(max_examples=8, deadline=None)
@given(states=st.integers(2, 12), begin=st.integers(0, 40), room=st.sampled_from([1, 3, 128]))
def test_a_sweep_holds_no_more_states_and_does_no_more_steps_than_it_must(states, begin, room):
    """Every state that the step makes is counted while its tensor is alive, and the stored ones to come."""
    run = Trajectory(
        ik.record(full().workload, Revolve(states), step=full().step).group, full().workload, full().step
    )
    before = max(t for t in run.stored_states if t <= begin)  # needed until state `begin` is made from it
    made: list[tuple[int, weakref.ref]] = []
    at, held = run.steps, [len(run.stored_states)]

    def count() -> None:
        waiting = sum(begin <= t < at for t in run.stored_states)
        waiting += before < begin and begin not in [t for t, _ in made]
        held.append(waiting + sum(ref() is not None for _, ref in made))

    def advance(self, state):
        count()
        new, losses = original(self, state)
        made.append((new.step, weakref.ref(new.theta)))
        return new, losses

    original = Step.advance
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "advance", advance)
        patch.setattr("influencekit._trajectory.blocks._BLOCK", room * 3 * run.workload.theta0.nbytes)
        blocks = run.blocks(begin, run.steps)
        while (block := next(blocks, None)) is not None:
            assert [s.step for s in block] == list(range(at - len(block), at))
            assert all(same(s, full().state(s.step)) for s in block)
            count()
            at = block[0].step
            del block
    assert at == begin and max(held) <= states + 1  # one is in hand
    if begin == 0:
        assert len(made) == cheapest_recorded(run.steps, states)


def same(a: State, b: State) -> bool:
    return torch.equal(a.theta, b.theta) and all(torch.equal(a.slots[n], b.slots[n]) for n in b.slots)


@pytest.mark.parametrize("states", [2, 3, 7, 64])
@pytest.mark.parametrize("window", [None, (5, 40)])
def test_scores_are_those_of_full(states, window):
    """Any states, whole runs and windows of one; lists of other lengths add up in another order, no more."""
    removal = "global" if window is None else "window"
    windows = [ik.Window(*(window or (0, 48)), removal)]
    run = ik.record(full().workload, Revolve(states), window=window)
    assert (run.first, run.last) == (window or (0, 48)) and len(run.stored_states) <= states
    found, expected = (ik.estimate(each, windows=windows).influence.values for each in (run, full()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * abs(expected).max())


class InTheSameLists(Trajectory):
    """A run whose sweep gets the lists of states that another's gets."""

    other: Trajectory

    def blocks(self, start, stop, what="sweep"):
        for block in self.other.blocks(start, stop, what):
            yield self._states(block[0].step, block[0].step + len(block))


@pytest.mark.parametrize("states", [2, 7])
def test_scores_of_the_same_lists_of_states_are_the_same_bits(states):
    """Kernels and sums round as states are grouped; nothing else differs between `revolve` and `full`."""
    lists = InTheSameLists(full().group, full().workload, full().step)
    lists.other = ik.record(full().workload, Revolve(states), step=full().step)
    found, expected = (ik.estimate(each).influence.values for each in (lists.other, lists))
    assert (found == expected).all()


def test_a_cut_off_run_is_continued_and_swept_as_far_as_it_went(tmp_path, monkeypatch):
    path, workload = tmp_path / "run.zarr", full().workload
    original = Step.advance

    def advance(self, state):
        if state.step == 30:
            raise KeyboardInterrupt
        return original(self, state)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Step, "advance", advance)
        ik.record(workload, "revolve:states=5", path)
    part = ik.open(path, workload)
    assert part.last == 30 and part.stored_states == [t for t in binomial_schedule(48, 5) if t <= 30]
    states = [s for block in part.blocks(0, 30) for s in reversed(block)]
    assert [s.step for s in states] == list(range(30))[::-1]
    assert all(same(s, full().state(s.step)) for s in states)
    ik.record(workload, store=path, resume=True)
    ik.record(workload, "revolve:states=5", tmp_path / "whole.zarr")
    helpers_writing.same(path, helpers_writing.contents(tmp_path / "whole.zarr"))


def test_what_revolve_refuses():
    with pytest.raises(ik.InputError, match="states must be at least 2"):
        ik.make("recorder", "revolve:states=1")
    model = torch.nn.Linear(3, 1)
    data = torch.utils.data.TensorDataset(torch.randn(8, 3), torch.randn(8, 1))
    for spec, why in (("revolve", "must know the length of the run"), ("rounded", "not lossless")):
        tape = ik.Tape(
            None, model, torch.optim.SGD(model.parameters(), lr=0.1), data=data, recorder=spec,
            loss=lambda out, y: (out - y).square().mean(1),
        )  # fmt: skip
        with pytest.raises(ik.InputError, match=f"{why}.*use every-k:k=50"):
            tape.open()
