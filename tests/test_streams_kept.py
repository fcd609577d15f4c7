"""Streams in a store: what is kept of them, and what is said."""

import inspect
import shutil

import numpy as np
import pytest
import torch
from helpers_streams import (
    NAMES,
    Bag,
    loader,
    named,
    optimizer_of,
    padded,
    record,
    right,
    scores,
)
from helpers_tape import Examples, N, held_out, losses_at, network, per_example, vector

import influencekit as ik
from influencekit import InputError, StoreError
from influencekit._tape.writer import TapeWriter
from influencekit._verbs.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore:without a data set")


# stores -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [named(0.3), loader], ids=["pairs", "an IterableDataset"])
@pytest.mark.parametrize("stop", [1, 4, 6])
def test_a_resumed_run_is_the_run_that_was_never_interrupted(source, stop, tmp_path):
    whole, broken = tmp_path / "whole.zarr", tmp_path / "broken.zarr"
    record(whole, source)
    with pytest.raises(KeyboardInterrupt):
        record(broken, source, stop)
    record(broken, source, resume=True)
    a, b = (
        ik.open(p, model=network(dropout=0.2), loss=per_example, test=held_out()) for p in (whole, broken)
    )
    assert a.workload.train_ids == b.workload.train_ids and verify(b).gap == 0
    for name in ("row", "content", "content_form", "form", "id", "first", "batch", "theta"):
        np.testing.assert_array_equal(a.group[name][...], b.group[name][...])


def test_a_resumed_run_of_padded_batches(tmp_path, monkeypatch):
    """Rows that were narrower than later ones come again."""

    class Cut(Exception):
        pass

    def stopping(self, micros, *args, **kwargs):
        if self.opened.steps == 4:
            raise Cut
        return write(self, micros, *args, **kwargs)

    write = TapeWriter.step
    monkeypatch.setattr(TapeWriter, "step", stopping)
    with pytest.raises(Cut):
        padded(tape=tmp_path / "run.zarr")
    monkeypatch.undo()
    model = Bag()
    monkeypatch.setitem(inspect.unwrap(ik.Tape.__init__).__kwdefaults__, "resume", True)
    padded(tape=tmp_path / "run.zarr", model=model)
    assert torch.equal(vector(model), padded())
    run = ik.open(tmp_path / "run.zarr", model=Bag(), loss=per_example)
    assert verify(run).gap == 0


def test_a_broken_chunk_of_examples_is_named(tmp_path):
    record(tmp_path / "run.zarr", named())
    (chunk,) = [p for p in (tmp_path / "run.zarr" / "content" / "c").rglob("*") if p.is_file()]
    chunk.write_bytes(bytes([*chunk.read_bytes()[:-5], *b"xxxxx"]))
    with pytest.raises(StoreError, match=r"chunk content/c/0/0 .* is corrupted"):
        ik.open(tmp_path / "run.zarr", model=network(dropout=0.2), loss=per_example)
    shutil.rmtree(tmp_path / "run.zarr" / "content" / "c")
    with pytest.raises(StoreError, match=r"chunk content/c/0/0 .* is missing"):
        ik.open(tmp_path / "run.zarr", model=network(dropout=0.2), loss=per_example)


def test_more_examples_than_memory_holds(monkeypatch, tmp_path):
    """They are read again from the store, chunk by chunk."""
    monkeypatch.setattr("influencekit._tape.stream._MEMORY", 100)
    monkeypatch.setattr("influencekit._trajectory.writing.ledger._TABLE", 100)
    record(tmp_path / "run.zarr", named(0.3))
    run = ik.open(tmp_path / "run.zarr", model=network(dropout=0.2), loss=per_example, test=held_out())
    assert run.group["content"].shape[0] > 3 * run.group["content"].chunks[0]
    right(run, 0.3)


# what is said -------------------------------------------------------------------------------------------


def test_numbered_batches_are_no_pairs():
    model = network()
    with pytest.raises(InputError, match=r"write enumerate\(tape.batches\(loader\)\)"):
        with ik.Tape(None, model, optimizer_of(model), loss=per_example, data=None) as tape:
            next(iter(tape.batches(enumerate(loader(0)))))


