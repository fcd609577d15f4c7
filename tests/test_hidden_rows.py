"""What autograd does not see, and only some rows of some batches show, is refused before a score is wrong."""

import pytest
import torch
from helpers_tape import Examples, held_out, per_example, sample
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

ODD = 11  # the only example whose gradient is straight through
USUAL = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


class StraightThrough(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 5)
        self.odd = float(sample()[0][ODD, 0])

    def forward(self, x):
        h = self.linear(x)
        rounded = h + (h.round() - h).detach()
        return torch.where(x[:, :1] == self.odd, rounded, h.tanh())


def build():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(StraightThrough(), nn.Linear(5, 3)).double()


def order(step):
    """16 steps, of which one holds the odd example, in its last row."""
    found = [list(USUAL[t % 2]) for t in range(16)]
    found[step][4] = ODD
    return found


def recorded(batches):
    workload = ik.Workload(
        model=build(), loss=per_example, train=sample(), test=held_out(), optimizer=ik.SGD(lr=0.1),
        order=torch.tensor(batches),
    )  # fmt: skip
    return ik.record(workload)


def taped(batches):
    model, data = build(), Examples()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with ik.Tape(None, model, optimizer, loss=per_example, data=data) as tape:
        for _, (x, y) in tape.batches(DataLoader(data, batch_sampler=batches)):
            optimizer.zero_grad()
            per_example(model(x), y).mean().backward()
            optimizer.step()
    return tape.trajectory(test=held_out())


@pytest.mark.parametrize("run", [recorded, taped])
@pytest.mark.parametrize("step", [0, 4, 8, 12, 15])
def test_a_gradient_straight_through_in_one_row_is_seen(run, step):
    with pytest.raises(ik.InputError, match="in a way that autograd does not see") as error:
        ik.estimate(run(order(step)), "test-loss", "dit")
    assert "\n" not in str(error.value)
