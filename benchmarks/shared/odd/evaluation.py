"""How good scores are: trust, evaluations, and their results."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

import influencekit as ik
from benchmarks.shared.odd.asked import RUN, average_kind, estimator_or_scores, scored, several
from benchmarks.shared.odd.common import NOT_POSITIVE, bad_path, seed_kind, share_kind, strategy_kind
from benchmarks.shared.odd.drawing import Callee, Later, The, callee, of, one_from
from benchmarks.shared.odd.values import Value, bad, one_of, spec, whole
from influencekit import evaluation

__all__ = ["EVALUATIONS"]

_MASK = np.arange(8) % 4 == 0
mask_kind = one_from(
    *(Value(type(m).__name__, m, _MASK)
      for m in (_MASK, torch.tensor(_MASK), _MASK.tolist(), xr.DataArray(_MASK, dims="train"))),
    *bad(_MASK.astype(int), _MASK[:5], np.zeros(8, bool), np.ones(8, bool), None, "mask", 3, [None] * 8,
         _MASK.astype(object), _MASK[None], _MASK.astype(float), object()),
)  # fmt: skip

lists_kind = one_from(*bad([], None, [1], [{}, 1]))
numbers_kind = one_from(*bad([0], [], None, "01", [0, 1, 2]))

EVALUATIONS: tuple[Callee, ...] = (
    of(
        ik.trust,
        {**RUN, "examples": 4},
        **scored,
        estimator=estimator_or_scores,
        method=one_of(["auto", "retrain", "smooth"]),
        examples=whole([3, 5], [2, *NOT_POSITIVE]),
        seed=seed_kind,
        strategy=strategy_kind,
    ),
    of(
        ik.evaluate,
        {**RUN, "evaluations": "lds:m=4"},
        **scored,
        evaluations=Later(also=(spec("evaluation", ("lds:m=4", "leave-k-out:groups=3")),)),
        estimators=several,
        scores=Later("scores", "hole"),
        average=average_kind,
        subsets=bad_path,
    ),
    of(
        evaluation.detection,
        {"scores": The("one"), "corrupted": The("mask")},
        scores=Later("one", "influence"),
        corrupted=Later("mask", also=(mask_kind,)),
    ),
    callee(
        "flipped",
        lambda e, g: evaluation.flipped(**{"workload": e["work"], **g})[1],
        workload=Later(),
        fraction=share_kind,
        seed=seed_kind,
    ),
    callee(
        "over_seeds",
        lambda e, g: evaluation.over_seeds(**{"found": [{"a": e["lds"]}] * 2, "seeds": [0, 1], **g}),
        found=Later(also=(lists_kind,)),
        seeds=Later("a list", also=(numbers_kind,)),
    ),
    of(evaluation.summary, {"result": The("lds")}, result=Later("lds"), evaluation=Later()),
    of(evaluation.evaluation_of, result=Later("lds")),
    callee("LDS.table", lambda e, g: str(evaluation.LDS().table(**g)), result=Later("lds")),
)
