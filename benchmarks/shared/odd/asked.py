"""What verbs are asked about a run: by which query and estimator, in which windows, of which average."""

from __future__ import annotations

import random

import numpy as np
import torch

from benchmarks.shared.odd.common import QUERY
from benchmarks.shared.odd.drawing import Later, The, drawn
from benchmarks.shared.odd.values import Kind, Value, bad, spec
from benchmarks.shared.odd.windows import removal_kind, window_kind
from influencekit.estimators import dit

ESTIMATOR = ("dit", "loo", "if", "sgd-influence", "dit:curvature=fisher")
AVERAGE = ("ema:decay=0.9", "swa:start=1", "after:epoch=0", "last")
RUN = {"trajectory": The("run")}


def average_kind(r: random.Random) -> Value:
    w = [0.0, 0.0, 0.0, 0.5, 0.5]
    good = [
        w,
        np.array(w),
        torch.tensor(w),
        {3: 0.5, 4: 0.5},
        {np.int64(3): np.float32(0.5), 4: 0.5},
        tuple(w),
    ]
    odd = bad(
        [], [1.0], {}, {9: 1.0}, {True: 1.0}, {3: "1"}, {3: float("nan")}, {3: 1.0, 4: 1.0}, {1.5: 1.0},
        [float("nan")] * 5, ["a"] * 5, 3.0, b"last", torch.tensor(w) + 0j, object(), {"3": 1.0}, [None] * 5,
        np.array(w).reshape(1, 5), [True, False, False, False, False], {3: float("inf"), 4: -float("inf")},
        int, np.array(["1"] * 5), {3: 1j}, {3: None},
    )  # fmt: skip
    it = r.choice(good)
    if r.random() < 0.3:
        return spec("average", AVERAGE)(r)
    return r.choice(odd) if r.random() < 0.6 else Value(repr(it), it, w)


def several_kind(r: random.Random) -> Value:
    """The names of two estimators."""
    good = [
        ["dit", "loo"], ("dit", "loo"), "dit,loo", [dit.DIT(), "loo"], np.array(["dit", "loo"]),
        iter(["dit", "loo"]),
    ]  # fmt: skip
    odd = bad(
        [], None, 3, [3], [None], [], [dit.DIT], b"dit", 1.0, [["dit"]], object(), "dit,,loo", [b"dit"],
        ["nothing"], "",
    )  # fmt: skip
    return drawn(r, [(it, ["dit", "loo"]) for it in good], odd, 0.5)


run_kind = Later("run", "other run", "clean run")
query_spec = Later("query", also=(spec("query", QUERY),))
estimator_spec = Later("estimator", also=(spec("estimator", ESTIMATOR),))
estimator_or_scores = Later("estimator", "scores", "hole", also=(spec("estimator", ESTIMATOR),))
several = Later("estimator", also=(several_kind,))
asked: dict[str, Kind | Later] = {"query": query_spec, "windows": window_kind, "removal": removal_kind}
scored: dict[str, Kind | Later] = {"trajectory": run_kind, **asked}
