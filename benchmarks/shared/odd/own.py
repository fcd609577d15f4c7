"""Queries, estimators and penalties of the user's own: good ones, and such as break their promises."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import influencekit as ik
from benchmarks.shared.odd.models import raises
from benchmarks.shared.odd.values import Value

__all__ = ["estimator_kind", "penalty_kind", "query_kind"]


def _query(labels: Any, values: Any) -> ik.Query:
    class Own(ik.Query):
        def labels(self, workload: Any) -> Any:
            return labels(workload)

        def evaluate(self, workload: Any, theta: Tensor) -> Any:
            return values(workload, theta)

    return Own()


def _square(workload: Any, theta: Tensor) -> Tensor:
    return (theta @ theta)[None]


def _name(workload: Any) -> list[str]:
    return ["norm"]


BAD_VALUES: dict[str, Callable[[Any, Tensor], Any]] = {
    "None": lambda w, x: None,
    "a number": lambda w, x: 3.0,
    "a scalar": lambda w, x: x @ x,
    "two": lambda w, x: x[:2],
    "a list": lambda w, x: [x @ x],
    "nan": lambda w, x: _square(w, x) * float("nan"),
    "integers": lambda w, x: _square(w, x).long(),
    "a matrix": lambda w, x: _square(w, x)[None],
    "complex": lambda w, x: _square(w, x) + 0j,
    "raises": raises,
    "text": lambda w, x: "norm",
    "an array": lambda w, x: np.ones(1),
    "other": lambda w, x: torch.ones(1)[:0],
}
BAD_LABELS: dict[str, Callable[[Any], Any]] = {
    "None": lambda w: None,
    "a number": lambda w: 3,
    "none at all": lambda w: [],
    "two": lambda w: ["a", "b"],
    "twice": lambda w: ["a", "a"],
    "lists": lambda w: [[1]],
    "raises": lambda w: raises(w, w),
    "text": lambda w: "n",
    "nothing": lambda w: [None],
}


def query_kind(r: random.Random) -> Value:
    """Queries, which give values and their labels."""
    x = r.random()
    if x < 0.2:
        return Value("a good query", _query(_name, _square), _query(_name, _square))
    if x < 0.7:
        text = r.choice(list(BAD_VALUES))
        return Value(f"values: {text}", _query(_name, BAD_VALUES[text]))
    text = r.choice(list(BAD_LABELS))
    return Value(f"labels: {text}", _query(BAD_LABELS[text], _square))


def _estimator(scores: Any, claimed: Any = frozenset()) -> ik.Estimator:
    class Own(ik.Estimator):
        @property
        def claims(self) -> Any:
            return claimed

        def scores(self, trajectory: Any, query: Any, windows: Any) -> Any:
            return scores(trajectory)

    return Own()


def _ramp(run: Any) -> Tensor:
    return torch.arange(8.0)[None, None]


ODD_ESTIMATORS: dict[str, ik.Estimator] = {
    "None": _estimator(lambda run: None),
    "a row": _estimator(lambda run: torch.arange(8.0)),
    "nan": _estimator(lambda run: torch.full((1, 1, 8), float("nan"))),
    "two queries": _estimator(lambda run: torch.full((2, 1, 8), 1.0)),
    "an array": _estimator(lambda run: np.ones((1, 1, 8))),
    "raises": _estimator(lambda run: raises(run, run)),
    "complex": _estimator(lambda run: torch.zeros(1, 1, 8) + 0j),
    "infinite": _estimator(lambda run: torch.full((1, 1, 8), float("inf"))),
    "claims a text": _estimator(_ramp, "exact"),
    "claims nothing": _estimator(_ramp, None),
    "seven": _estimator(lambda run: torch.zeros(1, 1, 7)),
}


def estimator_kind(r: random.Random) -> Value:
    """Estimators."""
    text = r.choice(list(ODD_ESTIMATORS))
    good, odd = Value("ramp", _estimator(_ramp), _estimator(_ramp)), Value(text, ODD_ESTIMATORS[text])
    return r.choice([good, *[odd] * 4])


def _zero(model: Any) -> Tensor:
    return 0 * model.weight.sum()


ODD_PENALTIES: dict[str, Callable[..., Any]] = {
    "None": lambda model: None,
    "a number": lambda model: 3.0,
    "a vector": lambda model: model.weight.flatten(),
    "raises": lambda model: raises(model, model),
    "text": lambda model: "x",
    "nan": lambda model: model.weight.sum() * float("nan"),
    "complex": lambda model: model.weight.sum() + 0j,
    "another": lambda model: model.weight.square().sum(),
    "no argument": lambda: 1.0,
    "four arguments": lambda model, a, b, c: 1.0,
}


def penalty_kind(r: random.Random) -> Value:
    """Penalties of a tape whose loop has none."""
    text = r.choice(list(ODD_PENALTIES))
    return r.choice([Value("zero", _zero, _zero), *[Value(text, ODD_PENALTIES[text])] * 3])
