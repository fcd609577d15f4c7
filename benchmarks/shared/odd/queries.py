"""Queries, by their values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import influencekit as ik
from benchmarks.shared.odd.drawing import Callee, callee, one_from
from benchmarks.shared.odd.values import Kind, Value, bad, same, whole
from influencekit import queries

__all__ = ["QUERIES"]


def query_of(cls: Any, /, **kinds: Kind) -> Callee:
    return callee(cls.__name__, lambda e, g: ik.estimate(e["run"], cls(**g)).drop_attrs(), **kinds)


index_kind = one_from(
    same((2,)), Value("list", [2], (2,)), Value("array", np.array([2]), (2,)),
    *bad((4,), (-1,), (0, 0), (), 2, None, ("2",), (True,), (1.5,), object(), "2", (10**30,)),
)  # fmt: skip

name_kind = one_from(
    same("bias"), same(None), *bad("nothing", "", 3, b"bias", ["bias"], object(), "bi\0as")
)  # fmt: skip

_ONES = torch.ones(4)
vector_kind = one_from(
    same(_ONES), Value("int", _ONES.long(), _ONES), Value("array", np.ones(4, np.float32), _ONES),
    Value("double", _ONES.double(), _ONES), Value("expanded", torch.ones(1).expand(4), _ONES),
    *bad(torch.ones(3), torch.ones(()), None, "ones", _ONES + 0j, torch.ones(4, device="meta"),
         torch.full((4,), float("nan")), torch.ones(0, 4), _ONES.to_sparse(), object(), 3, ["a"] * 4),
)  # fmt: skip

QUERIES: tuple[Callee, ...] = (
    query_of(queries.Prediction, example=whole([0, 3], [4, -1, 10**30]), output=whole([0], [1, -1, 10**30])),
    query_of(
        queries.FeatureImportance, example=whole([0, 3], [4, -1]), feature=whole([0, 2], [3, -1, 10**30])
    ),
    query_of(queries.Parameter, index=index_kind, name=name_kind),
    query_of(queries.FixedVector, vector=vector_kind),
)
