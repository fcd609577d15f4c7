"""A small run of pictures in three classes, whose ids are as hostile as ids may be, and a report of it."""

from functools import cache

import torch
from torch import nn

import influencekit as ik

HOSTILE = [
    "<script>window.hacked=1</script>",
    '"onerror="window.hacked=1',
    "</script><img src=x onerror=window.hacked=1>",
    "x" * 10_000,
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",  # written from right to left
    "a\u202egnp.exe",  # which would turn the rest
    "bell\x07 and \x1b[31mred",
    "__proto__",
    "constructor",
    'comma, "quote"\nand line',
    "{{ 7 * 7 }}",
    "=1+1",
    "&lt;b&gt;",
    "\u2028",
    "' or 1=1",
]
N, TEST = 60, 12


@cache
def workload(names: bool = True) -> ik.Workload:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(N + TEST) % 3
    x = 0.4 * torch.randn(N + TEST, 1, 8, 8, generator=generator)
    x[torch.arange(N + TEST), 0, 2 * y, :] += 1.0
    y[4:10] = (y[4:10] + 1) % 3  # wrong labels
    ids = [*HOSTILE, *(f"example {k}" for k in range(len(HOSTILE), N))]
    torch.manual_seed(0)
    return ik.Workload(
        model=nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
        loss=nn.CrossEntropyLoss(reduction="none"),
        train=(x[:N], y[:N]),
        test=(x[N:], y[N:]),
        optimizer=ik.SGD(lr=0.2),
        epochs=4,
        batch_size=20,
        train_ids=ids if names else None,
        test_ids=[f"test {k}" for k in range(TEST)],
        info={"classes": ["<b>zero</b>", "one", "two"]},
        name="three <i>classes</i>",
    )


@cache
def run() -> ik.Trajectory:
    return ik.record(workload())


@cache
def scores():
    return ik.estimate(run(), windows="each-epoch")


@cache
def retrained():
    return ik.estimate(run(), estimator="loo")


@cache
def report() -> ik.Report:
    return ik.report(run(), scores(), retrained(), points=8)
