from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from influencekit.errors import InputError
from influencekit.interfaces import Recorder

__all__ = ["Rounded"]


@dataclass(frozen=True)
class Rounded(Recorder):
    """Every k-th state with its numbers rounded to `bits` bits after the leading one. Not lossless.

    A number is off by at most 2^-(bits + 1) of itself: 7 bits are the precision of bfloat16, 10 that of half
    precision. Dtype and range stay, so the store reads as any other; the zeros at the end of every number
    compress to nothing. The first and the last state are exact. Scores are those of the rounded states.
    """

    bits: int = 7
    k: int = 1
    lossless: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 51:
            raise InputError(f"rounded: bits must be from 1 to 51, got {self.bits}")
        if self.k < 1:
            raise InputError(f"rounded: k must be at least 1, got {self.k}")

    def kept(self, start: int, stop: int) -> Sequence[int]:
        states = list(range(start, stop + 1, self.k))
        return states if states[-1] == stop else [*states, stop]

    def coded(self, values: np.ndarray) -> np.ndarray:
        """To the nearest, of two as near to the even one, as IEEE 754 rounds."""
        values = np.ascontiguousarray(values)
        drop = np.finfo(values.dtype).nmant - self.bits
        if drop <= 0:
            return values
        whole = values.view(f"u{values.itemsize}")
        one = whole.dtype.type(1)
        up = (one << (drop - 1)) - one + (whole >> drop & one)
        rounded = ((whole + up) & ~((one << drop) - one)).view(values.dtype)
        return np.where(np.isfinite(values), rounded, values)
