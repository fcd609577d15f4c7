"""Wrong labels, curation, plans and reports."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from benchmarks.shared.odd.asked import asked, query_spec, run_kind
from benchmarks.shared.odd.common import NOT_POSITIVE, bad_path, recorder_spec, seed_kind, strategy_kind
from benchmarks.shared.odd.drawing import Callee, Later, The, World, callee, drawn, of, one_from
from benchmarks.shared.odd.values import Value, bad, number, one_of, same, whole
from benchmarks.shared.odd.world import labelled

__all__ = ["CLEANING"]

CLEAN = {"trajectory": The("clean run")}


def trusted_kind(r: random.Random) -> Value:
    """24 examples with right labels."""
    parts = labelled()
    train, (x, y) = parts["train"], parts["test"]
    good: list[tuple[Any, Any]] = [
        (it, (x, y)) for it in ((x, y), [x, y], None, TensorDataset(x, y), DataLoader(TensorDataset(x, y), 5))
    ]
    odd = bad(
        (x[:5], y[:5]), train, (x, y[:-1]), (x[:, :2], y), (x * torch.nan, y), (x, y.double()), (x, y + 2),
        (x, y - 1), (x, None), x, y, (), "x", 3, b"xy", object(), {}, (x.numpy(), y), iter([(x, y)]),
        (x + 0j, y),
        TensorDataset(x), DataLoader(TensorDataset(x[:4], y[:4])), np.ones((24, 3)), (x[:0], y[:0]), True,
        (torch.cat([x, train[0]]), torch.cat([y, train[1]])), nothing_at_all,
    )  # fmt: skip
    return drawn(r, good, odd)


def nothing_at_all() -> None:
    """A function is no data set."""


def scores_kind(r: random.Random) -> Value:
    good = [["final-loss", "aum"], ("final-loss", "aum"), "final-loss,aum", np.array(["final-loss", "aum"])]
    odd = bad(
        [], "", 3, [3], b"aum", ["aum", "aum"], ["nothing"], [None], object(), "aum,", [["aum"]], ["mean"]
    )
    return drawn(r, [(it, ["final-loss", "aum"]) for it in good], odd)


def sizes_kind(r: random.Random) -> Value:
    good = [(1, 3), [3, 1], np.array([1, 3]), range(1, 4, 2), torch.tensor([1, 3])]
    odd = bad(
        (), [0], [-1], [30], [99], [1, 1], 3, "1,3", [1.5], ["1"], [True], [None], [[1]], object(), [10**30]
    )
    return drawn(r, [(it, (1, 3)) for it in good], odd)


def works(every: World, given: dict[str, Any]) -> Any:
    """What a plan is about; its figures are of the clock."""
    return ik.plan(**{"what": every["run"], "estimators": ["dit"], **given}).work.values.tolist()


def page(every: World, given: dict[str, Any]) -> Any:
    """Whether there is a report."""
    return bool(ik.report(**{"run": every["run"], "scores": every["scores"], **given}))


title_kind = one_from(
    same("A"), same(None), Value("numpy", np.str_("A"), "A"), *bad(3, b"A", ["A"], object())
)
chosen = {**CLEAN, "choosers": "dit", "k": (2,), "folds": 3, "draws": 2}

CLEANING: tuple[Callee, ...] = (
    of(
        ik.suspects,
        {**CLEAN, "scores": ["final-loss"], "repeats": 2, "folds": 2, "verify": 1},
        trusted=trusted_kind, scores=scores_kind, fraction=number([0.1, 0.5], [0.0, -1.0, 0.6]),
        repeats=whole([2, 3], [1, 0, -1]), folds=whole([2, 3], [1, 0, -1]), verify=whole([0, 1], [-1]),
        seed=seed_kind, level=number([0.5, 0.9], [0.0, 1.0, -1.0]), strategy=strategy_kind,
    ),
    of(
        ik.curate,
        chosen,
        trusted=trusted_kind, k=sizes_kind, seed=seed_kind, draws=whole([1, 3], NOT_POSITIVE),
        choosers=Later("estimator", also=(one_from(same(["dit", "if"]), *bad([], 3, ["nothing"], "mean")),)),
        level=number([0.5, 0.9], [0.0, 1.0, -1.0]), strategy=strategy_kind,
        folds=whole([3, 4], [2, 1, 0, -1]),
        runs=whole([3], [2, 1, 0, -1], none=True), moved=number([0.001, 0.1], [0.0, -1.0]), folder=bad_path,
    ),
    callee(
        "plan", works, what=Later("run", "other run", "work", "clean run"),
        estimators=one_from(
            same(["dit", "loo"]),
            *bad(["dit", "loo", "dit"], [], 3, ["if"], ["nothing"], b"dit", [None], "", object()),
        ),
        query=query_spec, windows=asked["windows"], removal=asked["removal"], recorder=recorder_spec,
    ),
    callee(
        "report", page, run=run_kind, scores=Later("scores"), points=whole([0, 2], [-1], none=True),
        title=title_kind, most=whole([1, 9], NOT_POSITIVE), retrained=Later(), trust=Later(), ceiling=Later(),
        curated=Later(), suspected=Later(), parts=Later(), average=Later(),
        show=one_of(["picture", "row", "none"], none=True), names=one_from(*bad(3, "abc", [1, 2], object())),
    ),
)  # fmt: skip
