"""Names of examples."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from benchmarks.shared.odd.drawing import drawn
from benchmarks.shared.odd.values import EITHER, Kind, Value, bad

__all__ = ["ids_kind"]


def ids_kind(n: int) -> Kind:
    """Names of n examples."""
    letters, numbers = list("abcdefgh"[:n]), list(range(10, 10 + n))
    rest = letters[1:]

    def draw(r: random.Random) -> Value:
        good = [
            (letters, letters), (tuple(letters), letters), (np.array(letters), letters), (numbers, numbers),
            (range(10, 10 + n), numbers), (np.array(numbers), numbers), (torch.tensor(numbers), numbers),
            (dict.fromkeys(letters), letters), (iter(letters), letters),
            ([np.str_(x) for x in letters], letters), (torch.tensor(numbers).int(), numbers),
            ([f"{x}\n" for x in letters], EITHER), ([1.5 + k for k in range(n)], EITHER),
            ([*rest, 3], EITHER), ([2**70 + k for k in range(n)], EITHER),
            ([-1, *(2**63 + k for k in range(n - 1))], EITHER),
            ([1, *(0.5 + k for k in range(n - 1))], EITHER), ([True, *rest], EITHER),
            (["\u0661", *rest], EITHER), (["=1+1", *rest], EITHER), (["x" * 100_000, *rest], EITHER),
        ]  # fmt: skip
        firsts: tuple[Any, ...] = (
            None, float("nan"), b"a", (1,), [1], {}, "a\0", "\ud800", object(), 1j, float("inf"),
            frozenset(), "\0",
        )  # fmt: skip
        odd = bad(
            rest, [*letters, "z"], ["a"] * n, [1, "1", *letters[2:]], *([x, *rest] for x in firsts), 3,
            object(), np.zeros((n, 2)), b"", [1, 1.0, *letters[2:]], torch.zeros(n),
            torch.empty(n, device="meta"),
        )  # fmt: skip
        return drawn(r, good, odd, 0.5)

    return draw
