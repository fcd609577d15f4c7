"""What to say of losses that are not finite: the examples or the cause, where it shows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from influencekit._training.batch import Batch, tensors_of, with_tensors
from influencekit._training.checks.padding import LeftPadding, left_padding_first
from influencekit._training.state import State
from influencekit._training.step import Step
from influencekit.errors import DivergedError

__all__ = ["LOOK_FOR", "LOWER_RATE", "blamed", "diverged", "step_blamed", "update_diverged"]

_LARGE = 1e4  # parameters beyond it have run away, and whatever became of the losses is their doing
LOOK_FOR = "look for log, sqrt, norm or a division at 0"
LOWER_RATE = "lower the learning rate"


def diverged(what: str, step: int, advice: str) -> DivergedError:
    """The error for what became NaN or infinite in a step. `advice`: what to do, and what is kept."""
    return DivergedError(f"the {what} became NaN or infinite at step {step}; {advice}")


def blamed(
    batch: Batch, target: Any, losses: Tensor, ids: Sequence[Hashable],
    again: Callable[[Batch], Tensor] | None = None, kind: str = "example",
) -> str | None:  # fmt: skip
    """Which examples are behind losses [n] that are not finite, in words; None where none stands out.

    NaN and infinity in inputs may be meant (missing values, masks). So `again`, which gives the losses of
    another batch, is asked whether they are finite once these are 0; without it, what is not finite must be
    these examples' losses alone, or all losses. `target` is the batch's own tensor of targets.
    """
    bad = ~losses.detach().isfinite().cpu()
    tensors = tensors_of(batch)
    odd = [_odd(x) for x in tensors]
    guilty = bad & torch.stack(odd).any(0)
    if bool(guilty.any()) and again is not None:
        with torch.no_grad():
            mended = again(
                with_tensors(batch, [x.nan_to_num(0, 0, 0) if x.is_floating_point() else x for x in tensors])
            )
        guilty &= mended.isfinite().cpu()
    elif not bool(bad.all()) and bool((bad & ~guilty).any()):
        guilty = torch.zeros_like(guilty)
    for x, its in zip(tensors, odd, strict=True):
        if bool((its & guilty).any()):
            where = "targets" if x is target and len(tensors) > 1 else "inputs"
            what = "NaN" if bool(x.detach().cpu()[its & guilty].isnan().any()) else "infinity"
            return f"the {where} of {_who(its & guilty, ids, kind)} hold {what}; mend them, or leave them out"
    padding = LeftPadding.of(batch)
    if padding is not None and padding.explains(bad):
        return padding.words
    if 0 < int(bad.sum()) <= len(bad) // 2:
        return f"only the loss of {_who(bad, ids, kind)} is not finite; {LOOK_FOR} there"
    return None


def _odd(x: Tensor) -> Tensor:
    """Which examples of a tensor hold something that is not finite, [n]."""
    if not x.is_floating_point():
        return torch.zeros(len(x), dtype=torch.bool)
    return (~x.detach().isfinite()).reshape(len(x), -1).any(1).cpu()


def _who(which: Tensor, ids: Sequence[Hashable], kind: str) -> str:
    """`example 3`, `examples 3, 5 and 8`, `examples 3, 5, 8 and 4 more`."""
    found = [str(ids[k]) for k in which.nonzero()[:, 0].tolist()]
    if len(found) == 1:
        return f"{kind} {found[0]}"
    last = found[-1] if len(found) <= 3 else f"{len(found) - 3} more"
    return f"{kind}s {', '.join(found[: min(3, len(found) - (len(found) <= 3))])} and {last}"


def step_blamed(step: Step, state: State, losses: Tensor) -> str:
    """Why the losses [slot] of a step, or the parameters after it, are not finite, and what to do."""
    workload, t = step.workload, state.step
    rows = step.plan.batch(t)
    batch = workload.examples(rows.to(workload.device))
    ids = workload.train_ids or range(workload.n_train)
    mine = losses[step.plan.indices[t].to(losses.device) >= 0]
    said = blamed(
        batch,
        workload.calls.target(batch),
        mine,
        [ids[i] for i in rows.tolist()],
        partial(workload.losses, state.theta),
    )
    ran_away = not bool(state.theta.abs().max() < _LARGE)
    if said is not None and not (ran_away and said.startswith("only")):
        return said
    if bool(mine.isfinite().all()) and not ran_away:
        gradient = step.gradient(state, step.coefficients(t))[0]
        if not bool(gradient.isfinite().all()):
            return _gradient_blamed(batch)
    return LOWER_RATE


def _gradient_blamed(*batches: Any) -> str:
    what = f"the losses are finite and their gradient is not; {left_padding_first(*batches)}{LOOK_FOR}"
    return f"{what} in the model or the loss"


def update_diverged(
    step: int, losses: np.ndarray, trained: Iterable[nn.Parameter], batches: Sequence[Any]
) -> DivergedError:
    """The error for a loop's parameters that are not finite after an update; its gradients are still there.

    `losses` [slot] of these batches; NaN: not known.
    """
    advice = LOWER_RATE
    if not all(p.grad is None or bool(p.grad.isfinite().all()) for p in trained):
        if np.isnan(losses).any():
            advice = f"{left_padding_first(*batches)}{LOWER_RATE}, or {LOOK_FOR} in the model or the loss"
        elif bool((np.abs(losses) < _LARGE).all()):
            advice = _gradient_blamed(*batches)
    return diverged("parameters", step, f"what came before is kept; {advice}")
