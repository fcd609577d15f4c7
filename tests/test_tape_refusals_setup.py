"""Optimizers, models, data, settings and stores that a tape cannot take: refused in one clear line."""

from contextlib import suppress

import pytest
import torch
from helpers_tape import Examples, network, per_example
from helpers_tape_caught import MEAN, Loop, caught, once, sgd
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset

import influencekit as ik
from influencekit.errors import InputError

# the optimizer ------------------------------------------------------------------------------------------


OPTIMIZERS = {
    "the tape does not know how Rprop steps; write its rule as an ik.Optimizer": torch.optim.Rprop,
    "Adam, group 0: differentiable=True is not": lambda p: torch.optim.Adam(p, differentiable=True),
}


@pytest.mark.parametrize("message", OPTIMIZERS)
def test_unknown_optimizers(message):
    caught(Loop(optimizer=lambda m: OPTIMIZERS[message](m.parameters())), message)


def test_a_closure():
    def closure(loop):
        loop.optimizer.step(lambda: torch.tensor(0.0))

    caught(Loop(once("backward", closure)), r"optimizer.step\(closure\) cannot be recorded")


def test_another_parameter_group():
    def grow(loop):
        loop.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})

    caught(
        Loop(once("begin", grow)), "holds a parameter that the model does not have|another parameter group"
    )


def test_the_optimizer_of_another_model():
    caught(Loop(optimizer=lambda m: sgd(network())), "holds a parameter that the model does not have")


def test_half_precision_parameters():
    caught(Loop(model=network(torch.bfloat16), data=Examples(torch.bfloat16)), "0.weight is torch.bfloat16")


# the model ----------------------------------------------------------------------------------------------


def test_unfreezing_in_mid_run():
    loop = Loop(once("begin", lambda loop: loop.model[0].requires_grad_(True)))
    loop.model[0].requires_grad_(False)
    caught(loop, "step 5: parameter 0.(bias|weight) has a gradient in some steps and none in others")


def test_freezing_in_mid_run():
    loop = Loop(once("begin", lambda loop: loop.model[0].requires_grad_(False)))
    caught(loop, "step 5: parameter 0.(bias|weight) has a gradient in some steps and none in others")


def test_a_change_of_mode():
    caught(
        Loop(once("begin", lambda loop: loop.model.eval())), "step 5: module model changed between training"
    )
    caught(
        Loop(once("begin", lambda loop: loop.model[2].eval())), "step 5: module 2 changed between training"
    )


def test_a_change_of_autocast():
    model = network(torch.float32)
    contexts = []

    def cast(loop):
        contexts.append(torch.autocast("cpu", torch.bfloat16))
        contexts[0].__enter__()

    try:
        caught(
            Loop(once("begin", cast), model=model, data=Examples(torch.float32)), "step 5: autocast changed"
        )
    finally:
        contexts[0].__exit__(None, None, None)


def test_running_statistics_that_something_else_moves():
    def evaluate(loop):
        with torch.no_grad():
            loop.model(loop.data.x)  # in training mode

    loop = Loop(
        once("stepped", evaluate),
        model=nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double(),
        separable=False,
    )
    caught(loop, "step 6: buffer 1.running_mean was changed since the last step.*evaluate in eval mode")


# the data -----------------------------------------------------------------------------------------------


def feed(loader, data=None, **options):
    """One epoch over a loader."""
    model = network()
    optimizer = sgd(model)
    with ik.Tape(None, model, optimizer, loss=per_example, data=data or loader.dataset, **options) as tape:
        for _, (x, y) in tape.batches(loader):
            MEAN(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    return tape


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Examples())


def test_data_without_positions():
    with pytest.raises(InputError, match="data: expected a map-style data set .* got int; pass data=None"):
        feed(DataLoader(Stream(), batch_size=4), 7)
    with pytest.raises(InputError, match="reads an IterableDataset, whose examples have no positions"):
        feed(DataLoader(Stream(), batch_size=4), Examples())


