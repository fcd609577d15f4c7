"""Loops that copy, save and reload their model, and that stop early: the best weights."""

import copy
import io
import pickle

import pytest
import torch
from helpers_loop import Run, refused
from helpers_tape import network, per_example, seed, vector
from torch.optim.swa_utils import AveragedModel

# copies and saved models --------------------------------------------------------------------------------


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "torch.save": saved,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "deepcopy": copy.deepcopy,
    "average": lambda model: AveragedModel(model).module,
    "copy of a copy": lambda model: saved(copy.deepcopy(saved(model))),
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_a_copy_feeds_no_tape(make):
    """It may even be trained while the tape listens to the model."""
    run, plain = Run(), Run(tape=False)
    for _ in range(2):
        plain.epoch()
    seed()
    with run.tape:
        for _ in range(2):
            run.epoch()
            own = make(run.model)
            assert torch.equal(vector(own), vector(run.model))
            per_example(own.eval()(run.data.x), run.data.y).sum().backward()
    trajectory = run.open()
    assert trajectory.steps == 6
    assert torch.equal(trajectory.final.theta, vector(plain.model))
    assert torch.equal(trajectory.step.advance(trajectory.state(5))[0].theta, vector(plain.model))


def test_saved_objects_need_no_influencekit():
    run = Run()
    with run.tape:
        run.epoch()
        for thing in (run.model, run.optimizer):
            assert b"influencekit" not in pickle.dumps(thing)
            file = io.BytesIO()
            torch.save(thing, file)
            assert b"influencekit" not in file.getvalue()


# the best weights, loaded again ---------------------------------------------------------------------------


def hand_loop(epochs, dtype=torch.float64):
    """The states of the plain loop."""
    run, states = Run(tape=False), []
    states.append(vector(run.model))
    for _ in range(epochs):
        run.epoch(after_step=lambda k: states.append(vector(run.model)))
    return states


KEEPERS = {  # how loops keep the best weights
    "state_dict, copied": lambda model: copy.deepcopy(model.state_dict()),
    "state_dict, cloned": lambda model: {k: v.clone() for k, v in model.state_dict().items()},
    "deepcopy": lambda model: copy.deepcopy(model).state_dict(),
    "torch.save": lambda model: saved(model).state_dict(),
    "values by hand": lambda model: {k: v.detach().clone() for k, v in model.named_parameters()},
}


@pytest.mark.parametrize("keep", KEEPERS.values(), ids=KEEPERS)
def test_the_best_weights_are_loaded_at_the_end(tmp_path, keep):
    run, states = Run(store=tmp_path / "run.zarr"), hand_loop(4)
    seed()
    with run.tape:
        for epoch in range(4):
            run.epoch()
            if epoch == 1:
                best = keep(run.model)
            run.model.eval()
            with torch.no_grad():
                run.model(run.data.x)
            run.model.train()
        run.model.load_state_dict(best)
    assert torch.equal(vector(run.model), states[6])
    trajectory = run.open()
    assert trajectory.attrs["reloaded"] == 6 and trajectory.attrs["status"] == "complete"
    assert torch.equal(trajectory.final.theta, states[12])
    trajectory.check_replay(0, 12)
    assert torch.equal(trajectory.state(6).theta, states[6])


def test_the_best_weights_of_a_step_within_an_epoch():
    run, kept = Run(), []
    with run.tape:
        run.epoch(after_step=lambda k: kept.append(copy.deepcopy(run.model.state_dict())))
        run.model.load_state_dict(kept[1])
        run.model.eval()
        per_example(run.model(run.data.x), run.data.y).sum().backward()  # evaluated, with gradients
    assert run.open().attrs["reloaded"] == 2


def test_the_best_weights_are_the_last_ones():
    run = Run()
    with run.tape:
        run.epoch()
        run.model.load_state_dict(copy.deepcopy(run.model.state_dict()))
    assert run.open().attrs["reloaded"] == 3


def test_optimizer_loaded_before_the_model():
    run = Run()
    with run.tape:
        run.epoch()
        best = copy.deepcopy((run.optimizer.state_dict(), run.model.state_dict()))
        run.epoch()
        last = copy.deepcopy(run.optimizer.state_dict()["state"])
        run.optimizer.load_state_dict(best[0]), run.model.load_state_dict(best[1])
    trajectory = run.open()
    assert trajectory.attrs["reloaded"] == 3
    want = torch.cat([last[k]["exp_avg"].reshape(-1) for k in range(4)])
    assert torch.equal(trajectory.final.slots["exp_avg"], want)


def test_without_a_reload_nothing_is_said():
    run = Run()
    with run.tape:
        run.epoch()
        run.model.state_dict()
    assert "reloaded" not in run.open().attrs


def test_weights_that_come_back_for_the_next_step():
    """An evaluation with other weights, by load_state_dict or by hand, is no reload."""
    run, states = Run(), hand_loop(3)
    seed()
    with run.tape:
        for _ in range(3):
            run.epoch()
            own = copy.deepcopy(run.model.state_dict())
            run.model.load_state_dict({k: 0.9 * v for k, v in own.items()})
            run.model.state_dict()  # saved: no state of the run
            run.model.load_state_dict(own)
    trajectory = run.open()
    assert torch.equal(trajectory.final.theta, states[-1]) and trajectory.attrs["reloaded"] == 9


def test_early_stopping_within_an_epoch():
    run, states = Run(), hand_loop(3)
    seed()
    with run.tape:
        run.epoch()
        best = copy.deepcopy(run.model.state_dict())
        run.epoch(after_step=lambda k: "stop" if k == 1 else None)
        run.model.load_state_dict(best)
    trajectory = run.open()
    assert trajectory.steps == 5 and trajectory.attrs["reloaded"] == 3
    assert torch.equal(trajectory.final.theta, states[5])


def test_a_reload_in_the_middle_is_refused():
    def act(load, optimizer=False):
        run = Run()
        with run.tape:
            run.epoch()
            best = copy.deepcopy((run.model.state_dict(), run.optimizer.state_dict()))
            run.epoch()
            load(run, *best)
            run.epoch()

    refused(
        lambda: act(lambda run, weights, _: run.model.load_state_dict(weights)),
        "step 6: load_state_dict put the weights of state 3 into the model, and a replay would not do that",
    )
    refused(
        lambda: act(
            lambda run, weights, _: run.model.load_state_dict({k: 0 * v for k, v in weights.items()})
        ),
        "step 6: load_state_dict put other weights into the model, and a replay would not do that",
    )
    refused(
        lambda: act(lambda run, _, rule: run.optimizer.load_state_dict(rule)),
        "step 6: load_state_dict changed exp_avg of the optimizer, and a replay would not do that",
    )
    refused(
        lambda: act(lambda run, *_: [p.data.zero_() for p in run.model.parameters()]),
        "step 6: parameter 0.weight was changed since the last step by something else than the optimizer",
    )


def test_other_weights_at_the_end_are_refused(tmp_path):
    """The run itself is whole in the store."""
    run = Run(store=tmp_path / "run.zarr")

    def act(change):
        with run.tape:
            run.epoch()
            change(run.model)

    average = AveragedModel(network()).module.state_dict()
    refused(
        lambda: act(lambda model: model.load_state_dict(average)),
        "weights into the model that are no state of the run known to the tape .* load others after the tape",
    )
    assert run.open().steps == 3 and run.open().attrs["status"] == "complete"
    run = Run()
    refused(lambda: act(lambda model: model[0].weight.data.zero_()), "step 3: parameter 0.weight was changed")
