"""Loops without a data set: the tape keeps the examples, by content, and ids come from the loop."""

import numpy as np
import pytest
import torch
from helpers_streams import (
    NAMES,
    Bag,
    Stream,
    alone,
    batches,
    drawn,
    loader,
    named,
    optimizer_of,
    padded,
    record,
    right,
    scores,
    train,
)
from helpers_tape import Examples, N, held_out, network, per_example, seed, vector
from torch import nn

import influencekit as ik
from influencekit import InputError, StoreError
from influencekit._verbs.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore:without a data set")


@pytest.mark.parametrize("noise", [0.0, 0.3], ids=["each the same", "augmented"])
def test_pairs_of_ids_and_batches(noise, tmp_path):
    """Opened without a data set; a replay has the very tensors of the loop."""
    record(tmp_path / "run.zarr", named(noise))
    run = ik.open(tmp_path / "run.zarr", model=network(dropout=0.2), loss=per_example, test=held_out())
    right(run, noise)
    seen = [(x, y) for epoch in range(2) for _, x, y in batches(epoch, noise)]
    for t, (x, y) in enumerate(seen):
        ((_, batch, _),) = run.step.source.parts(run.state(t))
        assert torch.equal(batch[0], x) and torch.equal(batch[1], y)
    assert verify(run).gap == 0
    used = len({i for epoch in range(2) for rows in drawn(epoch) for i in rows})
    assert run.group["content"].shape[0] == (used if not noise else sum(len(x) for x, _ in seen))


class Bar:
    def __init__(self, loader):
        self.iterable = loader

    def __iter__(self):
        return iter(self.iterable)


BARE = {
    "an IterableDataset": loader,
    "a bar around its loader": lambda epoch: Bar(loader(epoch)),
    "batches alone": lambda epoch: ((x, y) for _, x, y in batches(epoch)),
}


@pytest.mark.parametrize("source", BARE.values(), ids=BARE)
def test_without_ids_examples_are_their_contents(source):
    """Numbered in the order in which they were first seen."""
    order = list(dict.fromkeys(i for epoch in range(2) for rows in drawn(epoch) for i in rows))
    names = [order.index(i) if i in order else f"never {i}" for i in range(N)]
    right(record(None, source).trajectory(test=held_out()), names=names)


def test_a_stream_may_be_given_as_data(tmp_path):
    seed()
    model = network(dropout=0.2)
    optimizer = optimizer_of(model)
    with ik.Tape(tmp_path / "r.zarr", model, optimizer, loss=per_example, data=Stream(), check=1.0) as tape:
        train(tape, model, optimizer, loader)
    options = {"model": network(dropout=0.2), "loss": per_example}
    for data in ({}, {"data": Stream()}):
        assert torch.equal(ik.open(tmp_path / "r.zarr", **options, **data).final.theta, alone()[-1])
    with pytest.raises(StoreError, match="was recorded without a data set; pass data=None"):
        ik.open(tmp_path / "r.zarr", **options, data=Examples())


def test_ids_in_an_entry_of_the_batch():
    """The loop gets the entry, the model does not."""
    seed()
    model = network(dropout=0.2)
    optimizer = optimizer_of(model)
    with ik.Tape(None, model, optimizer, loss=per_example, data=None, ids="name", check=1.0) as tape:
        for epoch in range(2):
            source = (
                {"name": [NAMES[i] for i in rows], "input": x, "labels": y} for rows, x, y in batches(epoch)
            )
            for ids, batch in tape.batches(source):
                assert ids == batch["name"]
                optimizer.zero_grad()
                per_example(model(batch["input"]), batch["labels"]).mean().backward()
                optimizer.step()
    x, y = held_out()
    right(tape.trajectory(test={"input": x, "labels": y}))


def test_a_stream_that_numbers_its_examples():
    """An entry that equals the positions is no target; here they come in the order of first sight."""
    seed()
    model, x, y = network(), Examples().x, Examples().y
    optimizer = optimizer_of(model)
    source = [(x[k : k + 4], y[k : k + 4], torch.arange(k, k + 4)) for k in (0, 4, 8)]
    with ik.Tape(None, model, optimizer, loss=per_example, data=None, check=1.0) as tape:
        for _, (a, b, _) in tape.batches(source):
            optimizer.zero_grad()
            per_example(model(a), b).mean().backward()
            optimizer.step()
    run = tape.trajectory(test=held_out())
    assert torch.equal(run.final.theta, vector(model)) and np.isfinite(scores(run, "if:damping=1")).all()


# padded texts -------------------------------------------------------------------------------------------


def test_padded_batches_of_different_widths(tmp_path):
    """An example has another content in every width, and is one example all the same."""
    padded(tape=tmp_path / "run.zarr")
    test = (torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([0, 1]))

    def loss(theta):
        model = Bag()
        nn.utils.vector_to_parameters(theta, model.parameters())
        return per_example(model(test[0]), test[1]).mean().item()

    run = ik.open(tmp_path / "run.zarr", model=Bag(), loss=per_example, test=test)
    assert sorted(run.workload.train_ids) == list(range(6)) and torch.equal(run.final.theta, padded())
    found = scores(run, "loo")[0, 0]
    for j in range(6):
        left = padded((torch.arange(6) != j).double())
        assert float(found.sel(train=j)) == pytest.approx(loss(left) - loss(padded()), rel=1e-9, abs=1e-13)
    with pytest.raises(InputError, match="differ in shape .* pad all batches to one width"):
        scores(run, "if:damping=1")
