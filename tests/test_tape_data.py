"""Data of every usual kind: a replay fetches the batches that the loop saw, and the tape disturbs none."""

import random

import numpy as np
import pytest
import torch
from helpers_tape import Examples, held_out, network, per_example, seed, untraced, vector
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

import influencekit as ik
from influencekit._tape.loader import Stacked, fetch, items
from influencekit._tape.rng import capture

N = 12


def noisy(rows):
    """A collation that augments, too."""
    x, y = default_collate(rows)
    return x + 0.1 * torch.randn(len(x), 1).to(x) + random.gauss(0, 0.1) + float(np.random.normal()), y


class Gauss(Dataset):
    """Draws that leave a second normal number behind in Python's and NumPy's generators."""

    def __init__(self):
        self.base = Examples()

    def __len__(self):
        return N

    def __getitem__(self, i):
        x, y = self.base[i]
        return x * random.gauss(1, 0.1) + float(np.random.standard_normal()), y


class Together(Dataset):
    """IndexedBatch a batch at a time."""

    def __init__(self):
        self.base = Examples()

    def __len__(self):
        return N

    def __getitem__(self, i):
        raise AssertionError("not one by one")

    def __getitems__(self, indices):
        shift = torch.rand(1).to(self.base.x)  # one for the whole batch
        return [(self.base.x[i] + shift, self.base.y[i]) for i in indices]


