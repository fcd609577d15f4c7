"""An optimizer of one's own, and its rule.

Its derivatives come from automatic differentiation of the rule. In a rule that takes signs (Lion), most
of them are zero; `loo` is exact there, too.
"""

from dataclasses import dataclass  # tape

import torch
from loop_problem import Numbered, data, network, per_example, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Optimizers and schedules"
H = 1e-05


class SoftSign(torch.optim.Optimizer):
    """A soft sign of the averaged gradient."""

    def __init__(self, params, lr, beta=0.9, width=0.1):
        super().__init__(params, {"lr": lr, "beta": beta, "width": width})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.mul_(group["beta"]).add_(p.grad, alpha=1 - group["beta"])
                p.sub_(group["lr"] * m / (m.abs() + group["width"]))


@dataclass(frozen=True, kw_only=True)  # tape
class SoftSignRule(ik.Optimizer):  # tape
    beta: float = 0.9  # tape
    width: float = 0.1  # tape
    slots = ("m",)  # tape
    stands_for = SoftSign  # tape

    def rule(self, theta, slots, g, t, lr):  # tape
        m = slots["m"].mul(self.beta).add(g, alpha=1 - self.beta)  # tape
        return theta - lr * m / (m.abs() + self.width), {"m": m}  # tape


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = SoftSign(model.parameters(), lr=0.05)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = SoftSign(model.parameters(), lr=0.05)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
    return model
