"""What changes late in a run is caught: by the tape, or at the latest when the run is used."""

import sys
from pathlib import Path

import pytest
import torch
from helpers_stores import sealed
from helpers_tape import Examples, held_out, network, per_example, untraced
from helpers_tape_caught import MEAN, Loop, caught, once
from torch import nn

import influencekit as ik
from influencekit._tape import spot_check
from influencekit._trajectory import replay_check
from influencekit.errors import StoreError

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks is not installed
from benchmarks.late_changes import KINDS, Run  # noqa: E402

LONG = 16  # epochs of three steps


def unchecked(mischief, recorder="every-k:k=5", epochs=LONG, **options):
    """A run of 48 steps that no check looks at; opened with the parts that the loop had at its begin."""
    loop = Loop(mischief, check=0.0, recorder=recorder, **options)
    tape = loop.run(epochs=epochs)
    return tape.trajectory(test=held_out())


def other_loss(since):
    """Another loss from a step on."""

    def mischief(event, loop):
        if event == "begin" and loop.step >= since:
            loop.value = lambda out, y: -0.5 * MEAN(out, y)

    return mischief


def gradient_of_one_step(step):
    return once("backward", lambda loop: loop.model[0].bias.grad.add_(0.1), step)


# the sweep ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recorder, since",
    [
        ("every-k:k=1", 44),
        ("every-k:k=1", 47),
        ("every-k:k=5", 44),
        ("every-k:k=7", 47),
        ("every-k:k=100", 44),
    ],
)
def test_a_sweep_compares_with_every_state_that_it_finds(recorder, since):
    run = unchecked(other_loss(since), recorder)
    with pytest.raises(
        StoreError, match=r"steps? \d+.*, trained again, (is|are) not what was recorded"
    ) as info:
        ik.estimate(run)
    text = str(info.value)
    assert "parameter" in text and "the loss, a setting of the model" in text and len(text) < 420
    start = max(t for t in run.stored_states if t <= since)
    assert recorder == "every-k:k=1" or f"steps {start} to" in text or f"step {start}," in text


