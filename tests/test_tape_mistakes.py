"""Mistakes that people made with the tape in their own loops: one line each, with the cause first."""

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers_tape import Examples, held_out, network, per_example
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik


def loop(store=None, act=lambda model, x, y: per_example(model(x), y).mean(), epochs=1, **options):
    """A loop of 3 steps an epoch with a tape; `act` gives the loss of a batch."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = Examples()
    options = {"loss": per_example, "data": data, **options}
    with ik.Tape(store, model, optimizer, **options) as tape:
        for _ in range(epochs):
            for _, (x, y) in tape.batches(DataLoader(data, batch_size=4)):
                optimizer.zero_grad()
                act(model, x, y).backward()
                optimizer.step()
    return tape


def made(**given):
    model, data = network(), Examples()
    options = {
        "model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "loss": per_example,
        "data": data, **given,
    }  # fmt: skip
    return ik.Tape(None, options.pop("model"), options.pop("optimizer"), **options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": [1, 2]}, "a tape records one optimizer, and got 2"),
        ({"optimizer": torch.optim.SGD}, "optimizer: expected a torch.optim.Optimizer, got the class SGD"),
        ({"model": lambda x: x}, "model: expected a torch.nn.Module, got a function"),
        ({"loss": "cross_entropy"}, "loss: expected a function .* got 'cross_entropy'"),
        ({"loss": nn.CrossEntropyLoss}, "loss: expected a function .* got the class CrossEntropyLoss"),
        ({"reduction": 0.5}, "reduction must be 'mean', 'sum' or a function of the batch, got 0.5"),
        ({"data": DataLoader(Examples())}, "data: got a DataLoader; pass the data set behind it"),
        ({"data": (np.zeros((4, 2)), np.zeros(4))}, "data: got arrays of numpy; make tensors of them"),
    ],
)
def test_arguments(given, message):
    with pytest.raises(ik.InputError, match=message):
        made(**given)


def test_ids_taken_for_the_inputs():
    model, data = network(), Examples()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(
        ik.InputError, match="called with the ids; tape.batches gives them first: write for ids, "
    ):
        with ik.Tape(None, model, optimizer, loss=per_example, data=data) as tape:
            for x, _ in tape.batches(DataLoader(data, batch_size=4)):
                model(x)


@pytest.mark.parametrize(
    ("act", "options", "message"),
    [
        (
            lambda model, x, y: per_example(model(x.view(len(x), -1)), y).mean(), {"data": "images"},
            r"replayed: the model or the loss fails on the batch as the loader gave it .*belongs into",
        ),
        (
            lambda model, x, y: per_example(model(x), y).mean(), {"forward": "its own"},
            "forward= or loss= runs the loop's own model",
        ),
        (
            lambda model, x, y: per_example(model(x), y).mean(),
            {"reduction": lambda batch: torch.ones(len(batch[1]), 1)},
            r"reduction= must give one number, or one for each of the 4 examples .* gave shape \[4, 1\]",
        ),
        (
            lambda model, x, y: per_example(model(x), y).mean(),
            {"reduction": lambda batch: torch.tensor(1.0) / (batch[1] > 9).sum()},
            r"reduction= gave inf for the batch of step 0; expected finite numbers: where nothing .* give 0",
        ),
    ],
    ids=["reshaped in the loop", "forward of another model", "reduction of another shape", "infinite"],
)  # fmt: skip
def test_the_cause_comes_first(act, options, message, tmp_path):
    model, data, options = network(), Examples(), dict(options)
    if options.pop("data", None):
        data.x = data.x.reshape(12, 2, 2)
    if "forward" in options:
        options["forward"] = lambda ignored, batch: model(batch[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    store = tmp_path / "run.zarr"
    with pytest.raises(ik.InputError, match=message) as info:
        with ik.Tape(store, model, optimizer, loss=per_example, data=data, **options) as tape:
            for _, (x, y) in tape.batches(DataLoader(data, batch_size=4)):
                optimizer.zero_grad()
                act(model, x, y).backward()
                optimizer.step()
    assert "\n" not in str(info.value)
    assert not store.exists()  # nothing was recorded, so the mended loop can have the path
    assert loop(store).trajectory().steps == 3


def test_a_store_with_steps_stays(tmp_path):
    store, seen = tmp_path / "run.zarr", []

    def act(model, x, y):
        seen.append(0)
        if len(seen) == 3:
            raise RuntimeError("the user's own")
        return per_example(model(x), y).mean()

    with pytest.raises(RuntimeError, match="the user's own"):
        loop(store, act)
    with pytest.warns(UserWarning, match="was cut off: 2 steps are committed"):
        ik.open(store, model=network(), loss=per_example, data=Examples())


def test_an_open_tape_has_no_run_yet():
    with pytest.raises(ik.InputError, match="the tape is still open; ask for its run after"), made() as tape:
        tape.trajectory()


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (list(held_out()), r"test: expected a batch of tensors, as in test=\(x, y\).*got a list of tensors"),
        (tuple(x.numpy() for x in held_out()), "test: .*got arrays of numpy; make tensors"),
        ([], "test: .*got one without examples"),
        (tuple(x[:0] for x in held_out()), "test: .*got one without examples"),
        ({"x": held_out()[0][:0], "labels": held_out()[1][:0]}, "test: .*got one without examples"),
    ],
)
def test_test_sets(test, message):
    with pytest.raises(ik.InputError, match=message):
        loop().trajectory(test=test)


def test_an_epoch_without_a_step():
    """Gradients that are carried over leave an epoch without one: it has no window, and averages count it."""
    model, data = network(), Examples()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = torch.optim.swa_utils.AveragedModel(model)
    with ik.Tape(None, model, optimizer, loss=per_example, data=data, accumulate=6) as tape:
        for epoch in range(4):
            for _, (x, y) in tape.batches(DataLoader(data, batch_size=4)):
                (per_example(model(x), y).mean() / 6).backward()
            if epoch % 2:
                optimizer.step()
                optimizer.zero_grad()
            average.update_parameters(model)
    run = tape.trajectory(test=held_out())
    assert ik.estimate(run, windows="each-epoch").sizes["window"] == 2
    found = ik.estimate(run, "parameter:index=0", average="swa").attrs["average_states"]
    assert "states" in found
    theta = torch.cat([p.detach().flatten() for p in average.module.parameters()])
    weights = ik.make("average", "swa").weights(run)
    mean = sum(w * run.state(t).theta for t, w in enumerate(weights.tolist()))
    assert torch.allclose(mean, theta, rtol=1e-12, atol=1e-14)


def test_best_parameters_with_the_buffers_of_another_state():
    """What a partial reload makes is no state of the run, and nothing is asked of it in silence."""
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double(), Examples()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ik.InputError, match="no state of the run known to the tape"):
        with ik.Tape(None, model, optimizer, loss=per_example, data=data) as tape:
            for epoch in range(3):
                for _, (x, y) in tape.batches(DataLoader(data, batch_size=4)):
                    optimizer.zero_grad()
                    per_example(model(x), y).mean().backward()
                    optimizer.step()
                if epoch == 0:
                    best = copy.deepcopy(model.state_dict())
            model.load_state_dict(
                {n: p for n, p in best.items() if "running" not in n and "num" not in n}, False
            )


def interrupted(store, check=0.01, epochs=2, stop=4, rate=None, **options):
    """A loop that stops after `stop` steps, or goes on."""
    torch.manual_seed(1)
    model, data = network(), Examples()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = rate(optimizer) if rate else None
    step = 0
    with ik.Tape(
        store, model, optimizer, loss=per_example, data=data, check=check, resume=True,
        recorder="every-k:k=2",
        penalty=l2, **options,
    ) as tape:  # fmt: skip
        for _ in range(epochs):
            for _, (x, y) in tape.batches(DataLoader(data, batch_size=4)):
                if step == stop:
                    raise KeyboardInterrupt
                step += 1
                optimizer.zero_grad()
                (per_example(model(x), y).mean() + l2(model)).backward()
                optimizer.step()
                if scheduler:
                    scheduler.step()
    return tape


def l2(model):
    return 0.01 * sum((p**2).sum() for p in model.parameters())


def test_penalties_of_a_resumed_run(tmp_path):
    """Their values are known only of steps that were replayed, which depends on time."""
    store = tmp_path / "run.zarr"
    with pytest.raises(KeyboardInterrupt):
        interrupted(store, check=0)
    with pytest.warns(UserWarning, match="goes on at step .* tape.steps is right"):
        tape = interrupted(store, check=1, stop=None)
    assert tape.steps == 6 and tape.trajectory().steps == 6


def test_a_resumed_run_has_the_ids_that_it_had(tmp_path):
    store = tmp_path / "run.zarr"
    with pytest.raises(KeyboardInterrupt):
        interrupted(store, ids=list("abcdefghijkl"))
    with pytest.raises(ik.StoreError, match="was recorded with other ids of the examples"):
        interrupted(store, ids=range(12), stop=None)
    assert interrupted(store, ids=list("abcdefghijkl"), stop=None).steps == 6


def test_a_scheduler_that_a_resumed_run_does_not_know(tmp_path):
    def halved(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)

    store = tmp_path / "run.zarr"
    with pytest.raises(KeyboardInterrupt):
        interrupted(store, rate=halved)
    with pytest.raises(
        ik.InputError, match="a scheduler sets the learning rates, and the run that is resumed did"
    ):
        interrupted(store, rate=halved, stop=None)


# tapes themselves ----------------------------------------------------------------------------------------


def test_batches_of_a_tape_that_is_not_open():
    tape = made()
    with pytest.raises(ik.InputError, match="the tape is not open; write `with"):
        tape.batches(DataLoader(Examples(), batch_size=4))
    with pytest.raises(ik.InputError, match="the tape is not open; write `with"):
        tape.boundary(epoch=0)


@pytest.mark.parametrize("act", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_tape_cannot_be_copied(act):
    with pytest.raises(ik.InputError, match="a tape cannot be copied or pickled"):
        act(made())


@pytest.mark.parametrize(
    "ids",
    [range(2**63, 2**63 + 12), np.arange(12, dtype="u8") + 2**63, [-(2**63) - 1, *range(11)]],
    ids=["range", "unsigned", "negative"],
)
def test_ids_beyond_64_bits(ids):
    with pytest.raises(ik.InputError, match="ids: .* which is too large; give them as text"):
        made(ids=ids)
    with (
        pytest.raises(ik.InputError, match="ids: .* which is too large; give them as text"),
        made(data=None) as tape,
    ):
        list(tape.batches([(list(ids), (Examples().x, Examples().y))]))
    assert loop(ids=[str(i) for i in ids]).steps == 3
