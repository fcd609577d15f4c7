"""Loaders and data sets as bars wrap them, and other usual forms."""

import numpy as np
import pytest
import torch
from helpers_tape import Examples, N, held_out, network, per_example, seed, untraced, vector
from helpers_wrapped import loader_of, plain_loop, record, right, setup
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import influencekit as ik
from influencekit import InputError

# loaders ------------------------------------------------------------------------------------------------


class Bar:
    """What a progress bar does: it iterates, has a length, and is no DataLoader."""

    def __init__(self, loader, change=lambda batch: batch):
        self.loader, self._change = loader, change

    def __iter__(self):
        return map(self._change, self.loader)

    def __len__(self):
        return len(self.loader)


def test_objects_around_a_loader():
    from tqdm import tqdm

    for wrap in (
        Bar,
        lambda loader: tqdm(Bar(loader), disable=True),
        lambda loader: tqdm(loader, disable=True),
    ):
        loader = loader_of(Examples())
        data = loader.dataset
        tape = record(lambda m, o, loader, wrap=wrap: (m, o, wrap(loader)), loader, data)
        right(tape.trajectory(test=held_out()))
        assert loader.dataset is data and [len(x) for x, _ in loader] == [4, 4, 4]


def test_a_wrapped_loader_with_workers():
    data = Examples(noisy=True)
    tape = record(lambda m, o, loader: (m, o, Bar(loader)), loader_of(data, num_workers=2), data)
    assert tape.trajectory().attrs["replay"].endswith("bit for bit")


def test_a_bar_around_the_tape_knows_the_number_of_batches():
    from tqdm import tqdm

    model, optimizer = setup()
    data = Examples()
    with ik.Tape(None, model, optimizer, loss=per_example, data=data, check=1.0) as tape:
        batches = tape.batches(loader_of(data))
        assert len(batches) == 3
        for _ in range(2):  # over the same object: two epochs
            bar = tqdm(batches, disable=True)
            assert bar.total is None or bar.total == 3
            plain_loop(model, optimizer, (batch for _, batch in bar))
    run = tape.trajectory(test=held_out())
    assert run.plan.epoch.tolist() == [0, 0, 0, 1, 1, 1]
    right(run)


UNCLEAR = {
    "enumerate": (lambda loader: enumerate(loader), r"write enumerate\(tape.batches\(loader\)\)"),
    "a generator": (lambda loader: (b for b in loader), "pass the DataLoader itself and wrap what the tape"),
    "an iterator": (lambda loader: iter(loader), "pass the DataLoader itself and wrap what the tape"),
    "zip": (lambda loader: zip(loader, loader, strict=True), "pass the DataLoader itself and wrap"),
    "no iterable": (lambda loader: 7, "expected a torch DataLoader, got int, which gives no batches"),
    "a change on the way": (
        lambda loader: Bar(loader, lambda b: [2 * b[0], b[1]]),
        r"Bar does not give the batches of its DataLoader .* Bar\(tape.batches\(loader\)\)",
    ),
}


@pytest.mark.parametrize(("wrap", "words"), UNCLEAR.values(), ids=UNCLEAR)
def test_what_cannot_be_looked_into_says_what_to_write(wrap, words):
    with pytest.raises(InputError, match=words) as error:
        record(lambda m, o, loader: (m, o, wrap(loader)))
    assert "\n" not in str(error.value)


def test_a_forgotten_with():
    model, optimizer = setup()
    tape = ik.Tape(None, model, optimizer, loss=per_example, data=Examples())
    with pytest.raises(InputError, match=r"write `with ik.Tape\(...\) as tape:` around the loop"):
        for _ in tape.batches(loader_of(Examples())):
            pass


# data sets ----------------------------------------------------------------------------------------------


class Numbered(Dataset):
    """Gives the number of every example, too."""

    def __init__(self, named=False):
        self.base, self.named = Examples(), named

    def __len__(self):
        return N

    def __getitem__(self, i):
        x, y = self.base[i]
        return {"input": x, "index": i, "labels": y} if self.named else (x, y, i)


