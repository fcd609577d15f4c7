"""A GradScaler's part in a loop: it multiplies the loss, and skips steps whose gradients are not finite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

__all__ = ["Scaling"]


class Scaling:
    """What a loop's `torch.amp.GradScaler` does to a step; without one (None), what can be seen of it.

    `scale` is the factor of the present step's loss.
    """

    def __init__(self, scaler: Any = None) -> None:
        self.known, self._scaler, self.scale = scaler is not None, scaler, 1.0

    def begin(self) -> None:
        """A step begins."""
        if self._scaler is not None:
            self.scale = float(self._scaler.get_scale())

    def skipped(self, parameters: Iterable[Tensor]) -> bool:
        """Whether the step that began was skipped: the scaler lowers its scale then. Without the scaler,
        whether gradients that are not finite still stand there."""
        if self._scaler is not None:
            return float(self._scaler.get_scale()) < self.scale
        return not all(bool(p.grad.isfinite().all()) for p in parameters if p.grad is not None)

    def hint(self, gradients: bool) -> str:
        """What to do where no step followed a batch, and nothing shows why."""
        if self.known or gradients:
            return ""
        return "; if a GradScaler skipped it, pass scaler=... to the tape, since the gradients are gone"
