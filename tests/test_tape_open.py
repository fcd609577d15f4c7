"""Opening a taped run: with the model, loss and data that made it, and with no others."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers_tape import LOOPS, Examples, N, held_out, network, per_example, taped, vector
from helpers_tape_kinds import KINDS, built, converted, padded
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from influencekit.errors import InputError, StoreError

LOOP = LOOPS["AdamW, clipped"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("taped") / "run.zarr"
    taped(LOOP, path, recorder="every-k:k=4", ids=[f"id-{i}" for i in range(N)], name="mine")
    return path


def opened(store, **changes):
    """As the run was recorded, but for `changes`."""
    return ik.open(store, **{"model": network(), "loss": per_example, "data": Examples(), **changes})


def refused(store, message, kind=StoreError, **changes):
    with pytest.raises(kind, match=message) as info:
        opened(store, **changes)
    assert "\n" not in str(info.value) and len(str(info.value)) < 420


def test_a_store_gives_back_the_run(store):
    """In a fresh model, whatever its parameters: the recorded weights, ids and name."""
    done = taped(LOOP)
    model = network()
    nn.init.zeros_(model[0].weight)
    run = opened(store, model=model, test=held_out())
    assert all(torch.equal(run.state(t).theta, theta) for t, theta in enumerate(done.states))
    assert not model[0].weight.any() and run.steps == 9 and run.stored_states == [0, 4, 8, 9]
    result = ik.estimate(run, "test-loss", "loo:examples=2")
    assert (
        result.train.values.tolist() == [f"id-{i}" for i in range(N)] and result.attrs["workload"] == "mine"
    )
    logits = done.model.eval()(held_out()[0])
    assert run.attrs["accuracy"] == (logits.argmax(1) == held_out()[1]).double().mean()


def test_what_is_passed_stays_as_it_was(store):
    model, data = network(), Examples()
    before, state = vector(model), torch.get_rng_state()
    model.train()
    run = opened(store, model=model, data=data, test=held_out())
    ik.estimate(run, "test-loss", "dit")
    ik.estimate(run, "test-loss", "loo")
    assert torch.equal(vector(model), before) and torch.equal(torch.get_rng_state(), state)
    assert model.training and all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_tape_opens_its_own_run(store):
    done = taped(LOOP)
    for a, b in ((done.open(), opened(store, test=held_out())),):
        assert torch.equal(a.final.theta, b.final.theta) and a.attrs["accuracy"] == b.attrs["accuracy"]


def test_test_examples_are_a_batch_or_a_data_set(store):
    x, y = held_out()
    batch, data = opened(store, test=(x, y)), opened(store, test=TensorDataset(x, y), test_ids=list("abcde"))
    a, b = (ik.estimate(run, "test-losses", "dit").influence for run in (batch, data))
    assert a.values.tobytes() == b.values.tobytes() and b["query"].values.tolist() == list("abcde")
    refused(store, "test: expected a batch of tensors, .* or a data set, got int", InputError, test=3)


def test_queries_without_test_examples_need_none(store):
    run = opened(store)
    assert ik.estimate(run, "parameter:index=3", "dit").influence.shape == (1, 1, N)
    with pytest.raises(InputError, match="needs a test set, and the run was opened without one; pass test="):
        ik.estimate(run, "test-loss", "dit")


def test_what_must_be_passed(store):
    for missing in ("model", "loss", "data"):
        refused(store, "is a taped run; open it with the model, loss and data", InputError, **{missing: None})


def test_another_model(store):
    wide = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.0), nn.Linear(6, 3)).double()
    refused(store, r"another model: its 0.weight has shape \[5, 4\], this one has shape \[6, 4\]", model=wide)
    refused(
        store, "another model: its 0.weight has shape .* no parameter of that name", model=nn.Linear(4, 3)
    )
    other = network()
    other[1] = nn.ReLU()
    refused(store, "not a run of this model, loss and data: the mean loss of step 0 is", model=other)
    single = network(torch.float32)
    refused(store, "is a run of float64 parameters, and this model's are float32", model=single)


def test_other_data(store):
    x, y = Examples().x, Examples().y
    refused(
        store,
        "on 12 training examples, and data has 11; pass the same data set",
        data=TensorDataset(x[1:], y[1:]),
    )
    for wrong in (TensorDataset(x.flip(0), y.flip(0)), TensorDataset(x + 1e-9, y), TensorDataset(x, 2 - y)):
        refused(store, "on other training data of the same size .or in another order", data=wrong)


def test_another_loss_or_collation(store):
    mild = nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1)
    refused(store, "not a run of this model, loss and data: the mean loss of step 0 is", loss=mild)
    refused(store, r"one value per example, shape \[4\], got \[\]", InputError, loss=nn.CrossEntropyLoss())

    def doubled(rows):
        x, y = (torch.stack(part) for part in zip(*rows, strict=True))
        return 2 * x, y

    refused(store, "the collation or the data differ", collate=doubled)


def test_other_frozen_weights_or_constant_buffers(tmp_path):
    kind, path = KINDS["frozen, tied, constant buffer"], tmp_path / "run.zarr"
    model, data = built(kind), converted(kind.data, torch.float64)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with ik.Tape(path, model, optimizer, loss=kind.loss, data=data) as tape:
        for _, batch in tape.batches(DataLoader(data, batch_size=4)):
            kind.mean(model(batch[0]), batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    again = partial(opened, path, loss=kind.loss, data=data)
    assert torch.equal(again(model=built(kind)).final.theta, vector(model))
    for name in ("first.weight", "scale"):
        other = built(kind)
        with torch.no_grad():
            {**dict(other.named_parameters()), **dict(other.named_buffers())}[name].mul_(1.5)
        with pytest.raises(
            StoreError, match="the frozen parameters or constant buffers of the model are not"
        ):
            again(model=other)


def test_a_forward_function_is_asked_for_again(tmp_path):
    path, model, data = tmp_path / "run.zarr", network(), Examples()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    call = lambda m, batch: m(batch[0]) * 2  # noqa: E731
    with ik.Tape(path, model, optimizer, loss=per_example, data=data, forward=call) as tape:
        for _, (x, y) in tape.batches(DataLoader(data, batch_size=4)):
            nn.functional.cross_entropy(2 * model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    refused(path, "recorded with a forward function of your own; pass forward=... again", InputError)
    assert torch.equal(opened(path, forward=call).final.theta, vector(model))


def test_hooks_that_change_outputs_are_part_of_the_model(store, tmp_path):
    """A forward hook is replayed with the model that has it; without it the losses differ."""

    def hooked():
        model = network()
        model[1].register_forward_hook(lambda module, args, out: 2 * out)
        return model

    path = tmp_path / "run.zarr"
    taped(LOOP, path, model=hooked())
    assert opened(path, model=hooked(), test=held_out()).steps == 9
    refused(path, "the mean loss of step 0 is")


def test_padding_must_be_collated_as_in_the_run(tmp_path):
    kind = KINDS["dicts, masks, padding, dropout"]
    path, model, data = tmp_path / "run.zarr", built(kind), kind.data
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(data, batch_size=4, collate_fn=padded)
    with ik.Tape(path, model, optimizer, loss=kind.loss, data=data, check=1.0) as tape:
        for _, batch in tape.batches(loader):
            kind.mean(kind.call(model, batch), batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    run = opened(path, model=built(kind), data=data, collate=padded, test=padded(data[:3]))
    assert np.isfinite(ik.estimate(run, "test-loss", "dit").influence.values).all()
    refused(
        path, "step 0 fails with them .*pass those of the run, and its collate=", model=built(kind), data=data
    )


def test_a_run_that_was_not_finished_opens_as_far_as_it_came(tmp_path):
    def stop(step, model, optimizer):
        if step == 6:
            raise KeyboardInterrupt

    path = tmp_path / "run.zarr"
    with pytest.raises(KeyboardInterrupt):
        taped(LOOP, path, before_step=stop, recorder="every-k:k=4")
    run, whole = opened(path, test=held_out()), taped(LOOP)
    assert run.attrs["status"] == "recording" and run.steps == 6
    assert all(torch.equal(run.state(t).theta, whole.states[t]) for t in range(7))
    assert ik.estimate(run, "test-loss", "dit").influence.shape == (1, 1, N)