@pytest.mark.parametrize("named", [False, True])
def test_a_data_set_that_numbers_its_examples(named, tmp_path):
    """The number is neither input nor target, where the loop does not give it to the model."""
    model, optimizer = setup()
    data = Numbered(named)
    loader = loader_of(data)
    with ik.Tape(tmp_path / "run.zarr", model, optimizer, loss=per_example, data=data, check=1.0) as tape:
        for _ in range(2):
            for ids, batch in tape.batches(loader):
                x, y, index = (batch[k] for k in (("input", "labels", "index") if named else (0, 1, 2)))
                assert ids == index.tolist()
                optimizer.zero_grad()
                per_example(model(x), y).mean().backward()
                optimizer.step()
    x, y = held_out()
    test = {"input": x, "labels": y} if named else held_out()
    right(tape.trajectory(test=test))
    right(ik.open(tmp_path / "run.zarr", model=network(), loss=per_example, data=data, test=test))


def test_other_inputs_than_those_of_the_loop():
    """(x, weight, y), of which the loop gives x to the model: one line says what to write."""
    x, y = Examples().x, Examples().y
    data = TensorDataset(x, torch.rand(N).double(), y)

    def loop(**options):
        model, optimizer = setup()
        loader = loader_of(data)
        with ik.Tape(None, model, optimizer, loss=per_example, data=data, check=1.0, **options) as tape:
            for _ in range(2):
                for _, (x, _, y) in tape.batches(loader):
                    optimizer.zero_grad()
                    per_example(model(x), y).mean().backward()
                    optimizer.step()
        return tape

    with pytest.raises(InputError, match=r"with 1 inputs, and the batch has 3 entries.*model\(batch\[0\]\)"):
        loop()
    a, b = held_out()
    right(loop(forward=lambda model, batch: model(batch[0])).trajectory(test=(a, torch.ones(5), b)))


@pytest.mark.parametrize("form", ["tuple", "dict", "TensorDataset of the same tensors"])
def test_tensors_in_place_of_a_data_set(form):
    x, y = Examples().x, Examples().y
    data = {"tuple": (x, y), "dict": {"input": x, "labels": y}}.get(form, (x, y))
    model, optimizer = setup()
    rows = loader_of(range(N))

    def pairs():
        for i in rows:
            yield i, {"input": x[i], "labels": y[i]} if form == "dict" else (x[i], y[i])

    with ik.Tape(None, model, optimizer, loss=per_example, data=data, check=1.0) as tape:
        for _ in range(2):
            source = loader_of(TensorDataset(x, y)) if form.startswith("Tensor") else pairs()
            if form.startswith("Tensor"):
                source.generator = source.sampler.generator = rows.generator
            for _, batch in tape.batches(source):
                a, b = batch.values() if form == "dict" else batch
                optimizer.zero_grad()
                per_example(model(a), b).mean().backward()
                optimizer.step()
    a, b = held_out()
    right(tape.trajectory(test={"input": a, "labels": b} if form == "dict" else (a, b)))
    with pytest.raises(InputError, match=r"the tensors have \[5, 12\] rows"):
        ik.Tape(None, model, optimizer, loss=per_example, data=(x, y[:5]))


def test_an_autoencoder_of_a_tensor_data_set():
    """One tensor is input and target, as for a batch that is a tensor."""

    def error(outputs, target):
        return ((outputs - target) ** 2).mean(1)

    def train(weights=None, tape=True):
        seed()
        data, model = TensorDataset(Examples().x), nn.Linear(4, 4).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if not tape:
            for rows in loader_of(range(N)):
                optimizer.zero_grad()
                (weights[rows] * error(model(data.tensors[0][rows]), data.tensors[0][rows])).mean().backward()
                optimizer.step()
            x = held_out()[0]
            return error(model(x), x).mean().item()
        with ik.Tape(None, model, optimizer, loss=error, data=data, check=1.0) as tape:
            for _, (x,) in tape.batches(loader_of(data)):
                optimizer.zero_grad()
                error(model(x), x).mean().backward()
                optimizer.step()
        return tape.trajectory(test=TensorDataset(held_out()[0]))

    run, ones = train(), torch.ones(N, dtype=torch.float64)
    with untraced():
        found = ik.estimate(run, "test-loss", "loo").influence.values[0, 0]
    for j in (1, 8):
        without = train((torch.arange(N) != j).double(), False) - train(ones, False)
        assert found[j] == pytest.approx(without, rel=1e-9, abs=1e-13)


