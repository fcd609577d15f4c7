"""Optimizers, their groups, and schedules."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

import influencekit as ik
from benchmarks.shared.odd.common import flag_off
from benchmarks.shared.odd.drawing import Callee, World, callee, drawn, of, one_from
from benchmarks.shared.odd.values import Kind, Value, bad, flag, number, one_of, same, whole

__all__ = ["OPTIMIZERS"]


def groups_kind(r: random.Random) -> Value:
    g = ik.Group(("weight",), {"lr": 0.2})
    good = [((g,), (g,)), ([g], (g,)), ((), ()), (g, (g,))]
    return drawn(r, good, bad("weight", None, 3, [{"params": 1}], [None], (object(),), {g: 1}), None)


def optimizer_of(cls: Any, /, **kinds: Kind) -> Callee:
    common = {
        "lr": number([0.25, 0.0], [-1.0, float("inf"), -float("inf"), -1e-300, [0.1]]),
        "clip_norm": number([0.5], [0.0, -1.0], none=True),
        "clip_value": number([0.5], [0.0, -1.0], none=True),
        "clip_norm_type": number([2.0, 3.0], [0.0, -1.0]),
        "maximize": flag(),
        "groups": groups_kind,
    }
    if cls is ik.Muon:
        del common["maximize"]
    return of(cls, {"lr": 0.1}, **common, **kinds)


def group(every: World, given: dict[str, Any]) -> Any:
    made = ik.Group(**{"params": ("weight",), "changes": {"lr": 0.2}, **given})
    return ik.SGD(lr=0.1, groups=(made,))


patterns_kind = one_from(
    same(("weight",)), Value("list", ["weight"], ("weight",)),
    *bad("weight", None, 3, (3,), [None], b"weight", object()),
)  # fmt: skip

changes_kind = one_from(
    same({"lr": 0.3}), same({}), Value("numpy", {"lr": np.float64(0.3)}, {"lr": 0.3}),
    *bad({"lr": -1}, {"lr": float("nan")}, {"speed": 1}, {3: 1}, None, [("lr", 1)], "lr", {"lr": "1"},
         {"lr": None}, {"groups": ()}, {"lr": True}, {"momentum": -1}),
)  # fmt: skip

factors_kind = one_from(
    same((1.0, 0.5)), Value("list", [1.0, 0.5], (1.0, 0.5)), Value("array", np.array([1.0, 0.5]), (1.0, 0.5)),
    *bad("ab", None, 3.0, (None,), (float("nan"),), ("1",), (1j,), object()),
)  # fmt: skip

betas = one_from(
    same((0.8, 0.9)), Value("list", [0.8, 0.9], (0.8, 0.9)), Value("array", np.array([0.8, 0.9]), (0.8, 0.9)),
    *bad(0.9, (0.9,), (0.9, 0.9, 0.9), (1.0, 0.9), (-0.1, 0.9), (float("nan"), 0.9), ("a", "b"), None, "ab",
         (True, 0.9), (0.9, None), {0.8, 0.9}, (0.9j, 0.9), 3),
)  # fmt: skip
eps = number([1e-8, 0.1], [-1.0, float("inf")])
decay = number([0.0, 0.1], [-1.0, float("inf")])
momentum = number([0.0, 0.9], [-1.0, float("inf")])
rate = number([0.9], [-1.0, 1.5])
adjustment = one_of(["original", "match_rms_adamw"], none=True)

OPTIMIZERS: tuple[Callee, ...] = (
    optimizer_of(ik.SGD, momentum=momentum, dampening=number([0.1]), weight_decay=decay, nesterov=flag_off),
    optimizer_of(ik.Adam, betas=betas, eps=eps, weight_decay=decay, amsgrad=flag()),
    optimizer_of(ik.AdamW, betas=betas, eps=eps, weight_decay=decay),
    optimizer_of(ik.NAdam, betas=betas, momentum_decay=decay, decoupled_weight_decay=flag()),
    optimizer_of(ik.RMSprop, alpha=rate, eps=eps, momentum=momentum, centered=flag()),
    optimizer_of(ik.Adagrad, lr_decay=decay, initial_accumulator_value=decay, eps=eps),
    optimizer_of(ik.Adadelta, rho=rate, eps=eps),
    optimizer_of(
        ik.Adafactor, beta2_decay=number([-0.5], [0.5]), d=number([1.0, 2.0], [0.5]), weight_decay=decay
    ),
    optimizer_of(ik.Muon, ns_steps=whole([3, 5], [0, -1, 1000]), momentum=momentum, adjust_lr_fn=adjustment),
    callee("Group", group, params=patterns_kind, changes=changes_kind),
    of(ik.Cosine, warmup=whole([0, 3], [-1]), final=number([0.0, 0.5], [float("inf")])),
    of(ik.Factors, values=factors_kind),
)
