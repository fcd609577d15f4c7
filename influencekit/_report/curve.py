"""The training loss over the steps, and its picture with the windows on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from influencekit._report.record import Curve, Record
from influencekit._trajectory.store import read
from influencekit._trajectory.trajectory import Trajectory

__all__ = ["curve_of", "curve_picture", "stretches"]

_POINTS = 200
WIDTH, HEIGHT = 640, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 8, 8, 26


def curve_of(run: Trajectory) -> Curve | None:
    """Mean training losses of the batches over the steps; None where none was stored."""
    if "loss" not in run.group:
        return None
    losses = np.asarray(read(run.group, "loss"), dtype=np.float64)[: run.last]
    found = stretches(losses)
    return Curve(found) if found else None


def stretches(losses: np.ndarray) -> tuple[tuple[int, float], ...]:
    """(first step, mean loss) of up to 200 stretches of losses [step, example in the batch].

    All are equally long, as the mean of fewer steps jumps more. What is left over lies in a last one that
    begins earlier and shares steps with the one before.
    """
    there = np.isfinite(losses)
    counts, sums = there.sum(1), np.where(there, losses, 0).sum(1)
    wide = max(1, -(-len(losses) // _POINTS))
    starts = [*range(0, len(losses) - wide + 1, wide)]
    if len(losses) % wide:
        starts.append(len(losses) - wide)
    parts = [(start, slice(start, start + wide)) for start in starts]
    return tuple((k, float(sums[p].sum() / counts[p].sum())) for k, p in parts if counts[p].sum())


def curve_picture(record: Record) -> dict[str, Any] | None:
    """Coordinates of the curve, of the borders of the windows, and of a few ticks, in pixels."""
    if record.curve is None or len(record.curve.points) < 2:
        return None
    steps = np.array([p[0] for p in record.curve.points], dtype=float)
    losses = np.array([p[1] for p in record.curve.points])
    last = max(float(steps[-1]), *(float(stop) for _, stop in record.windows))
    high = float(losses.max()) or 1.0

    def x(step: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * step / (last or 1), 1)

    def y(loss: float) -> float:
        return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - loss / high), 1)

    borders = sorted({b for window in record.windows for b in window})
    return {
        "width": WIDTH, "height": HEIGHT, "base": HEIGHT - _BOTTOM, "left": _LEFT, "right": WIDTH - _RIGHT,
        "line": " ".join(f"{x(s)},{y(v)}" for s, v in zip(steps, losses, strict=True)),
        "borders": [x(b) for b in borders] if len(borders) <= 120 else [],
        "steps": [(x(s), f"{s:.0f}") for s in np.unique(np.linspace(0, last, 5).round())],
        "losses": [(y(float(v)), f"{v:.2g}") for v in np.linspace(0, high, 3)],
        "table": [(s, f"{v:.4g}") for s, v in record.curve.points[:: max(1, len(steps) // 50)]],
    }  # fmt: skip
