"""Loops without a data set: the tape keeps the examples, by content, and ids come from the loop."""

import inspect
import shutil

import numpy as np
import pytest
import torch
from helpers_tape import Examples, N, held_out, losses_at, network, per_example, seed, untraced, vector
from test_tape_laws import derivative
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import influencekit as ik
from influencekit import InputError, StoreError, Window
from influencekit._tape.writer import TapeWriter
from influencekit._verbs.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore:without a data set")
NAMES = [f"example {i}" for i in range(N)]


def drawn(epoch):
    """The batches of an epoch: some examples several times, some not at all."""
    generator = torch.Generator().manual_seed(epoch)
    return torch.randint(N, (4, 5), generator=generator).tolist()


def batches(epoch, noise=0.0):
    """(rows, x, y) as a stream makes them; `noise`: other content every time."""
    data, generator = Examples(), torch.Generator().manual_seed(10 + epoch)
    for rows in drawn(epoch):
        x = data.x[rows]
        yield rows, x + noise * torch.randn(x.shape, generator=generator, dtype=x.dtype), data.y[rows]


def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)


def alone(weights=None, noise=0.0, epochs=2):
    """The loop in PyTorch alone: theta before every step, and last."""
    seed()
    model = network(dropout=0.2)
    optimizer, states = optimizer_of(model), [vector(model)]
    for epoch in range(epochs):
        for rows, x, y in batches(epoch, noise):
            optimizer.zero_grad()
            losses = per_example(model(x), y)
            (losses if weights is None else losses * weights[rows]).mean().backward()
            optimizer.step()
            states.append(vector(model))
    return states


def train(tape, model, optimizer, source, stop=None, epochs=2):
    """Two epochs over source(epoch); `stop`: an exception after so many steps, as when a process dies."""
    for epoch in range(epochs):
        for _, (x, y) in tape.batches(source(epoch)):
            optimizer.zero_grad()
            per_example(model(x), y).mean().backward()
            optimizer.step()
            if stop is not None and (stop := stop - 1) == 0:
                raise KeyboardInterrupt


def named(noise=0.0):
    return lambda epoch: (([NAMES[i] for i in rows], (x, y)) for rows, x, y in batches(epoch, noise))


def record(store, source, stop=None, **options):
    seed()
    model = network(dropout=0.2)
    optimizer = optimizer_of(model)
    settings = {"recorder": "every-k:k=3", "check": 1.0} | options
    with ik.Tape(store, model, optimizer, loss=per_example, data=None, **settings) as tape:
        train(tape, model, optimizer, source, stop)
    return tape


def scores(run, estimator, windows=None):
    with untraced():
        return ik.estimate(run, "test-loss", estimator, windows).influence


def right(run, noise=0.0, names=NAMES):
    """First order against differences of the plain loop, leave-one-out against it without the example."""
    full = alone(noise=noise)
    assert run.attrs["replay"].endswith("bit for bit") and torch.equal(run.final.theta, full[-1])
    shown = [name for name in names if name in run.workload.train_ids]
    assert sorted(map(str, shown)) == sorted(map(str, run.workload.train_ids))
    windows = [Window(0, run.steps), Window(2, 5)]
    d = torch.randn(N, generator=torch.Generator().manual_seed(6), dtype=torch.float64)

    def f(h, window):
        states = alone(1 + h * d, noise)
        return float((losses_at(states[window.stop]) - losses_at(states[window.start])).mean())

    found, exact = scores(run, "dit", windows), scores(run, "loo", windows[:1])
    for k, window in enumerate(windows):
        value = sum(float(d[names.index(n)]) * float(found[0, k].sel(train=n)) for n in shown)
        assert value == pytest.approx(-derivative(lambda h, w=window: f(h, w), 1e-2), rel=1e-5)
    for name in shown[:3]:
        left = alone((torch.arange(N) != names.index(name)).double(), noise)
        expected = float((losses_at(left[-1]) - losses_at(full[-1])).mean())
        assert float(exact[0, 0].sel(train=name)) == pytest.approx(expected, rel=1e-9, abs=1e-13)


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


class Stream(IterableDataset):
    """The examples of an epoch, one after the other."""

    epoch = 0

    def __iter__(self):
        for _, x, y in batches(self.epoch):
            yield from zip(x, y, strict=True)


def loader(epoch):
    stream = Stream()
    stream.epoch = epoch
    return DataLoader(stream, batch_size=5, generator=torch.Generator())  # draws nothing from the global one


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

TEXTS = [torch.randint(1, 9, (n,), generator=torch.Generator().manual_seed(n)) for n in (3, 5, 2, 7, 4, 3)]


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.words, self.out = nn.Embedding(9, 3, dtype=torch.float64), nn.Linear(3, 3).double()

    def forward(self, x):
        return self.out((self.words(x) * (x > 0)[..., None]).sum(1))


def padded(weights=None, tape=None, model=None):
    model = Bag() if model is None else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    order = [[0, 1], [2, 0], [3, 4], [5, 2], [1, 3], [0, 0]]

    def source():
        for rows in order:
            x = nn.utils.rnn.pad_sequence([TEXTS[i] for i in rows], batch_first=True)
            yield rows, (x, torch.tensor([i % 3 for i in rows]))

    def loop(pairs):
        for rows, (x, y) in pairs:
            optimizer.zero_grad()
            losses = per_example(model(x), y)
            (losses if weights is None else losses * weights[rows]).mean().backward()
            optimizer.step()
        return vector(model)

    if tape is None:
        return loop(source())
    with ik.Tape(tape, model, optimizer, loss=per_example, data=None, check=1.0) as roll:
        loop(roll.batches(source()))
    return roll


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
