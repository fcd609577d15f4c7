"""PNG pictures for the page, small enough that all of them together keep to a budget."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from influencekit._report.record import Content

__all__ = ["Budget", "Range", "array_picture", "figure_picture", "picture", "range_of"]

Range = tuple[float, float]  # the values that are black and white
SIDES = (128, 96, 64, 48, 32, 24)  # pixels, tried from the largest
_COLOURS = 64  # of a picture in colour, whose PNG is a third as large with a palette
_TRIED = 12  # pictures that say how large the others will be


def range_of(pictures: Sequence[np.ndarray]) -> Range:
    """The range of all finite pictures of a page together, so that equal values look equal.

    0 to 1 or 0 to 255 where the values lie in it and reach half of it; else the 0.5 and 99.5 percentiles of
    all values, or their ends where these are equal.
    """
    values = np.concatenate([each.reshape(-1) for each in pictures]) if pictures else np.zeros(1)
    least, most = float(values.min()), float(values.max())
    for top in (1.0, 255.0):
        if least >= 0 and top / 2 <= most <= top:
            return 0.0, top
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    return (low, high) if low < high else (least, most) if least < most else (least - 0.5, most + 0.5)


class Budget:
    """Chooses the side of pictures so that `count` of them take about `limit` bytes."""

    def __init__(self, count: int, limit: int = 1_700_000) -> None:
        self._each = limit / max(1, count) * 3 / 4  # base 64 takes 4 bytes for 3

    def side(self, some: list[Any], encode: Callable[[Any, int], bytes]) -> int:
        """The largest side with which some of the pictures are small enough."""
        tried = some[:: max(1, len(some) // _TRIED)]
        for side in SIDES:
            if not tried or sum(len(encode(each, side)) for each in tried) / len(tried) <= self._each:
                return side
        return SIDES[-1]


def array_picture(values: np.ndarray, low: float, high: float) -> Any:
    """A picture of PIL of an array [row, column] or [row, column, 3]; `low` is black and `high` white."""
    from PIL import Image

    scaled = (np.nan_to_num(values) - low) / ((high - low) or 1.0)
    return Image.fromarray(np.clip(255 * scaled + 0.5, 0, 255).astype(np.uint8))


def figure_picture(figure: Any) -> Any:
    """A picture of PIL of what a figure of matplotlib shows."""
    from PIL import Image

    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=72)
    return Image.open(file)


def encoded(image: Any, side: int) -> bytes:
    """A PNG whose longer side has at most `side` pixels."""
    small = image if image.mode in ("L", "1") else image.convert("RGB")
    if max(small.size) > side:
        small = small.convert("L" if small.mode in ("L", "1") else "RGB")
        small.thumbnail((side, side))
    if small.mode == "RGB":
        small = small.quantize(_COLOURS)
    file = io.BytesIO()
    small.save(file, format="PNG", optimize=True)
    return file.getvalue()


def picture(image: Any, side: int) -> Content:
    """The picture as the page holds it."""
    data = encoded(image, side)
    ratio = min(1.0, side / max(image.size))
    width, height = (max(1, round(ratio * n)) for n in image.size)
    return Content("picture", base64.b64encode(data).decode(), width, height)
