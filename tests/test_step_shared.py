"""Kernels traced for one seed serve the others: to the bit, and only where nothing but the data differs."""

from dataclasses import replace

import pytest
import torch
from helpers_step import KINDS
from torch import nn

from influencekit import compare, estimate, make, record
from influencekit._training.batch import tensors_of, with_tensors
from influencekit._training.step import Step
from influencekit.testing import tiny_workload


def another(workload, seed=5):
    """The same problem with other examples, other initial parameters and another order."""
    generator = torch.Generator().manual_seed(seed)

    def other(x):
        if not x.is_floating_point() or bool(((x == 0) | (x == 1)).all()):
            return x.flip(0)
        return x + torch.randn(x.shape, generator=generator, dtype=x.dtype)

    train = with_tensors(workload.train, [other(x) for x in tensors_of(workload.train)])
    moved = replace(workload, train=train, seed=seed)
    with torch.no_grad():
        for p in moved.model.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype), alpha=0.1)
    return moved


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_the_same_bits_as_with_kernels_of_its_own(kind):
    first = KINDS[kind]()
    step = Step(first)
    estimate(record(first, step=step), "test-loss", "dit")
    second = another(first)
    assert not torch.equal(second.theta0, first.theta0)
    shared = Step(second, like=step)
    assert shared.traced is step.traced
    mine, alone = record(second, step=shared), record(second)
    assert torch.equal(mine.final.theta, alone.final.theta)
    assert (mine.attrs["accuracy"] == alone.attrs["accuracy"]) or kind == "an autoencoder"
    for estimator in ("dit", "loo"):
        found, expected = (estimate(run, "test-loss", estimator).influence for run in (mine, alone))
        assert found.identical(expected), estimator


class Scaled(nn.Linear):
    """A linear model whose repr does not show all of it."""

    def __init__(self, scale):
        super().__init__(3, 1, dtype=torch.float64)
        self.scale = scale

    def forward(self, x):
        return self.scale * super().forward(x).squeeze(-1)


class Buffered(Scaled):
    """The same with a number in a buffer."""

    def __init__(self, scale):
        super().__init__(1.0)
        self.register_buffer("factor", torch.tensor(scale, dtype=torch.float64))

    def forward(self, x):
        return self.factor * super().forward(x)


def weighted(weight):
    return nn.BCEWithLogitsLoss(reduction="none", pos_weight=torch.tensor(weight, dtype=torch.float64))


tiny = tiny_workload()


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (replace(tiny, l2=0.1), replace(tiny, l2=0.2)),
        (tiny, tiny.to(dtype=torch.float32)),
        (replace(tiny, loss=weighted(1.0)), replace(tiny, loss=weighted(2.0))),
        (tiny_workload(classes=3), tiny_workload(classes=4)),
        (replace(tiny, model=Scaled(1.0)), replace(tiny, model=Scaled(2.0))),
        (replace(tiny, model=Buffered(1.0)), replace(tiny, model=Buffered(2.0))),
    ],
    ids=["penalty", "dtype", "weights of the loss", "classes", "hidden number", "buffer"],
)
def test_nothing_is_shared_where_the_functions_differ(one, two):
    step = Step(one)
    assert Step(two, like=step).traced is not step.traced
    assert Step(replace(one, seed=3), like=step).traced is step.traced


def test_compare_traces_once_for_all_seeds(monkeypatch):
    made = []
    monkeypatch.setattr(
        "influencekit._verbs.compare.Step", lambda *a, **k: made.append(Step(*a, **k)) or made[-1]
    )
    both = compare("mnist-1v7-lr:epochs=1", ["dit"], reference="dit", seeds=(0, 1))
    assert made[0].traced is made[1].traced
    alone = compare("mnist-1v7-lr:epochs=1", ["dit"], reference="dit", seeds=(1,))
    assert (both.influence.sel(seed=1).values == alone.influence.sel(seed=1).values).all()
    problem = make("workload", "mnist-1v7-lr:epochs=1", seed=1)
    expected = estimate(record(problem)).influence.values[0, 0]
    assert (alone.influence.values[0, 0, 0, 0] == expected).all()