class Lazy(Sampler):
    """Draws as it goes, from the global generator."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __iter__(self):
        left = list(range(self.size))
        while left:
            yield left.pop(int(torch.randint(len(left), (1,))))


def own(number=1):
    return torch.Generator().manual_seed(number)


plain, augmented = Examples(), Examples(noisy=True)
weights = torch.arange(1, N + 1).double()
LOADERS = {
    "in order": lambda: DataLoader(plain, batch_size=4),
    "shuffled": lambda: DataLoader(plain, batch_size=4, shuffle=True),
    "its own generator": lambda: DataLoader(plain, batch_size=4, shuffle=True, generator=own()),
    "augmented": lambda: DataLoader(augmented, batch_size=4, shuffle=True),
    "augmented in the collation, too": lambda: DataLoader(augmented, 4, shuffle=True, collate_fn=noisy),
    "half-used pairs of normal numbers": lambda: DataLoader(Gauss(), batch_size=3, shuffle=True),
    "fetched together": lambda: DataLoader(Together(), batch_size=4, shuffle=True),
    "two workers": lambda: DataLoader(augmented, 4, shuffle=True, num_workers=2, collate_fn=noisy),
    "persistent workers": lambda: DataLoader(
        augmented, 4, shuffle=True, num_workers=2, persistent_workers=True
    ),
    "one worker that reads ahead": lambda: DataLoader(Gauss(), 3, num_workers=1, prefetch_factor=4),
    "weighted, without replacement": lambda: DataLoader(
        plain, batch_size=4, sampler=WeightedRandomSampler(weights, N, replacement=False)
    ),
    "weighted, with replacement": lambda: DataLoader(
        augmented, batch_size=4, sampler=WeightedRandomSampler(weights**2, N, generator=own())
    ),
    "weighted, some never": lambda: DataLoader(
        plain, batch_size=4, sampler=WeightedRandomSampler(weights, 8, replacement=False, generator=own())
    ),
    "a random part": lambda: DataLoader(
        plain, batch_size=4, sampler=SubsetRandomSampler([2, 3, 5, 7, 11], generator=own())
    ),
    "a sampler that draws as it goes": lambda: DataLoader(augmented, batch_size=4, sampler=Lazy(N)),
    "batches of a sampler": lambda: DataLoader(
        augmented, batch_sampler=BatchSampler(RandomSampler(plain, generator=own()), 5, drop_last=True)
    ),
    "a list of batches": lambda: DataLoader(augmented, batch_sampler=[[0, 5], [3, 1, 2], [7]]),
    "indices as NumPy numbers": lambda: DataLoader(augmented, 4, sampler=list(np.arange(N)[::-1])),
    "batches as NumPy arrays": lambda: DataLoader(augmented, batch_sampler=[np.array([0, 5]), np.arange(3)]),
    "batches as tensors": lambda: DataLoader(
        TensorDataset(plain.x, plain.y), batch_sampler=[torch.tensor([4, 2]), torch.arange(3)]
    ),
    "a subset of a subset": lambda: DataLoader(
        Subset(ConcatDataset([augmented, plain]), list(range(6, 20))), batch_size=4, shuffle=True
    ),
}
each_loader = pytest.mark.parametrize("name", LOADERS)


def train(name, tape=True, dropout=0.2, **options):
    """Two epochs over a loader: the tape (or None), the batches that the loop saw, theta at the end."""
    seed()
    loader, model, seen = LOADERS[name](), network(dropout=dropout), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    settings = {"recorder": "every-k:k=2", "check": 1.0, **options}

    def loop(batches):
        for x, y in batches:
            seen.append((x, y))
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    if not tape:
        for _ in range(2):
            loop(loader)
        return None, seen, vector(model)
    with ik.Tape(None, model, optimizer, loss=per_example, data=loader.dataset, **settings) as roll:
        for _ in range(2):
            loop(batch for _, batch in roll.batches(loader))
    return roll, seen, vector(model)


@each_loader
def test_a_replay_fetches_the_batches_that_the_loop_saw(name):
    roll, seen, theta = train(name)
    run = roll.trajectory()
    assert run.steps == len(seen) and run.attrs["replay"].endswith("equal bit for bit")
    for t, (x, y) in enumerate(seen):
        ((_, batch, _),) = run.step.source.parts(run.state(t))
        assert torch.equal(batch[0], x) and torch.equal(batch[1], y)
    assert torch.equal(run.step.advance(run.state(run.steps - 1))[0].theta, theta)


@each_loader
def test_the_loop_sees_the_batches_that_it_would_see_without_the_tape(name):
    _, with_it, theta = train(name)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    _, without, expected = train(name, tape=False)
    assert all(
        torch.equal(a, b) for x, y in zip(with_it, without, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert torch.equal(theta, expected)
    assert state[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(state[0], torch.get_rng_state())


def test_the_tape_names_the_examples_of_every_batch():
    """By the ids that were given; the positions are in the store."""
    data, model, names = Examples(), network(), [f"example {i}" for i in range(N)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    with ik.Tape(None, model, optimizer, loss=per_example, data=data, ids=names) as tape:
        for ids, (x, y) in tape.batches(DataLoader(data, batch_size=5, shuffle=True)):
            assert all(torch.equal(data.x[names.index(i)], row) for i, row in zip(ids, x, strict=True))
            found.append([names.index(i) for i in ids])
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    run = tape.trajectory()
    assert [run.plan.batch(t).tolist() for t in range(3)] == found and sorted(sum(found, [])) == list(
        range(N)
    )


def test_an_example_that_was_never_drawn_has_no_influence():
    roll, _, _ = train("a random part", dropout=0.0)
    run = roll.trajectory(test=held_out())
    drawn = np.isin(np.arange(N), [2, 3, 5, 7, 11])
    for name in ("dit", "loo"):
        with untraced():
            scores = ik.estimate(run, "test-loss", name).influence.values[0, 0]
        assert ((scores != 0) == drawn).all()


def test_pairs_of_positions_and_batches_of_ones_own_making():
    """With augmentation by the data set, and random numbers drawn in between."""
    seed()
    data, model, seen = Examples(noisy=True), network(dropout=0.3), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)

    def pairs():
        for rows in torch.randperm(N).split(5):
            state = capture()
            batch = default_collate([data[int(i)] for i in rows])
            yield rows, batch, state

    with ik.Tape(None, model, optimizer, loss=per_example, data=data, check=1.0) as tape:
        for rows, batch, state in pairs():
            tape.boundary(epoch=0)
            tape.push(rows, state, batch)
            seen.append(batch)
            nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
            optimizer.step()
            optimizer.zero_grad()
    run = tape.trajectory()
    assert run.attrs["replay"] == "3 steps replayed, equal bit for bit"
    for t, (x, _) in enumerate(seen):
        ((_, batch, _),) = run.step.source.parts(run.state(t))
        assert torch.equal(batch[0], x)


def test_pairs_of_plain_data():
    data, model = Examples(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ik.Tape(None, model, optimizer, loss=per_example, data=data, check=1.0) as tape:
        for _ in range(2):
            order = np.random.permutation(N).reshape(3, 4)
            for _, (x, y) in tape.batches((rows, (data.x[rows], data.y[rows])) for rows in order):
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
    run = tape.trajectory()
    assert (
        run.attrs["replay"] == "6 steps replayed, equal bit for bit"
        and run.plan.epoch.tolist() == [0] * 3 + [1] * 3
    )


@pytest.mark.parametrize("name", ["augmented", "two workers"])
def test_scores_of_augmented_data_follow_retraining(name):
    """A removal leaves the noise of all others as it was."""
    roll, _, _ = train(name)
    run = roll.trajectory(test=held_out())
    with untraced():
        first, exact = (ik.estimate(run, "test-loss", n).influence.values.ravel() for n in ("dit", "loo"))
    assert np.corrcoef(first, exact)[0, 1] > 0.95


def test_every_state_of_the_generators_is_stored_once():
    """Nothing draws: one row. Dropout alone: one a step, which fetching shares with the forward pass."""
    quiet, loud = (train("in order", dropout=p)[0].trajectory() for p in (0.0, 0.3))
    assert quiet.group["rng"].shape[0] <= 3  # the loader draws a seed for every epoch
    assert loud.group["rng"].shape[0] <= loud.steps + 4
    assert not quiet.step.source.random and loud.step.source.random


class Thing:
    """An example that is no tensor before it is collated."""

    def __init__(self, x, y):
        self.x, self.y, self.more = x, y, {"what": object()}


def test_examples_may_be_any_objects(tmp_path):
    """They are the same data when they are made again, and other data when they hold other numbers."""

    def collate(things):
        return torch.stack([t.x for t in things]), torch.stack([t.y for t in things])

    def made(shift=0.0):
        return [Thing(x + shift, y) for x, y in (plain[i] for i in range(N))]

    data, model = made(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ik.Tape(tmp_path / "a.zarr", model, optimizer, loss=per_example, data=data) as tape:
        for _, (x, y) in tape.batches(DataLoader(data, batch_size=4, collate_fn=collate)):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    again = {"model": network(), "loss": per_example, "collate": collate}
    assert ik.open(tmp_path / "a.zarr", data=made(), **again).steps == 3
    with pytest.raises(ik.StoreError, match="on other training data"):
        ik.open(tmp_path / "a.zarr", data=made(0.1), **again)


def test_what_starts_a_worker_finds_the_data_set():
    """`worker_init_fn` may read from it."""

    def start(worker):
        assert len(torch.utils.data.get_worker_info().dataset.base) == N

    data, model = Gauss(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ik.Tape(None, model, optimizer, loss=per_example, data=data) as tape:
        for _, (x, y) in tape.batches(DataLoader(data, 4, num_workers=1, worker_init_fn=start)):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert tape.trajectory().steps == 3


def test_data_that_is_not_fetched_as_it_was_is_found():
    """A data set that counts its own calls."""

    class Counting(Dataset):
        def __init__(self):
            self.base, self.calls = Examples(), 0

        def __len__(self):
            return N

        def __getitem__(self, i):
            self.calls += 1
            return self.base.x[i] + 0.01 * self.calls, self.base.y[i]

    data, model = Counting(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        pytest.raises(ik.InputError, match="step 0, replayed, is not what the loop did"),
        ik.Tape(None, model, optimizer, loss=per_example, data=data) as tape,
    ):
        for _, (x, y) in tape.batches(DataLoader(data, batch_size=4)):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


def test_rows_of_tensors_fetched_at_once_are_those_fetched_one_by_one():
    data = TensorDataset(torch.randn(9, 2, 3), torch.arange(9), torch.rand(9) > 0.5)
    one_by_one = default_collate(items(data, [3, 3, 0, 8]))
    at_once = fetch(data, default_collate, [3, 3, 0, 8], None)
    assert type(items(data, [3], default_collate)) is Stacked and type(at_once) is type(one_by_one)
    for slow, fast in zip(one_by_one, at_once, strict=True):
        assert torch.equal(slow, fast) and slow.dtype == fast.dtype and slow.stride() == fast.stride()
