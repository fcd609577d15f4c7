"""Windows of a run."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

import influencekit as ik
from benchmarks.shared.odd.drawing import Callee, Later, callee, drawn, of, one_from
from benchmarks.shared.odd.values import Kind, Value, bad, one_of, same, whole
from influencekit import windows

__all__ = ["WINDOWS", "removal_kind", "window_kind"]

removal_kind = one_of(["global", "window", "occurrence"])


def window_kind(r: random.Random) -> Value:
    w = ik.Window
    good: list[tuple[Any, Any]] = [
        ("full", None), ("each-epoch", [w(0, 2), w(2, 4)]), ([w(0, 4)], None),
        ((w(0, 2), w(1, 3)), [w(0, 2), w(1, 3)]), ("step:1-3,full", [w(1, 3), w(0, 4)]),
        ([w(2, 4), w(0, 2)], [w(2, 4), w(0, 2)]), ([w(0, 2)] * 2, [w(0, 2)] * 2),
        ([w(np.int64(1), np.int32(3))], [w(1, 3)]), (np.array([w(0, 2)], dtype=object), [w(0, 2)]),
        (iter([w(0, 2)]), [w(0, 2)]),
    ]  # fmt: skip
    odd = bad(
        "", "step:\u00b2-3", "step:\u0661-3", "step:0-" + "9" * 5000, "step:3-1", "step:0-9", "step:1-",
        "step:-1-2", "epoch:9", ",", "full,", b"full", [], 3, [(0, 2)], ["full"], [None], [w(0, 9)], w, True,
        1.5, {"a": 1}, np.array([0, 2]), "full\0", "step:1_0-12", "step: 1-2", "step:+1-2", "epoch:\n1",
        "FULL", [[w(0, 2)]], object(), float("nan"), torch.tensor([0, 2]),
    )  # fmt: skip
    return drawn(r, good, odd)


def text_of(kind: Kind) -> Kind:
    """The texts of a kind that stand for something."""

    def draw(r: random.Random) -> Value:
        while not isinstance((found := kind(r)).it, str) or found.stands_for is None:
            pass
        return same(found.it) if isinstance(found.stands_for, list) else found

    return draw


_EPOCHS = [0, 0, 1, 1]
epochs_kind = one_from(
    Value("array", np.array(_EPOCHS), _EPOCHS), Value("tensor", torch.tensor(_EPOCHS), _EPOCHS),
    *bad([], None, 3, "0011", [0.5], [None], object()),
)  # fmt: skip

WINDOWS: tuple[Callee, ...] = (
    of(
        ik.Window,
        {"start": 1, "stop": 4},
        start=whole([0, 2], [-1, 4, 9]),
        stop=whole([2, 9], [0, 1, -1]),
        removal=removal_kind,
    ),
    callee("Window.check", lambda e, g: ik.Window(1, 4).check(**g), steps=whole([4, 9], [3, -1])),
    of(
        windows.parse_windows,
        {"spec": "full", "epochs": _EPOCHS},
        spec=Later(also=(text_of(window_kind),)),
        epochs=epochs_kind,
        removal=removal_kind,
    ),
)
