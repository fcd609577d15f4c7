"""Workloads, and training: what record and loo give beside a plain loop."""

from __future__ import annotations

import random
from copy import deepcopy
from typing import Any

import numpy as np
import torch

import influencekit as ik
from benchmarks.shared.odd.common import one_of_text, seed_kind
from benchmarks.shared.odd.data import data_kinds
from benchmarks.shared.odd.drawing import Callee, Given, Later, World, callee, drawn, one_from
from benchmarks.shared.odd.ids import ids_kind
from benchmarks.shared.odd.models import losses_kind, models_kind
from benchmarks.shared.odd.values import EITHER, Value, bad, flag, number, same, whole
from benchmarks.shared.odd.world import parts

__all__ = ["WORKLOADS"]


def plain_loop(given: Given, work: ik.Workload, left_out: int | None) -> float:
    """The mean test loss after training by hand, in training mode, one example with weight 0."""
    model, loss = deepcopy(given["model"]), given["loss"]
    names = set(work.layout.names)
    params = [p for name, p in model.named_parameters() if name in names]
    for t, row in enumerate(work.plan.indices.tolist()):
        members = [i for i in row if i >= 0]
        *inputs, target = (x[members].detach() for x in work.train)
        losses = loss(model(*inputs), target)
        weights = torch.tensor([0.0 if i == left_out else 1.0 for i in members], dtype=losses.dtype)
        grads = torch.autograd.grad((weights * losses).sum() / len(members), params, allow_unused=True)
        with torch.no_grad():
            for p, g in zip(params, grads, strict=True):
                if g is not None:
                    p.sub_(g, alpha=float(work.plan.lr[t, 0]))
    model.eval()
    with torch.no_grad():
        *inputs, target = (x.detach() for x in work.test)
        return float(loss(model(*inputs), target).double().mean())


def train_is_right(every: World, found: Any, given: Given) -> str:
    """What is wrong with the run of a workload of odd parts: its scores beside a loop of plain torch."""
    run, scores, exact = found
    whole_parts = {**parts(), **given}
    work = run.workload
    full = plain_loop(whole_parts, work, None)
    truth = np.array([plain_loop(whole_parts, work, i) - full for i in range(work.n_train)])
    size = max(np.abs(truth).max(), 1e-4 * abs(full), 1e-6)
    if not np.allclose(exact, truth, atol=1e-2 * size, rtol=0):
        return f"loo gives {exact.round(6).tolist()}, a plain loop {truth.round(6).tolist()}"
    if not np.isfinite(scores).all():
        return "scores that are not finite"
    return ""


def train(every: World, given: dict[str, Any]) -> Any:
    run = ik.record(ik.Workload(**{**parts(), **given}))
    scores = ik.estimate(run).influence.values[0, 0]
    return run, scores, ik.estimate(run, "test-loss", "loo").influence.values[0, 0]


def planned(every: World, given: dict[str, Any]) -> ik.Workload:
    work = ik.Workload(**{**parts(), **given})
    assert work.plan.steps
    return work


def order_kind(r: random.Random) -> Value:
    order = [[0, 1, 2, 3], [4, 5, 6, -1]]
    good = [torch.tensor(order), np.array(order), order, torch.tensor(order).int()]
    odd = bad(
        [[0, 8]], [[-1, -1]], [[0, -2]], [0, 1], [], [[]], "order", 3, torch.tensor(order).float(),
        [[0.5, 1]], [[float("nan"), 1]], [["0", "1"]], [[True, False]], [[0, 1], [2]], {0: 1}, object(),
        torch.zeros(2, 0), [[None, 1]], np.array(order) + 0j, [[10**30, 1]],
    )  # fmt: skip
    return drawn(r, [(it, torch.tensor(order)) for it in good], odd)


class Odd(ik.Schedule):
    """A schedule that gives what it was given."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def factors(self, steps: int) -> Any:
        return self.given


schedule_kind = one_from(
    same(ik.Constant()), same(ik.Cosine(warmup=1)), same(ik.Factors((1.0, 0.5, 0.25, 0.0))),
    *bad(ik.Factors((1.0,)), ik.Constant, "cosine", None, 3),
    *bad(*map(Odd, (None, "abcd", [float("nan")] * 4, [1.0] * 3, [1j] * 4, [[1.0]] * 4, [1e308] * 4,
                    [None] * 4, [float("inf")] * 4))),
)  # fmt: skip

info_kind = one_from(
    same({"a": 1}),
    *bad(None, "a", 3, {"a": object()}, {"a": torch.ones(2)}, {3: {1}}, [1], {"a": b"x"}),
)  # fmt: skip

_RATES = (1e308, 1e38, 3.5e38, 1e-320, 0.0, 1e10, 5.0)
rates_kind = one_from(*(Value(f"SGD(lr={x})", ik.SGD(lr=x), EITHER) for x in _RATES))

WORKLOADS: tuple[Callee, ...] = (
    callee(
        "Workload",
        planned,
        epochs=whole([1, 3], [0, -1, 10**9, 10**30]),
        batch_size=whole([4, 8, 64], [0, -1, 10**12]),
        l2=number([0.0, 0.1], [-1.0, float("inf")]),
        seed=seed_kind,
        shuffle=flag(),
        drop_last=flag(),
        order=order_kind,
        train_ids=ids_kind(8),
        test_ids=ids_kind(4),
        target_key=one_of_text("labels"),
        name=one_of_text("tiny"),
        info=info_kind,
        schedule=schedule_kind,
        optimizer=Later("optimizer"),
        model=Later("model"),
        loss=Later("a function", "model", "torch optimizer"),
        train=Later(),
        test=Later(),
        validation=Later(),
    ),
    callee("train on odd data", train, train_is_right, **data_kinds()),
    callee("train odd models", train, train_is_right, model=models_kind, loss=losses_kind),
    callee("train at odd rates", train, train_is_right, optimizer=rates_kind),
)