@pytest.mark.filterwarnings("default")
def test_the_size_is_announced_first():
    x, y = Examples().x, Examples().y
    model = network()
    heard = []
    with ik.Tape(None, model, optimizer_of(model), loss=per_example, data=None) as tape:
        with ik.progress.listen(lambda what, done, total: heard.append(what)):
            with pytest.warns(UserWarning, match="40 bytes for each, 480 bytes for an epoch in which none"):
                next(iter(tape.batches([(x[k : k + 4], y[k : k + 4]) for k in (0, 4, 8)])))
        assert tape._recording.writer.writer is None and "keeps the examples in its store" in heard[0]
        with pytest.raises(InputError, match="the tape saw no optimizer step"):
            tape.close()
        tape._recording.close(RuntimeError())
        tape._opened.close = lambda error: None


X, Y = Examples().x[:2], Examples().y[:2]
REFUSED = {
    "a list of ids": ({"ids": ["a", "b"]}, None, r"come with the batches, as pairs \(ids, batch\)"),
    "too few ids": ({}, (["a"], (X, Y)), "a batch of 2 examples came with 1 ids"),
    "ids that look the same": ({}, (["1", 1], (X, Y)), "'1' and 1 look the same"),
    "ids that are lists": (
        {},
        ([[1], [2]], (X, Y)),
        r"expected text or a number for each example, got \[1\]",
    ),
    "no such entry": ({"ids": "name"}, {"x": X}, "ids='name': the batch has no entry of that name"),
    "what is no tensor": ({}, {"x": X, "text": ["a", "b"]}, "entry 'text' of the batch is a list"),
    "another number of rows": ({}, (X, Y[:1]), "needs one row for each example; got rows"),
    "a number for the batch": ({}, {"x": X, "n": torch.tensor(3)}, "needs one row for each example"),
    "no batch": ({}, "text", "expected a tensor, a tuple or a dict of them, got str"),
}


@pytest.mark.parametrize(("options", "item", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_kept_says_what_to_write(options, item, words):
    model = network()
    with pytest.raises(InputError, match=words) as error:
        with ik.Tape(None, model, optimizer_of(model), loss=per_example, data=None, **options) as tape:
            for _ in tape.batches([item]):
                pass
    assert "\n" not in str(error.value)


def test_a_stream_with_a_penalty_accumulation_and_two_more_epochs(tmp_path):
    """Slots of penalties have no content; a finished run goes on."""
    path = tmp_path / "run.zarr"

    def penalty(model):
        return 0.05 * sum((p**2).sum() for p in model.parameters())

    def loop(model, weights=None, tape=None, epochs=(0, 1)):
        optimizer = optimizer_of(model)
        for epoch in epochs:
            source = named()(epoch) if tape is None else tape.batches(named()(epoch))
            for k, (ids, (x, y)) in enumerate(source):
                losses = per_example(model(x), y)
                w = 1.0 if weights is None else weights[[NAMES.index(i) for i in ids]]
                (((w * losses).mean() + penalty(model)) / 2).backward()
                if k % 2:
                    optimizer.step()
                    optimizer.zero_grad()
        return vector(model)

    model, options = network(), {"loss": per_example, "data": None, "penalty": penalty, "accumulate": 2}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)

    def go(epochs, **more):
        with ik.Tape(path, model, optimizer, check=1.0, **options, **more) as tape:
            for epoch in epochs:
                for k, (_, (x, y)) in enumerate(tape.batches(named()(epoch))):
                    ((per_example(model(x), y).mean() + penalty(model)) / 2).backward()
                    if k % 2:
                        optimizer.step()
                        optimizer.zero_grad()

    go((0,))
    go((1,), resume=True)
    run = ik.open(path, model=network(), loss=per_example, penalty=penalty, test=held_out())
    full = loop(network())
    assert run.steps == 4 and torch.equal(run.final.theta, full) and verify(run).gap == 0
    found = scores(run, "loo")[0, 0]
    for name in run.workload.train_ids[:3]:
        left = loop(network(), (torch.arange(N) != NAMES.index(name)).double())
        expected = float((losses_at(left) - losses_at(full)).mean())
        assert float(found.sel(train=name)) == pytest.approx(expected, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("ids", [[float("nan")] * 2, ["a\0", "a"]])
def test_ids_that_name_no_example(ids):
    model, x, y = torch.nn.Linear(3, 2), torch.randn(2, 3), torch.tensor([0, 1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = torch.nn.CrossEntropyLoss(reduction="none")
    with pytest.raises(ik.InputError, match="ids: .* names no example"):
        with ik.Tape(None, model, optimizer, loss=losses, data=None) as tape:
            for _, (inputs, target) in tape.batches([(ids, (x, y))]):
                losses(model(inputs), target).mean().backward()
