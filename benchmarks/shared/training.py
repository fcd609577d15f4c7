"""Training without influencekit, to measure it against; and the same workload with another activation."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

import influencekit as ik
from influencekit._training.batch import select


def plain(workload: ik.Workload) -> Iterator[tuple[int, nn.Module]]:
    """An ordinary loop with SGD, as a user would write it: (step, model) after every step."""
    model, plan = deepcopy(workload.model), workload.plan
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for t in range(plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.lrs(t)[0]
        x, y = select(workload.train, plan.batch(t))
        optimizer.zero_grad()
        loss = workload.loss(model(x), y).mean()
        if workload.l2:
            loss = loss + 0.5 * workload.l2 * sum((p * p).sum() for p in model.parameters())
        loss.backward()
        optimizer.step()
        yield t, model


def train_plainly(workload: ik.Workload) -> None:
    """All of it."""
    for _ in plain(workload):
        pass


def with_activation(workload: ik.Workload, activation: Callable[[], nn.Module]) -> ik.Workload:
    """The workload with this in place of every ReLU."""
    model = workload.model
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, activation())
    return replace(workload, model=model)


def almost_relu() -> nn.Module:
    """softplus(20 x) / 20, which is smooth and differs from ReLU by at most .035."""
    return nn.Softplus(beta=20)
