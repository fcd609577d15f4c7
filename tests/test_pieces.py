"""A test set that does not fit is evaluated in pieces: the same numbers, and no more memory."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import influencekit as ik
from influencekit._training import pieces
from influencekit._training.accuracy import accuracy
from influencekit._training.batch import tensors_of

TRAIN, TEST, PIECE = 16, 100, 12
QUERIES = ["test-loss", "test-losses", "alignment"]
WINDOWS = [ik.Window(0, t) for t in range(1, 9)]  # so many that the gradient of the query is traced
SEEN = [0]  # the largest batch that any of the networks below was called with


class Net(nn.Module):
    """A network that says in SEEN how large its batches are."""

    def __init__(self, batch_norm=False):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
            self.norm = nn.BatchNorm1d(6) if batch_norm else nn.Identity()

    def forward(self, x):
        SEEN[0] = max(SEEN[0], len(x))
        return self.last(torch.tanh(self.norm(self.first(x))))


def sample(n, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (n,), generator=generator)


def recorded(batch_norm=False, loss=nn.CrossEntropyLoss(reduction="none")):  # noqa: B008
    work = ik.Workload(
        model=Net(batch_norm).double(), loss=loss, train=sample(TRAIN, 0), test=sample(TEST, 1),
        optimizer=ik.SGD(lr=0.3), epochs=2, batch_size=4,
    )  # fmt: skip
    return ik.record(work)


def taped(loss=nn.CrossEntropyLoss(reduction="none")):  # noqa: B008
    model = Net().double()
    optimizer, data = torch.optim.SGD(model.parameters(), lr=0.3), sample(TRAIN, 0)
    data = torch.utils.data.TensorDataset(*data)
    with ik.Tape(None, model, optimizer, loss=loss, data=data) as tape:
        for _ in range(2):
            for _, (x, y) in tape.batches(torch.utils.data.DataLoader(data, batch_size=4)):
                optimizer.zero_grad()
                loss(model(x), y).mean().backward()
                optimizer.step()
    return tape.trajectory(test=sample(TEST, 1))


@pytest.fixture
def small(monkeypatch):
    """So little memory that a piece has PIECE examples of the networks above."""

    def limit(run):
        each = pieces.bytes_of_example(run.workload, run.workload.test)
        monkeypatch.setattr(pieces, "LIMIT", int(PIECE * each))

    return limit


MAKE = {"recorded": recorded, "batch norm": partial(recorded, True), "taped": taped}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
@pytest.mark.parametrize("query", QUERIES)
def test_pieces_give_the_numbers_of_the_whole(make, query, small):
    """Scores by dit and loo, accuracy: to rounding; and no batch is larger than a piece."""
    SEEN[0], whole, run = 0, make(), make()
    names = ("dit", "loo:examples=4") + (
        () if make is MAKE["batch norm"] else ("loo:examples=4:strategy=batch",)
    )
    expected = [ik.estimate(whole, query, name, WINDOWS).influence.values for name in names]
    assert SEEN[0] == TEST
    small(run)
    SEEN[0] = 0
    for name, values in zip(names, expected, strict=True):
        found = ik.estimate(run, query, name, WINDOWS).influence.values
        np.testing.assert_allclose(found, values, rtol=1e-9, atol=1e-12)
    there, theta = run.workload_at(run.steps), run.final.theta
    assert there.judge(theta) == whole.workload_at(run.steps).judge(whole.final.theta)
    assert SEEN[0] <= PIECE + (make is MAKE["batch norm"]) * 4


class Saved:
    """A tensor that autograd saves; `live` bytes of them are there, and `most` were at once."""

    live, most = 0, 0

    def __init__(self, x):
        self.x, self.bytes = x, x.numel() * x.element_size()
        Saved.live += self.bytes
        Saved.most = max(Saved.most, Saved.live)

    def __del__(self):
        Saved.live -= self.bytes


@pytest.mark.parametrize("gradient", [ik.Query.gradient, type(ik.make("query", "test-loss")).gradient])
def test_what_a_gradient_keeps_does_not_grow_with_the_test_set(gradient, small):
    """The most bytes that autograd has saved at once: by any query, and by the mean test loss."""
    run, kept, gradients = recorded(), [], []
    query, theta = ik.make("query", "test-loss"), run.final.theta
    for limited in (False, True):
        if limited:
            small(run)
        Saved.most = Saved.live = 0
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.x):
            gradients.append(gradient(query, run.workload, theta))
        kept.append(Saved.most)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)
    assert kept[1] < 0.3 * kept[0]


def test_the_gradient_of_the_mean_test_loss_runs_every_piece_once(small, monkeypatch):
    run, calls, forward = recorded(), [], Net.forward
    small(run)
    query, theta, count = ik.make("query", "test-loss"), run.final.theta, -(-TEST // PIECE)
    assert len(pieces.pieces(run.workload, run.workload.test)) == count  # which measures first
    monkeypatch.setattr(Net, "forward", lambda self, x: (calls.append(len(x)), forward(self, x))[1])
    query.gradient(run.workload, theta)
    assert len(calls) == count and sum(calls) == TEST


def test_what_fits_is_one_piece_and_the_same_bits():
    run = recorded()
    assert pieces.pieces(run.workload, run.workload.test)[0] is run.workload.test
    theta = run.final.theta
    plain = run.workload.loss_of(run.workload.outputs(theta, run.workload.test), run.workload.test)
    assert torch.equal(run.workload.losses(theta, run.workload.test), plain)


def test_bytes_are_those_of_the_results_of_all_operations():
    """The two layers, tanh, and the loss with its logarithms; in float64."""
    run = recorded()
    each = pieces.bytes_of_example(run.workload, run.workload.test)
    assert 8 * (6 + 6 + 3 + 3 + 1) <= each <= 8 * (6 + 6 + 3 + 3 + 1) + 16
    wide = run.workload.to(dtype=torch.float32)
    assert pieces.bytes_of_example(wide, wide.test) == pytest.approx(each / 2, rel=0.1)


def test_losses_that_depend_on_the_others_are_never_cut(monkeypatch):
    def relative(outputs, target):
        each = nn.functional.cross_entropy(outputs, target, reduction="none")
        return each / each.mean().detach()

    run = recorded()
    work = ik.Workload(
        model=Net().double(), loss=relative, train=sample(TRAIN, 0), test=sample(TEST, 1),
        optimizer=ik.SGD(lr=0.1), batch_size=4,
    )  # fmt: skip
    monkeypatch.setattr(pieces, "LIMIT", 1)
    assert len(pieces.pieces(work, work.test)) == 1
    assert len(pieces.pieces(run.workload, run.workload.test)) == TEST


@pytest.mark.parametrize("loss", ["cross entropy", "fails on constants"])
def test_accuracy_in_pieces_counts_all_examples(loss, small):
    def odd(outputs, target):
        if bool((outputs == outputs[0, 0]).all()):
            raise ValueError("constant")
        return nn.functional.cross_entropy(outputs, target, reduction="none")

    given = nn.CrossEntropyLoss(reduction="none") if loss == "cross entropy" else odd
    run = recorded(loss=given)
    theta, test = run.final.theta, run.workload.test
    whole = accuracy(run.workload.outputs(theta, test), tensors_of(test)[1], given)
    small(run)
    assert len(pieces.pieces(run.workload, test)) > 1
    assert run.workload.judge(theta) == whole
    assert whole.value == (run.workload.outputs(theta, test).argmax(1) == test[1]).double().mean().item()
