"""What a block of the caller's may have switched on around a call, and what would change its numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["as_outside"]


@contextmanager
def as_outside() -> Iterator[None]:
    """Within the block neither autocast nor inference mode is on: the numbers are those of a run, whatever
    surrounds the call. Afterwards they are as they were. Cost: some microseconds."""
    torch = sys.modules.get("torch")
    with ExitStack() as stack:
        if torch is not None:
            for kind in ("cpu", "cuda"):
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
                stack.enter_context(torch.enable_grad())
        yield
