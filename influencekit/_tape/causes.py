"""What to say of a loop that a tape cannot follow: the most frequent cause first, then what was seen."""

from __future__ import annotations

__all__ = ["loss_fails"]


def loss_fails(step: int, error: Exception) -> str:
    """The user's loss failed on what the model gave for the batch that was delivered."""
    line = (str(error).splitlines() or [""])[0][:120]
    return (
        f"step {step}: loss(outputs, target) fails on what the model gave for this batch "
        f"({type(error).__name__}: {line}); did the loop forward the batch of tape.batches, whole and as it "
        "came? If it forwards something made of it, or loss= needs other arguments, pass "
        "forward=lambda model, batch: ... and loss= for what that gives"
    )
