"""Curation of language models by document and of regressions, with choosers of plugins."""

import numpy as np
import pytest
import torch
from helpers_curate import workload
from torch import nn

import influencekit as ik

WORDS, LENGTH = 9, 10


class Next(nn.Module):
    """The logits of each next word, from the word before it alone."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(WORDS, WORDS, dtype=torch.float64)
        nn.init.zeros_(self.table.weight)

    def forward(self, words):
        return self.table(words)


def per_document(logits, labels):
    """The mean loss of the words of each document."""
    losses = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    return losses.mean(1)


def documents(count, seed, odd=0):
    """Each word is the one before it and one more; in the first `odd` documents, one less."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(WORDS, (count, 1), generator=generator)
    step = torch.where(torch.arange(count)[:, None] < odd, -1, 1)
    words = (start + step * torch.arange(LENGTH)) % WORDS
    noise = torch.rand(words.shape, generator=generator) < 0.2
    words = torch.where(noise, torch.randint(WORDS, words.shape, generator=generator), words)
    return {"words": words, "labels": words}


def test_documents_that_teach_the_reverse_are_dropped():
    """Eight of forty: of eight random ones five such would be among them once in 600 times."""
    run = ik.record(
        ik.Workload(
            model=Next(), loss=per_document, train=documents(40, 0, odd=8), test=documents(60, 1),
            optimizer=ik.SGD(lr=1.0), epochs=5, batch_size=10,
        )
    )  # fmt: skip
    found = ik.curate(run, k=(4, 8), draws=2, folds=3)
    dropped = found.is_influence_issue.values
    assert found.recommendation == f"drop the {dropped.sum()} most harmful by dit"
    assert dropped[:8].sum() >= min(5, dropped.sum()) and "label" not in found.coords


@pytest.fixture(scope="module")
def regression():
    """A line, of whose targets the first four are far off."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 2, generator=generator, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -2.0], dtype=torch.float64)
    y += 0.1 * torch.randn(120, generator=generator, dtype=torch.float64)
    train = x[:40], torch.where(torch.arange(40) < 4, y[:40] + 5, y[:40])
    return ik.record(
        ik.Workload(
            model=nn.Linear(2, 1).double(), loss=lambda out, target: (out[:, 0] - target) ** 2,
            train=train, test=(x[40:], y[40:]), optimizer=ik.SGD(lr=0.05), epochs=10, batch_size=10,
        )
    )  # fmt: skip


def test_wrong_targets_of_a_regression_are_dropped(regression):
    found = ik.curate(regression, choosers="dit,dit:centre=0.9,if,mean", k=(2, 4), draws=2, folds=3)
    assert found.recommendation.startswith("drop the 4 most harmful by ")
    assert found.is_influence_issue.values.nonzero()[0].tolist() == [0, 1, 2, 3]
    assert found.verified[:4].all() and (found.best_k == 4).all()


def test_plugins_choose_beside_the_others():
    pytest.importorskip("influencekit_baselines")
    names = ["tracin", "trak:dim=4", "ekfac", "self-influence", "random", "mean"]
    run = ik.record(workload())
    found = ik.curate(run, choosers=names, k=(4,), draws=1, folds=3)
    assert found.sizes["chooser"] == 6 and np.isfinite(found.effect).all()
    best = found.effect.sel(chooser=["tracin", "self-influence"], k=4)
    assert (best < found.effect.sel(chooser="random", k=4)).all()
