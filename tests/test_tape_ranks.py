"""A loop that several ranks run together: one store comes out, and it is the run that they made."""

import numpy as np
import pytest
import torch
from helpers_ranks import on_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import influencekit as ik

LOSS = nn.CrossEntropyLoss(reduction="none")
pytestmark = pytest.mark.fresh


def world():
    return torch.distributed.group.WORLD


def data(dtype=torch.float32):
    x = torch.randn(22, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    return TensorDataset(x, (x[:, 0] > 0).long())


def network(dropout=0.0, norm=False, dtype=torch.float32):
    torch.manual_seed(1)
    layers = [nn.Linear(3, 4), nn.Tanh(), nn.Dropout(dropout), nn.Linear(4, 2)]
    return nn.Sequential(*layers, *([nn.BatchNorm1d(2)] if norm else [])).to(dtype)


def loop(path, rank, model, accumulate=1, clip=None, average=True, **options):
    """DDP, a DistributedSampler, 3 or 4 examples a batch, no_sync. Returns the parameters at the end."""
    torch.manual_seed(rank)
    examples = data(next(model.parameters()).dtype)
    model = DistributedDataParallel(model) if average else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    sampler = DistributedSampler(examples)
    loader = DataLoader(examples, batch_size=4, sampler=sampler)
    options = {"loss": LOSS, "data": examples, "group": world(), "clip_norm": clip, **options}
    with ik.Tape(path, model, optimizer, accumulate=accumulate, **options) as tape:
        for epoch in range(2):
            sampler.set_epoch(epoch)
            for k, (_, (x, y)) in enumerate(tape.batches(loader)):
                if k // accumulate >= len(loader) // accumulate:
                    continue
                last = k % accumulate == accumulate - 1
                model.require_backward_grad_sync = last  # as no_sync() does
                (LOSS(model(x), y).mean() / accumulate).backward()
                if last:
                    if clip is not None:
                        nn.utils.clip_grad_norm_(model.parameters(), clip)
                    optimizer.step()
                    optimizer.zero_grad()
    return end_of(model)


def end_of(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy()


def by_hand(rank, model, weights, clip):
    """The same loop in float64 with weights [22] on the examples' losses; micro-batches of 4, two a step."""
    model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    x, y = data(torch.float64).tensors
    sampler = DistributedSampler(data())
    for epoch in range(2):
        sampler.set_epoch(epoch)
        order = list(sampler)
        batches = [order[k : k + 4] for k in range(0, len(order), 4)]
        for k in range(0, len(batches) - 1, 2):
            means = [(weights[b] * LOSS(model(x[b]), y[b])).mean() for b in batches[k : k + 2]]
            (sum(means) / 2).backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    return end_of(model)


def test_two_ranks_make_one_store_that_replays_bit_for_bit(tmp_path):
    path = tmp_path / "run.zarr"
    first, second = on_ranks(2, lambda rank: loop(path, rank, network(0.3), clip=0.2, check=1.0))
    assert isinstance(first, np.ndarray) and isinstance(second, np.ndarray), (first, second)
    assert (first == second).all()
    run = ik.open(path, model=network(0.3), loss=LOSS, data=data(), test=data())
    assert "equal bit for bit" in run.attrs["replay"]
    run.check_replay(0, run.steps)
    state = run.state(0)
    while state.step < run.steps:
        state = run.step.advance(state)[0]
    assert (state.theta.numpy() == first).all()
    both = [list(DistributedSampler(data(), 2, rank)) for rank in range(2)]
    assert run.plan.batch(0).tolist() == both[0][:4] + both[1][:4]


@pytest.mark.parametrize("size", [2, 3])
def test_dit_is_the_derivative_of_the_loop(tmp_path, size):
    """Central differences of the loop itself, in float64, over the weights of two examples."""
    double = torch.float64
    moves = [(j, sign) for j in (3, 8) for sign in (1e-4, -1e-4)]

    def work(rank):
        ends = [loop(tmp_path / "run.zarr", rank, network(dtype=double), accumulate=2, clip=0.3)]
        for j, sign in moves:
            weights = torch.ones(22, dtype=double)
            weights[j] += sign
            ends.append(by_hand(rank, network(dtype=double), weights, 0.3))
        return ends

    ends = on_ranks(size, work)
    assert isinstance(ends[0], list), ends
    run = ik.open(
        tmp_path / "run.zarr", model=network(dtype=double), loss=LOSS, data=data(double), test=data(double)
    )
    query = ik.make("query", "test-loss")

    def value(theta):
        return float(query.evaluate(run.workload, torch.from_numpy(theta)))

    scores = ik.estimate(run).influence.values.ravel()
    up, down = ends[0][1::2], ends[0][2::2]
    slopes = [(value(a) - value(b)) / 2e-4 for a, b in zip(up, down, strict=True)]
    assert np.allclose(scores[[3, 8]], [-s for s in slopes], rtol=1e-6)


def refused(words, **options):
    def work(rank):
        try:
            model = network(norm=options.get("norm", False))
            loop(None, rank, model, **{k: v for k, v in options.items() if k != "norm"})
        except ik.InputError as error:
            return str(error)
        return "recorded"

    for said in on_ranks(2, work):
        assert words in said


def test_running_statistics_are_refused():
    refused("training changes the buffer 4.running_mean (running statistics), on each rank", norm=True)


def test_gradients_that_are_not_averaged_are_refused_on_every_rank():
    refused("step 0", average=False)


def test_a_loop_without_the_group_is_refused():
    refused("2 processes train together (torch.distributed), and a tape sees the examples of one", group=None)


@pytest.mark.parametrize("option", [{"resume": True}, {"check": 0.0}, {"data": None}])
def test_what_several_ranks_cannot_record_is_refused(option):
    refused("with a group, ", **option)