def test_a_loader_over_a_part_of_the_data():
    """Positions and ids are those of the tape's data set; the rest has no influence."""
    data, part = Examples(), Subset(Subset(Examples(), range(N)), [1, 3, 5, 7, 9, 11])
    part.dataset.dataset = data
    model, optimizer = setup()
    with ik.Tape(None, model, optimizer, loss=per_example, data=data, check=1.0) as tape:
        for ids, (x, y) in tape.batches(DataLoader(part, batch_size=3)):
            assert torch.equal(x, data.x[ids])
            optimizer.zero_grad()
            per_example(model(x), y).mean().backward()
            optimizer.step()
    run = tape.trajectory(test=held_out())
    assert run.plan.indices.tolist() == [[1, 3, 5], [7, 9, 11]]
    with untraced():
        found = ik.estimate(run).influence.values[0, 0]
    assert ((found != 0) == (np.arange(N) % 2 == 1)).all()


def test_test_examples_in_a_loader():
    run = record(lambda *things: things)
    x, y = held_out()
    whole = run.trajectory(test=(x, y))
    for loader in (DataLoader(TensorDataset(x, y), batch_size=2), Bar(DataLoader(TensorDataset(x, y)))):
        found = run.trajectory(test=loader)
        assert all(torch.equal(a, b) for a, b in zip(found.workload.test, whole.workload.test, strict=True))


class Named(Dataset):
    """Gives the name of every example, as text."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        x, y = Examples()[i]
        return {"input": x, "id": f"n{i}", "labels": y}


def test_ids_that_the_data_set_gives(tmp_path):
    model, optimizer = setup()
    data, path = Named(), tmp_path / "run.zarr"
    loader = loader_of(data)
    with ik.Tape(path, model, optimizer, loss=per_example, data=data, ids="id", check=1.0) as tape:
        for _ in range(2):
            for ids, batch in tape.batches(loader):
                assert ids == batch["id"]
                optimizer.zero_grad()
                per_example(model(batch["input"]), batch["labels"]).mean().backward()
                optimizer.step()
    x, y = held_out()
    run = ik.open(path, model=network(), loss=per_example, data=data, test={"input": x, "labels": y})
    right(run)
    assert run.workload.train_ids[:2] == ["n0", "n1"]
    named = ik.open(path, model=network(), loss=per_example, data=data, test=data)
    assert set(named.workload.test) == {"input", "labels"}
    with pytest.raises(InputError, match="ids='name': the examples of data= have no entry of that name"):
        ik.Tape(None, model, optimizer, loss=per_example, data=data, ids="name")


def test_a_resumed_run_over_wrapped_loaders(tmp_path):
    """The order goes on where it was, whatever stands around the loader."""
    path, data = tmp_path / "run.zarr", Examples(noisy=True)

    def run(stop=None, store=path, **options):
        model, optimizer = setup()
        loader = loader_of(data)
        with ik.Tape(
            store, model, optimizer, loss=per_example, data=data, recorder="every-k:k=1", **options
        ) as tape:
            for _ in range(2):
                for _, (x, y) in tape.batches(Bar(loader)):
                    optimizer.zero_grad()
                    per_example(model(x), y).mean().backward()
                    optimizer.step()
                    if stop is not None and (stop := stop - 1) == 0:
                        raise KeyboardInterrupt
        return vector(model)

    whole = run(store=None)
    for stop in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            run(stop, tmp_path / f"{stop}.zarr")
        assert torch.equal(run(store=tmp_path / f"{stop}.zarr", resume=True), whole)
