"""The registry: things made from texts."""

from __future__ import annotations

from typing import Any

import influencekit as ik
from benchmarks.shared.odd.common import NOT_POSITIVE, QUERY
from benchmarks.shared.odd.drawing import Callee, Given, Later, World, callee, of, one_from
from benchmarks.shared.odd.values import Value, bad, number, one_of, same, spec, whole
from influencekit import registry

__all__ = ["REGISTRY"]


def make(every: World, given: dict[str, Any]) -> Any:
    return ik.make(given.get("kind", "query"), given.get("text", "test-loss"))


def spec_is_right(every: World, found: Any, given: Given) -> str:
    written = registry.spec(found)
    return "" if ik.make(given.get("kind", "query"), written) == found else f"{written!r} makes another one"


def workload(**given: Any) -> ik.Trajectory:
    return ik.record(ik.make("workload", "mnist-1v7-lr", **{"n_train": 12, "epochs": 1, **given}))


list_kind = one_from(
    same("a,b"), Value("spaces", " a , b", "a,b"), *bad("", ",", "a,,b", None, 3, b"a,b", ["a"], object())
)  # fmt: skip

recorder_kind = Later(also=(one_of(["recorder"]),))
name_kind = one_of(["full", "every-k"])

REGISTRY: tuple[Callee, ...] = (
    callee(
        "make",
        make,
        spec_is_right,
        kind=Later(also=(one_of(["estimator", "query", "recorder"]),)),
        text=Later(also=(spec("query", QUERY), spec("query", ("feature-importance:feature=1",)))),
    ),
    callee(
        "make override",
        lambda e, g: ik.make("recorder", "every-k", **g),
        k=whole([1, 7], NOT_POSITIVE),
        unknown=Later(),
    ),
    of(
        workload,
        None,
        "make workload",
        n_train=whole([6, 9], [0, -1, 10**9], none=True),
        epochs=whole([1, 2], [0, -1], none=True),
        lr=number([0.1], [-1.0, float("inf")], none=True),
        batch_size=whole([4, 64], [0, -1, 10**12], none=True),
        seed=whole([0, 7]),
        setting=one_of(["paper", "trained"]),
    ),
    of(registry.names, kind=Later(also=(one_of(["estimator", "query"]),))),
    of(registry.describe, kind=Later(also=(one_of(["recorder"], none=True),))),
    of(
        registry.load, {"kind": "recorder", "name": "full"}, kind=recorder_kind, name=Later(also=(name_kind,))
    ),
    of(registry.split, text=Later("text", also=(list_kind,))),
    of(
        registry.resolve,
        {"kind": "recorder", "given": "full"},
        kind=recorder_kind,
        given=Later("recorder", also=(name_kind,)),
    ),
    of(registry.spec, thing=Later("query", "estimator", "recorder")),
)
