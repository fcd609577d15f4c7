"""Kinds of arguments that calls of several subjects have."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import nn

from benchmarks.shared.odd.drawing import Later, drawn, one_from
from benchmarks.shared.odd.values import Kind, Value, bad, number, one_of, same, spec, whole

NOT_POSITIVE = [0, -1, -(10**30)]
QUERY = ("test-loss", "test-losses", "prediction:example=1", "parameter:index=2", "alignment")
RECORDER = ("full", "every-k:k=3", "revolve:states=3", "rounded:bits=5")

seed_kind = whole([0, 7], [-(2**70), 2**70])
share_kind = number([0.5, 1.0], [0.0, -1.0, 1.5])
top_kind = one_of(["signed", "abs", "harmful"])
strategy_kind = one_of(["auto", "batch", "loop"])
curvature_kind = one_of(["hessian", "gauss-newton", "fisher"])
recorder_spec = Later("recorder", also=(spec("recorder", RECORDER),))

flag_off = one_from(
    same(False), Value("numpy", np.False_, False),
    *bad("true", "", 2, 0.0, float("nan"), [], [True], np.array([True, False]), 1 + 0j, object()),
)  # fmt: skip

bad_path = one_from(*bad(
    "", "a\0b", 3, "x" * 5000, True, object(), [], 1.5, "\ud800", Path("a\0"), "/dev/null", "/dev/null/x",
    "/proc/nowhere/x", nn.Linear(1, 1), {},
))  # fmt: skip


def one_of_text(word: str) -> Kind:
    odd = bad(3, None, b"x", [word], object(), 3.5, str)
    return one_from(same(word), Value("numpy", np.str_(word), word), *odd)


def example_ids(r: random.Random) -> Value:
    """Ids of the second and the fourth example."""
    good = [
        [1, 3], (3, 1), np.array([1, 3]), ["1", "3"], torch.tensor([1, 3]), {1, 3}, range(1, 4, 2), [1, 1, 3],
        [np.int64(1), np.str_("3")],
    ]  # fmt: skip
    odd = bad(
        [], None, "1", 3, [9], [-1], [None], [True], [[1]], [{}], [float("nan")], [1.5], ["\0"], [b"1"],
        range(8), np.zeros((2, 2)), [10**30], ["\ud800"], ["1 "], [(1,)], object(), ["\u0661"],
        np.array([1.5]), xr.Dataset(),
    )  # fmt: skip
    return drawn(r, [(it, [1, 3]) for it in good], odd)


def some_ids(r: random.Random) -> Value:
    """Ids, where none at all stand for those of the largest scores."""
    found = example_ids(r)
    nothing = found.it is None or isinstance(found.it, list) and not found.it
    return same([1]) if nothing else found
