"""What to say of a loop that a tape cannot follow: the most frequent cause first, then what was seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

__all__ = ["Forward", "inside_backward", "loss_fails", "no_batch", "no_step", "part_of", "replay_fails"]


class Forward(NamedTuple):
    """A forward pass with gradients for which no batch waits.

    `shape`: of its first input, None where it has no tensor; `delivered`: how many batches came from
    `tape.batches` so far, `passed_over`: how many of them the loop did not forward; `here`: how many passes
    this step has had, `rows`: the examples of the last batch; `part`: whether the input is some of their
    rows; `backward`: whether a backward pass is running.
    """

    shape: list[int] | None
    delivered: int
    passed_over: int
    here: int
    rows: int
    part: bool
    backward: bool

    @classmethod
    def shape_of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[int] | None:
        """The shape of the first tensor that a model is called with."""
        found = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        return list(found[0].shape) if found else None


def no_batch(step: int, seen: Forward) -> str:
    """The model ran forward, with gradients, and no batch of `tape.batches` waits."""
    shape = "" if seen.shape is None else f" (input {seen.shape})"
    what = f"step {step}: the model ran forward, with gradients, on no new batch of tape.batches{shape}"
    return f"{what}: {_cause(seen)}"


def _cause(seen: Forward) -> str:
    rows = seen.shape[0] if seen.shape else None
    if not seen.delivered:
        return (
            "does the loop iterate over tape.batches? None came from it so far: for ids, batch in "
            "tape.batches(loader): ...; a pass before the loop belongs under torch.no_grad()"
        )
    if seen.backward:
        return (
            "it ran inside backward, as checkpointing the whole model does: checkpoint its blocks instead, "
            "or pass forward=, which runs the model as the loop does"
        )
    if 2 * seen.passed_over >= seen.delivered:
        return (
            f"{seen.passed_over} of {seen.delivered} batches were delivered and not forwarded: take them "
            "from tape.batches one at a time, each with its step (no list(...), no prefetching behind it)"
        )
    if seen.here and seen.part and rows is not None and rows < seen.rows:
        return _pieces(rows, seen.rows)
    if seen.here and rows == seen.rows:
        return (
            f"it is pass {seen.here + 1} of this step, on as many rows as the batch has: pass forward=lambda "
            "model, batch: ..., which runs all passes of a step and returns what loss= needs (two gradients "
            "in a step, as in SAM, cannot be recorded)"
        )
    if seen.here:
        return (
            f"it is pass {seen.here + 1} of this step, and no pass on its batch of {seen.rows}: what comes "
            "from elsewhere (a second loader, generated inputs) must be in the batch, and forward=lambda "
            "model, batch: ... must run all passes"
        )
    return (
        "it came after a step and before the next batch: evaluate under torch.no_grad(), and in eval mode; "
        "several steps on one batch need it several times: tape.batches takes pairs (positions, batch)"
    )


def _pieces(rows: int, whole: int) -> str:
    return (
        f"it got {rows} of {whole} rows: where the loop cuts batches into pieces, let the loader give the "
        "pieces, and pass accumulate=, the number of them"
    )


def no_step(step: int, delivered: int, waiting: bool, forward: bool) -> str:
    """`optimizer.step()` came, and the model was not seen to run on a batch."""
    if waiting and not forward:
        return (
            f"step {step}: optimizer.step() was called, and the model that the tape was given did not run on "
            "the batch: where the loop calls a method of it, pass forward=lambda model, batch: "
            'model.loss(*batch, reduction="none") and loss=lambda outputs, target: outputs; where it calls a '
            "copy or a wrapper of it, pass the tape that one"
        )
    if not delivered:
        return (
            f"step {step}: optimizer.step() was called, and no batch came from tape.batches: does the loop "
            "iterate over it? Write for ids, batch in tape.batches(loader): ..."
        )
    return (
        f"optimizer.step() was called without a new batch, after step {step - 1} was done; every step needs "
        "a forward pass on a batch of tape.batches: where the loop steps several times on one batch, give it "
        "several times, as pairs (positions, batch)"
    )


def loss_fails(step: int, error: Exception, rows: int = 0, whole: int = 0) -> str:
    """The user's loss failed on what the model gave for `rows` of the `whole` batch that was delivered."""
    line = (str(error).splitlines() or [""])[0][:120]
    what = f"step {step}: loss(outputs, target) fails on what the model gave for this batch "
    if 0 < rows < whole:
        return f"{what}({type(error).__name__}: {line}); {_pieces(rows, whole)}"
    return (
        f"{what}({type(error).__name__}: {line}); did the loop forward the batch of tape.batches, whole and "
        "as it came? If it forwards something made of it, or loss= needs other arguments, pass "
        "forward=lambda model, batch: ... and loss= for what that gives"
    )


def part_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: Any) -> bool:
    """Whether the first row of a model's input is one of those of a batch."""
    found = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.dim() and len(x)]
    if not found:
        return False
    row = found[0][0].detach().cpu()
    parts = [t.detach().cpu() for t in tree_leaves(batch) if isinstance(t, Tensor) and t.dim() > 1]
    return any(t.shape[1:] == row.shape and bool((t == row).flatten(1).all(1).any()) for t in parts)


def inside_backward() -> bool:
    """Whether a backward pass is running just now."""
    return torch._C._current_graph_task_id() != -1


def replay_fails(step: int, error: Exception) -> str:
    """The user's model or loss failed in a replay, on the batch as the loader gave it."""
    line = (str(error).splitlines() or [""])[0][:120]
    return (
        f"step {step}, replayed: the model or the loss fails on the batch as the loader gave it "
        f"({type(error).__name__}: {line}); what the loop does to a batch before the model (view, float, "
        "other keys) belongs into forward=lambda model, batch: ... or into the data set, and what it does to "
        "targets into loss="
    )