def test_a_loader_of_other_data():
    data = Examples()
    with pytest.raises(InputError, match="reads another data set than data=.*data=loader.dataset"):
        feed(DataLoader(Subset(Examples(), range(6)), batch_size=3), data)
    with pytest.raises(InputError, match="expected a torch DataLoader, got Subset; for batches of your own"):
        feed(Subset(data, range(6)), data)
    with pytest.raises(InputError, match="batch_size=None.*batch_sampler="):
        feed(DataLoader(data, batch_size=None, sampler=[[0, 1], [2, 3]]))


def test_pairs_that_name_the_wrong_examples():
    data = Examples()
    with pytest.raises(InputError, match="position 12 is outside the data set, which has 0 to 11"):
        feed([([11, 12], (data.x[:2], data.y[:2]))], data)
    with pytest.raises(InputError, match="step 0, replayed, is not what the loop did"):
        feed([([2, 3], (data.x[:2], data.y[:2]))], data)
    with pytest.raises(InputError, match=r"shape \[3\], got \[2\]"):
        feed([([1, 2, 3], (data.x[:2], data.y[:2]))], data)


def test_batches_with_more_than_tensors():
    data = [{"x": x, "name": "a", "labels": y} for x, y in Examples()]
    with pytest.raises(InputError, match="entry 'name' of the collated batch is a list; leave only tensors"):
        model = network()
        with ik.Tape(None, model, sgd(model), loss=per_example, data=data, forward=None) as tape:
            for _, batch in tape.batches(DataLoader(data, batch_size=4)):
                MEAN(model(batch["x"]), batch["labels"]).backward()
                tape.optimizer.step()


def test_a_batch_without_the_target():
    data = [{"x": x, "class": y} for x, y in Examples()]
    with pytest.raises(
        InputError, match="no entry 'labels' for the target; it has x, class; name it with target_key"
    ):
        model = network()
        with ik.Tape(None, model, sgd(model), loss=per_example, data=data) as tape:
            for _, batch in tape.batches(DataLoader(data, batch_size=4)):
                model(batch["x"])


BAD = {
    "accumulate must be at least 1 \(or None\), got 0": {"accumulate": 0},
    "reduction must be 'mean', 'sum' or a function of the batch, got 'max'": {"reduction": "max"},
    "check must be from 0": {"check": 2.0},
    "ids: expected 12 different example ids; got 3 ids": {"ids": ["a", "b", "c"]},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_settings(message):
    caught(Loop(**BAD[message]), message)


# the store ----------------------------------------------------------------------------------------------


def test_a_store_that_exists(tmp_path):
    Loop().run(tmp_path / "run.zarr")
    caught(
        Loop(),
        "run.zarr exists already; choose another path, or continue",
        store=tmp_path / "run.zarr",
    )


def test_a_tape_that_saw_nothing(tmp_path):
    caught(
        Loop(),
        "the tape saw no optimizer step; iterate over tape.batches",
        store=tmp_path / "a.zarr",
        epochs=0,
    )
    assert not (tmp_path / "a.zarr").exists()


def test_an_error_of_the_loop_is_the_loops_own():
    def fail(loop):
        raise ZeroDivisionError("mine")

    caught(Loop(once("begin", fail)), "mine", ZeroDivisionError)


def test_what_was_caught_leaves_no_hooks_and_no_lock(tmp_path):
    loop = Loop(once("begin", lambda loop: loop.model[0].weight.data.mul_(0.999)))
    with suppress(InputError):
        loop.run(tmp_path / "run.zarr")
    for thing in (loop.model, loop.optimizer):
        assert not any(value for name, value in vars(thing).items() if "hooks" in name)
    run = ik.open(tmp_path / "run.zarr", model=network(), loss=per_example, data=loop.data)
    assert run.attrs["status"] == "recording" and run.steps == 5
