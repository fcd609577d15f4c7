"""Taped loops of models that checkpoint blocks: scores are those of the loop, or the loop is refused."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

CE = nn.CrossEntropyLoss(reduction="none")


class Net(nn.Module):
    """`way` of checkpointing: None, or use_reentrant."""

    def __init__(self, way, block, frozen=False):
        super().__init__()
        self.way, self.block = way, block
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.first.requires_grad_(not frozen)

    def forward(self, x):
        self.mask = (x.sum(-1, keepdim=True) > 0).to(x)
        x = torch.tanh(self.first(x))
        if not x.requires_grad:
            x.requires_grad_()  # as transformers does before frozen embeddings
        if self.way is None:
            return self.last(self.block(self, x))
        return self.last(checkpoint(self.block, self, x, use_reentrant=self.way))


class Masked(nn.Module):
    """What it gives has the same norm whatever the mask of the model."""

    def __init__(self):
        super().__init__()
        self.linear, self.drop = nn.Linear(4, 4), nn.Dropout(0.2)  # which is not traced

    def forward(self, model, x):
        return nn.functional.layer_norm(self.drop(self.linear(x * (1 + model.mask))), (4,))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, model, x):
        return self.norm(x)


def recorded(way, block, frozen=False, **options):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 2, (16,), generator=generator)
    torch.manual_seed(1)
    model, data = Net(way, block(), frozen).double(), TensorDataset(x, y)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    each = options.get("accumulate", 1)
    with ik.Tape(None, model, optimizer, loss=CE, data=data, **options) as tape:
        for _ in range(2):
            for k, (_, (inputs, target)) in enumerate(tape.batches(DataLoader(data, batch_size=4))):
                (CE(model(inputs), target).mean() / each).backward()
                if (k + 1) % each == 0:
                    optimizer.step()
                    optimizer.zero_grad()
    return tape.trajectory(test=(x, y))


@pytest.mark.parametrize("estimator", ["dit", "if"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("way", [False, True], ids=["not reentrant", "reentrant"])
def test_scores_are_those_of_the_model_without_checkpoint(way, frozen, estimator):
    """Two micro-batches a step, whose masks differ; the test set is as large as the training set."""
    mine, kept = (
        ik.estimate(recorded(each, Masked, frozen, accumulate=2), "test-loss", estimator).influence.values
        for each in (way, None)
    )
    torch.testing.assert_close(torch.tensor(mine), torch.tensor(kept), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("way", [False, True], ids=["not reentrant", "reentrant"])
def test_running_statistics_of_a_checkpointed_block_are_refused(way):
    """Torch computes the block twice in a step, and so changes them twice."""
    with pytest.raises(ik.InputError, match="backward changes buffer block.norm.running_mean .* twice"):
        recorded(way, Normed, separable=False)
    assert recorded(None, Normed, separable=False).steps == 8