@pytest.mark.parametrize("step", [2, 33])
def test_one_step_anywhere_is_found(step):
    """By a sweep, and by `check_replay`, which retraining calls: of the steps that it is asked for."""
    run = unchecked(gradient_of_one_step(step), "every-k:k=6")
    message = f"steps {step // 6 * 6} to {step // 6 * 6 + 5}, trained again"
    with pytest.raises(StoreError, match=message):
        ik.estimate(run)
    run.check_replay(0, step // 6 * 6)
    run.check_replay(step // 6 * 6 + 6, run.steps)
    with pytest.raises(StoreError, match=message):
        run.check_replay(step, step + 1)


def test_a_window_that_ends_within_a_stretch_is_asked_to_its_end():
    run = unchecked(gradient_of_one_step(33), "every-k:k=20")
    ik.estimate(run, windows=[ik.Window(3, 18)])
    with pytest.raises(StoreError, match="steps 20 to 39, trained again"):
        ik.estimate(run, windows=[ik.Window(3, 25)])
    with pytest.raises(StoreError, match="steps 20 to 39, trained again"):
        run.state(35)


@pytest.mark.parametrize("recorder", ["every-k:k=1", "every-k:k=5", "every-k:k=100"])
def test_an_honest_run_is_not_blamed_and_nothing_is_compared_twice(recorder, monkeypatch):
    run = unchecked(lambda event, loop: None, recorder)
    scores = ik.estimate(run).influence.values
    asked = []
    monkeypatch.setattr(
        "influencekit._trajectory.trajectory.compare_stretch", lambda *some: asked.append(some[1])
    )
    assert (ik.estimate(run).influence.values == scores).all()
    stretches = replay_check.stretches(run, 0, run.steps)
    run.check_replay(0, run.steps)
    assert not asked and (recorder == "every-k:k=1" or len(run._compared) == len(stretches))


def test_a_run_of_records_own_is_compared_as_well(tmp_path):
    """A stored state that training does not lead to."""
    import zarr

    from influencekit.testing.oracle import tiny_workload

    workload = tiny_workload()
    ik.record(workload, "every-k:k=2", store=tmp_path / "run.zarr")
    array = zarr.open_group(tmp_path / "run.zarr", mode="r+")["theta"]
    values = array[2]
    array[2] = values + 0.25
    sealed(tmp_path / "run.zarr")
    with pytest.raises(StoreError, match="steps 2 to 3, trained again, are not what was recorded"):
        ik.estimate(ik.open(tmp_path / "run.zarr", workload))


def test_where_every_state_is_stored_a_spread_sample_is_replayed():
    pairs = [(t, t + 1) for t in range(1000)] + [(1000, 1007)]
    some = replay_check.sample_stretches(pairs)
    assert len(some) == 32 and some[0] == (0, 1) and some[-1] == (999, 1000)
    assert sum(start >= 900 for start, _ in some) >= 3
    assert replay_check.sample_stretches(pairs[:20]) == pairs[:20] and replay_check.sample_stretches([]) == []


# the tape's own checks ------------------------------------------------------------------------------------


def steps_checked(steps, seconds=1e-5):
    """At which steps a tape checks, and repeats the first, when a check takes so long, and a step no time."""
    spot = spot_check.SpotCheck(network(), None, 1e-9, 1e-3, True)
    spot.done, spot._first, checked, repeated = 1, object(), [0], []
    for t in range(1, steps):
        if spot.decide(t):
            checked.append(t)
            spot._due, spot._turn = t + max(1, t // 8), True
        if spot.again:
            repeated.append(t)
            spot._due_again, spot._turn = 2 * t, False
        count = (checked[-1] == t) + bool(repeated and repeated[-1] == t)
        spot._spent += count * seconds
        spot._each = seconds
    return checked, repeated


@pytest.mark.parametrize("steps", [80, 300, 1000, 5000])
def test_checks_are_spread_over_the_whole_run(steps):
    """Every eighth of a run has one, where time is no matter, and they are few."""
    checked, repeated = steps_checked(steps)
    assert all(any(a <= t <= a + steps / 8 for t in checked) for a in range(0, steps * 7 // 8))
    assert len(checked) < 75 and repeated[-1] >= steps / 2 - 1


@pytest.mark.parametrize("milliseconds", [3, 20])
def test_dear_checks_are_not_all_spent_at_the_start(milliseconds):
    checked, repeated = steps_checked(1000, milliseconds / 1000)
    spent = (len(checked) + len(repeated)) * milliseconds
    assert spent <= 100 and len([t for t in checked + repeated if t >= 50]) >= 2


# something outside the model ------------------------------------------------------------------------------


class Scaled:
    """A loss with a temperature that somebody may change."""

    temperature = 1.0

    def __call__(self, outputs, target):
        return per_example(outputs / self.temperature, target)


def cooled(since):
    def mischief(event, loop):
        if event == "begin" and loop.step >= since:
            loop.options["loss"].temperature = 0.5

    return mischief


@pytest.mark.parametrize("since", [1, 5, 40, 47])
def test_a_schedule_in_the_loss_that_loop_and_replay_share(since):
    scaled = Scaled()
    loop = Loop(cooled(since), loss=scaled, value=lambda out, y: scaled(out, y).mean())
    text = caught(loop, r"step 0, replayed again after step \d+, is no longer what it was", epochs=LONG)
    assert "its losses differ" in text and "a schedule in the loss, a second network, the data" in text


def test_a_second_network_that_trains_along():
    """Distillation from a teacher that is no part of the model, and that moves."""
    teacher = network()
    teacher.requires_grad_(False)

    def loss(outputs, batch):
        return per_example(outputs, batch)

    def forward(model, batch):
        return model(batch[0]) + 0.5 * teacher(batch[0])

    def move(loop):
        teacher[0].weight.mul_(2.0)

    loop = Loop(once("stepped", move, 30), forward=forward)
    loop.value = lambda out, y: per_example(out + 0.5 * teacher(loop.batch[0]), y).mean()
    caught(loop, "step 0, replayed again after step \d+, is no longer", epochs=LONG)


def test_a_gradient_that_changes_while_losses_do_not(monkeypatch):
    """The weight of a gradient reversal, as in domain adaptation; were it not refused for its derivative."""
    monkeypatch.setattr(spot_check, "refuse_nondifferentiable", lambda *some: None)

    class Reversal(torch.autograd.Function):
        weight = 1.0

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return -Reversal.weight * g

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network()

        def forward(self, x):
            return Reversal.apply(self.body(x))

    def grow(event, loop):
        Reversal.weight = 1.0 + loop.step / 10

    text = caught(Loop(grow, model=Net()), "step 0, replayed again after step")
    assert "its gradient differ" in text


def test_data_that_change_under_way():
    class Curriculum(Examples):
        scale = 1.0

        def __getitem__(self, i):
            return self.x[i] * self.scale, self.y[i]

    def harder(event, loop):
        if event == "stepped" and loop.step == 11:
            loop.data.scale = 2.0

    caught(Loop(harder, data=Curriculum()), "step 0, replayed again after step", epochs=LONG)


def test_data_that_are_gone_at_the_end_do_not_undo_a_run():
    class Gone(Examples):
        def __len__(self):
            return 12

        def __getitem__(self, i):
            if self.x is None:
                raise OSError("closed")
            return super().__getitem__(i)

    def close(event, loop):
        if event == "stepped" and loop.step == 8:
            loop.data.x = None

    assert Loop(close, data=Gone()).run().committed == 9


def test_a_run_that_is_caught_at_its_end_keeps_what_was_recorded(tmp_path):
    scaled = Scaled()
    loop = Loop(cooled(8), loss=scaled, value=lambda out, y: scaled(out, y).mean())
    caught(loop, "step 0, replayed again after step 8", store=tmp_path / "run.zarr")
    run = ik.open(tmp_path / "run.zarr", model=network(), loss=Scaled(), data=loop.data)
    assert run.attrs["status"] == "recording" and run.steps in (8, 9)  # as time allows


# all kinds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(KINDS)), ids=KINDS)
def test_a_change_in_the_last_tenth_of_80_steps(number):
    """The first tenth of benchmarks/late_changes.py, which does this with 60 runs of up to 1,000 steps."""
    with untraced():
        by, words = Run(number).caught(True)
    assert by in ("the tape", "estimate") and "\n" not in words


@pytest.mark.parametrize("number", [1, 3])
def test_the_same_without_a_change_raises_nothing(number):
    with untraced():
        assert Run(number).caught(False) == ("", "")
