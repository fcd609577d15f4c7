"""Several ranks of torch.distributed compute what one process computes, to rounding, or say why not."""

import os

import numpy as np
import pytest
import torch
import xarray as xr
from helpers_ranks import on_ranks
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from influencekit._files import check_result
from influencekit._verbs.shards import how_far
from influencekit.queries import TestLoss

CLOSE = 1e-12  # sums in another order, in float64
pytestmark = pytest.mark.fresh


def world():
    return torch.distributed.group.WORLD


def recorded(kind="dnn", **options):
    work = ik.make("workload", f"mnist-1v7-{kind}:n_train=50:epochs=2:setting=trained", **options)
    return ik.record(work.to(dtype=torch.float64))  # batches of 50 in 64 slots: blocks are unequal


def normalised():
    """A run whose losses depend on whole batches, and whose buffers change."""
    torch.manual_seed(0)
    x = torch.randn(20, 3, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    return ik.record(
        ik.Workload(
            model=model, loss=nn.CrossEntropyLoss(reduction="none"), train=(x, (x[:, 0] > 0).long()),
            test=(x[:5], (x[:5, 1] > 0).long()), optimizer=ik.SGD(lr=0.1), batch_size=8,
            epochs=2,
        )
    )  # fmt: skip


def taped():
    """Three micro-batches a step, AdamW, clipping, and a penalty that is no example's."""
    torch.manual_seed(0)
    data = TensorDataset(x := torch.randn(22, 3, dtype=torch.float64), (x[:, 0] > 0).long())
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = nn.CrossEntropyLoss(reduction="none")

    def penalty(model):
        return 0.01 * sum((p**2).sum() for p in model.parameters())

    tape = ik.Tape(
        None, model, optimizer, loss=losses, data=data, accumulate=3, penalty=penalty, clip_norm=0.3
    )
    with tape:
        for _ in range(2):
            for k, (_, (inputs, target)) in enumerate(tape.batches(DataLoader(data, batch_size=4))):
                ((losses(model(inputs), target).mean() + penalty(model)) / 3).backward()
                if k % 3 == 2:
                    nn.utils.clip_grad_norm_(model.parameters(), 0.3)
                    optimizer.step()
                    optimizer.zero_grad()
    return tape.trajectory(test=data)


def asked(run, *what, **more):
    return ik.estimate(run, *what, **more).influence.values


def equal(found, expected):
    return np.abs(found - expected).max() <= CLOSE * np.abs(expected).max()


@pytest.mark.parametrize("size", [2, 3])
def test_scores_are_those_of_one_process(size):
    plain, norm, tape = recorded(), normalised(), taped()
    cases = {
        "the whole run": (plain, "test-loss", "dit"),
        "fisher": (plain, "test-loss", "dit:curvature=fisher", "each-epoch"),
        "gauss-newton": (plain, "prediction:example=1", "dit:curvature=gauss-newton"),
        "whole batches": (norm, "test-losses", "dit", "each-epoch"),
        "a tape": (tape, "test-loss", "dit", "step:0-2,step:1-4", "window"),
        "sgd-influence": (plain, "test-loss", "sgd-influence"),
    }
    if size == 3:
        cases = {name: cases[name] for name in ("the whole run", "a tape")}
    alone = {name: asked(*case) for name, case in cases.items()}
    every = on_ranks(size, lambda rank: {n: asked(*case, group=world()) for n, case in cases.items()})
    for found in every:
        assert isinstance(found, dict), found
        assert [name for name in cases if not equal(found[name], alone[name])] == []
        assert all((found[name] == every[0][name]).all() for name in cases)  # bit for bit among the ranks


def test_contributions_are_shards_of_one_store(tmp_path):
    run, norm = recorded(), normalised()
    alone = ik.contributions(run, at="each-epoch"), ik.contributions(norm, at="each-epoch")

    def work(rank):
        ik.contributions(run, at="each-epoch", store=tmp_path / "a.zarr", group=world())
        ik.contributions(norm, at="each-epoch", store=tmp_path / "b.zarr", group=world())

    assert on_ranks(3, work) == [None] * 3
    for name, expected in zip("ab", alone, strict=True):
        check_result(tmp_path / f"{name}.zarr")
        found = xr.open_zarr(tmp_path / f"{name}.zarr")
        assert equal(found.contribution.values, expected.contribution.values)
        assert (found.status, found.done_from) == ("complete", [0, 0])
        assert (found.batch == expected.batch).all()
    chunks = xr.open_zarr(tmp_path / "a.zarr").contribution.encoding["chunks"]
    assert chunks[3] == 22  # a third of 64 slots


class Bomb(TestLoss):
    """The test loss; the process of rank 1 dies where it is asked at state 1."""

    def gradient(self, workload, theta):
        if torch.distributed.is_initialized() and torch.distributed.get_rank() and self.seen:
            os._exit(1)
        self.seen.append(1)
        return super().gradient(workload, theta)

    seen: list = []  # noqa: RUF012


def test_a_rank_that_dies_ends_the_others_and_the_store_says_how_far_it_came(tmp_path, monkeypatch):
    monkeypatch.setattr("influencekit._verbs.contributions._CHUNK", 1)  # a step is a chunk
    monkeypatch.setattr("influencekit._trajectory.blocks._BLOCK", 1)  # and read alone
    run, path = recorded(epochs=4), tmp_path / "c.zarr"
    alone = ik.contributions(run, at=[2, 4])
    first, second = on_ranks(
        2, lambda rank: ik.contributions(run, Bomb(), at=[2, 4], store=path, group=world())
    )
    assert second is None
    assert isinstance(first, ik.InfluenceKitError) and "another rank has ended" in str(first)
    found = xr.open_zarr(path)
    assert found.status == "unfinished" and found.done_from == [2, 2]
    there = found.contribution.values
    assert equal(there[:, 1, 2:], alone.contribution.values[:, 1, 2:]) and np.isnan(there[:, 1, :2]).all()
    with pytest.raises(ik.StoreError, match="did not end, and is there from step 2 for state 2, 2 for state"):
        ik.sum_over_windows(found)
    many = found.assign_attrs(done_from=[2] * 40).isel(evaluation=[0] * 40)
    assert how_far(many).endswith("2 for state 2, 2 for state 2, 2 for state 2, and so on for 40 states")


def test_what_ranks_cannot_do_is_refused(tmp_path):
    run, norm = recorded(), normalised()
    questions = {
        "the query is test-loss on rank 0 and test-losses on rank 1": lambda rank: asked(
            run, ["test-loss", "test-losses"][rank], group=world()
        ),
        "loo is not spread over ranks": lambda rank: asked(run, "test-loss", "loo", group=world()),
        "dit:centre=0.5 is not spread": lambda rank: asked(run, "test-loss", "dit:centre=0.5", group=world()),
        "sees whole batches, so the ranks cannot divide": lambda rank: asked(norm, group=world()),
        "goes into a store; pass store=path": lambda rank: ik.contributions(run, group=world()),
        "exists already": lambda rank: ik.contributions(run, store=tmp_path, group=world()),
        "expected a process group": lambda rank: asked(run, group="world"),
    }

    def work(rank):
        said = {}
        for words, ask in questions.items():
            try:
                ask(rank)
            except ik.InputError as error:
                said[words] = str(error)
        return said

    for said in on_ranks(2, work):
        assert [words for words in questions if words not in said.get(words, "")] == [], said
    with pytest.raises(ik.InputError, match="torch.distributed is not initialized"):
        asked(run, group="none")
