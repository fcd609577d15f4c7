"""Executors of the tests: one that works at once, one that takes any order and does everything twice."""

from concurrent.futures import Future

import torch
from torch import nn

import influencekit as ik

SPEC = "mnist-1v7-lr:n_train=12:epochs=2"
LOOP = "loo:strategy=loop"  # 12 models one after the other: three slices


class Now:
    """Every call at once, in this thread; counts them."""

    def __init__(self):
        self.calls = 0

    def submit(self, function, *args):
        self.calls += 1
        future = Future()
        future.set_result(function(*args))
        return future


class Later:
    """Calls wait until somebody looks; then all of them are made in an order of its own, `times` times."""

    def __init__(self, order=None, times=1):
        self.order, self.times, self.waiting = order or (lambda count: range(count)), times, []

    def submit(self, function, *args):
        self.waiting.append((future := _Looked(self), function, args))
        return future

    def work(self):
        todo, self.waiting = self.waiting, []
        for number in self.order(len(todo)) if todo else ():
            future, function, args = todo[number]
            for _ in range(self.times):
                found = function(*args)
            future.set_result(found)


class _Looked(Future):
    def __init__(self, executor):
        super().__init__()
        self.executor = executor

    def done(self):
        self.executor.work()
        return super().done()


class Losing(Now):
    """Loses the worker of the first `losses` calls."""

    def __init__(self, losses, error=None):
        super().__init__()
        self.losses, self.error = losses, error or OSError("the machine is gone")

    def submit(self, function, *args):
        if self.losses > 0:
            self.losses -= 1
            future = Future()
            future.set_exception(self.error)
            return future
        return super().submit(function, *args)


def recorded(path, spec=SPEC):
    return ik.record(ik.make("workload", spec), store=path)


def parts():
    """What a taped run was made of, as a worker makes it again."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 3, generator=generator)
    data = torch.utils.data.TensorDataset(x[:8], (x[:8, 0] > 0).float())
    torch.manual_seed(0)
    return {
        "model": nn.Linear(3, 1), "loss": squared, "data": data, "test": (x[8:], (x[8:, 0] > 0).float()),
    }  # fmt: skip


def squared(outputs, target):
    return (outputs.squeeze(-1) - target) ** 2


def taped(path):
    made = parts()
    model, data = made["model"], made["data"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ik.Tape(path, model, optimizer, loss=squared, data=data) as tape:
        for _, (inputs, target) in tape.batches(torch.utils.data.DataLoader(data, batch_size=4)):
            optimizer.zero_grad()
            squared(model(inputs), target).mean().backward()
            optimizer.step()
    return ik.open(path, **parts())
