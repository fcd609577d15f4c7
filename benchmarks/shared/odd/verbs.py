"""The verbs: recording and opening runs, estimates, comparisons and removals."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

import influencekit as ik
from benchmarks.shared.odd.asked import (
    RUN,
    asked,
    average_kind,
    estimator_or_scores,
    estimator_spec,
    query_spec,
    run_kind,
    scored,
    several,
)
from benchmarks.shared.odd.common import (
    NOT_POSITIVE,
    bad_path,
    example_ids,
    flag_off,
    recorder_spec,
    strategy_kind,
    top_kind,
)
from benchmarks.shared.odd.drawing import Callee, Later, The, World, callee, drawn, of, one_from
from benchmarks.shared.odd.values import Value, bad, one_of, same, whole
from benchmarks.shared.odd.windows import removal_kind, window_kind

__all__ = ["VERBS"]


def record_here(every: World, given: dict[str, Any]) -> Any:
    return ik.record(every["work"], "full", given["store"], resume=True)


def at_kind(r: random.Random) -> Value:
    good = [
        ([1, 4], [1, 4]), (np.array([4, 1]), [1, 4]), ("each-epoch", [2, 4]), ((2, 2), [2]),
        (torch.tensor([3]), [3]), (range(1, 3), [1, 2]),
    ]  # fmt: skip
    odd = bad(
        [], [0], [9], [1.5], ["1"], [True], 3, b"1", [None], "", "nothing", [[1]], {1.0}, [float("nan")],
        [10**30], object(), np.zeros((2, 2)), [np.float64(2.0)],
    )  # fmt: skip
    return drawn(r, good, odd, None)


def seeds_kind(r: random.Random) -> Value:
    good = [((0, 1), (0, 1)), ([np.int64(1)], [1]), (range(2), [0, 1]), (np.array([2]), [2]), (None, (0,))]
    odd = bad(
        [], [0, 0], [-1], [2**64], [1.5], ["1"], 3, "0", [True], [None], [float("nan")], np.zeros((2, 2)),
        [1j], object(),
    )  # fmt: skip
    return drawn(r, good, odd, None)


span_kind = one_from(
    same((0, 4)), Value("list", [1, 3], (1, 3)), Value("numpy", (np.int64(1), 3), (1, 3)),
    *bad((0, 9), (3, 1), (1.5, 3), ("0", "4"), 3, "full", (0,), (0, 1, 2), (None, 4), (True, 4), object(),
         (-1, 4), (float("nan"), 4), ik.Window(0, 4)),
)  # fmt: skip

sum_kind = one_from(
    same([ik.Window(0, 4)]),
    *bad([ik.Window(1, 4)], [], 3, [None], ["a"], "full", None, [ik.Window(0, 4, "window")], object()),
)  # fmt: skip

compared = {"workload": The("run"), "estimators": ["dit"], "reference": "if"}

VERBS: tuple[Callee, ...] = (
    of(
        ik.record,
        {"workload": The("work")},
        workload=Later("work"),
        recorder=recorder_spec,
        window=span_kind,
        resume=flag_off,
        step=Later(),
        store=bad_path,
    ),
    callee("record here", record_here, store=bad_path),
    of(
        ik.open,
        {"store": The("store"), "workload": The("work")},
        store=Later("store", "store text"),
        workload=Later("work"),
    ),
    of(
        ik.verify,
        {"run": The("run")},
        run=Later("run", "other run", "clean run"),
        spans=whole([1, 3], [-1, 0], none=True),
    ),
    of(ik.estimate, RUN, **scored, estimator=estimator_spec, average=average_kind),
    of(
        ik.contributions,
        RUN,
        trajectory=run_kind,
        query=query_spec,
        estimator=estimator_spec,
        at=at_kind,
        average=average_kind,
        store=bad_path,
    ),
    of(
        ik.sum_over_windows,
        {"found": The("contributions")},
        found=Later("contributions"),
        windows=window_kind,
        removal=removal_kind,
    ),
    of(
        ik.sum_over_windows,
        {"found": The("scores"), "windows": [ik.Window(0, 4)]},
        "sum of scores",
        found=Later("scores", "contributions", "hole", "other scores"),
        windows=sum_kind,
    ),
    of(
        ik.compare,
        compared,
        workload=Later("run", "other run", "clean run", "work"),
        estimators=several,
        reference=estimator_spec,
        **asked,
        top=top_kind,
        average=average_kind,
        each=Later("a function"),
    ),
    of(
        ik.compare,
        {**compared, "workload": The("work")},
        "compare anew",
        seeds=seeds_kind,
        recorder=recorder_spec,
    ),
    of(
        ik.remove,
        {**RUN, "ids": [1, 3]},
        trajectory=run_kind,
        ids=example_ids,
        **asked,
        estimator=estimator_or_scores,
        parts=whole([1, 3], NOT_POSITIVE),
        average=average_kind,
    ),
    of(
        ik.verify_top,
        {**RUN, "top": 2},
        **scored,
        estimator=estimator_or_scores,
        top=whole([1, 3, 100], NOT_POSITIVE),
        which=one_of(["harmful", "helpful", "raises", "lowers"], none=True),
        strategy=strategy_kind,
        average=average_kind,
    ),
)
