"""Recorders, estimators, averages and evaluations, by their options."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.shared.odd.common import NOT_POSITIVE, curvature_kind, seed_kind, share_kind, strategy_kind
from benchmarks.shared.odd.drawing import Callee, World, callee, of, one_from
from benchmarks.shared.odd.values import Kind, Value, bad, flag, number, one_of, same, whole
from influencekit import averages, evaluation, recorders
from influencekit.estimators import dit, influence_function, loo

__all__ = ["OPTIONS"]


def evaluation_of(cls: Any, /, **kinds: Kind) -> Callee:
    """An evaluation of odd settings, whose mistakes may be found when it is known what is evaluated."""

    def make(every: World, given: dict[str, Any]) -> Any:
        made = cls(**given)
        made.check(every["work"], {"dit": dit.DIT()})
        return made

    return callee(cls.__name__, make, **kinds)


ks_kind = one_from(
    same((1, 2)), same(None), Value("list", [1, 2], (1, 2)), Value("array", np.array([1, 2]), (1, 2)),
    *bad((), (0,), (-1,), 3, "12", (1, 1), (1.5,), ("1",), (True,), (None,), {1}, object(), ((1,),)),
)  # fmt: skip

positive, few = whole([1, 2], NOT_POSITIVE), whole([1, 3], NOT_POSITIVE)
averaged = {"every": positive, "start": whole([0, 3], [-1]), "by": one_of(["step", "epoch"])}

OPTIONS: tuple[Callee, ...] = (
    of(recorders.EveryK, k=whole([1, 7], NOT_POSITIVE)),
    of(recorders.Revolve, states=whole([2, 64], [1, *NOT_POSITIVE])),
    of(recorders.Rounded, bits=whole([1, 51], [0, 52]), k=positive),
    of(dit.DIT, curvature=curvature_kind),
    of(
        loo.LOO,
        examples=whole([2, 5], [1, *NOT_POSITIVE], none=True),
        seed=seed_kind,
        strategy=strategy_kind,
    ),
    of(
        influence_function.InfluenceFunction,
        damping=number([0.1, 0.0], [-1.0, float("inf")], none=True),
        solver=one_of(["auto", "exact", "cg"]),
        exact_limit=whole([0, 10], [-1]),
        iterations=whole([5, 100], NOT_POSITIVE),
        tolerance=number([1e-3], [0.0, -1.0, float("inf")]),
        curvature=curvature_kind,
    ),
    of(
        averages.EMA,
        decay=number([0.0, 1.0], [-0.1, 1.1, float("inf")]),
        **averaged,
        initial=flag(),
        warmup=flag(),
        use_buffers=flag(),
    ),
    of(averages.SWA, **averaged),
    evaluation_of(
        evaluation.LDS,
        m=whole([3, 10], [2, *NOT_POSITIVE]),
        fraction=number([0.25, 0.5], [0.0, 1.0, -1.0, 1.5, float("inf")]),
        seed=seed_kind,
        resamples=whole([1, 50], NOT_POSITIVE),
        level=number([0.5, 0.9], [0.0, 1.0, -1.0]),
        strategy=strategy_kind,
    ),
    evaluation_of(
        evaluation.LeaveKOut,
        k=ks_kind,
        groups=whole([3, 8], [2, *NOT_POSITIVE]),
        seed=seed_kind,
        level=number([0.5], [0.0, 1.0]),
    ),
    evaluation_of(evaluation.Brittleness, k=ks_kind, draws=few, queries=few, seed=seed_kind),
    of(evaluation.MislabelAUC, fraction=share_kind, seed=seed_kind),
    evaluation_of(
        evaluation.TaylorSlope,
        directions=few,
        largest=number([0.1, 1.0], [0.0, 1.5]),
        smallest=number([1e-6], [0.0, 0.5, -1.0]),
        precision=one_of(["double", "own"]),
    ),
)
