"""Connectionist temporal classification by elementary operations, since torch's kernel has no second
derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["ctc_loss"]

_NEVER = -1e30  # the log of probability 0: finite, so that derivatives stay so


def ctc_loss(
    log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any, blank: int = 0,
    reduction: str = "mean", zero_infinity: bool = False, **odd: Any,
) -> Any:  # fmt: skip
    """As `torch.nn.functional.ctc_loss`: minus the log probability of all alignments of each target.

    alpha_t(s) = log_probs[t, label_s]
                 + logsumexp(alpha_{t-1}(s), alpha_{t-1}(s-1), alpha_{t-1}(s-2) where allowed)

    over the target with blanks between its labels. log_probs [time, batch, class]; differentiable any number
    of times; values equal torch's to rounding. Source: Graves et al., ICML 2006.
    """
    if odd or reduction not in ("none", "mean", "sum"):
        return NotImplemented
    if log_probs.dim() == 2:  # one example
        steps, size = (torch.as_tensor(x).reshape(1) for x in (input_lengths, target_lengths))
        losses = ctc_loss(
            log_probs[:, None], targets.reshape(1, -1), steps, size, blank, reduction, zero_infinity
        )
        return losses.reshape(()) if reduction == "none" else losses
    time, n, _ = log_probs.shape
    lengths, wanted = (
        torch.as_tensor(x, device=log_probs.device).long() for x in (input_lengths, target_lengths)
    )
    labels = _padded(targets, wanted, blank).to(log_probs.device)
    there = torch.arange(labels.shape[1], device=labels.device) < wanted[:, None]
    labels = torch.where(there, labels, blank)  # padding may be any number
    width = 2 * labels.shape[1] + 1
    states = torch.full((n, width), blank, device=log_probs.device)
    states[:, 1::2] = labels
    # a state may be reached from two before it unless it is blank, or the same label again
    skip = torch.zeros_like(states, dtype=torch.bool)
    skip[:, 2:] = (states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2])
    emitted = log_probs.gather(2, states.expand(time, n, width))  # [time, batch, state]
    never = torch.full_like(emitted[0], _NEVER)
    here = torch.arange(width, device=log_probs.device) < 2
    alpha = torch.where(here, emitted[0], never)
    for t in range(1, time):
        one = torch.cat([never[:, :1], alpha[:, :-1]], 1)
        two = torch.where(skip, torch.cat([never[:, :2], alpha[:, :-2]], 1)[:, :width], never)
        following = torch.logsumexp(torch.stack([alpha, one, two]), 0) + emitted[t]
        alpha = torch.where((t < lengths)[:, None], following, alpha)
    last = 2 * wanted[:, None]
    ends = torch.stack([alpha.gather(1, last)[:, 0], alpha.gather(1, (last - 1).clamp(min=0))[:, 0]])
    ends = torch.stack([ends[0], torch.where(wanted > 0, ends[1], _NEVER)])
    losses = -torch.logsumexp(ends, 0) + _of_normalised(log_probs, lengths)
    impossible = losses > -_NEVER / 2
    losses = torch.where(impossible, 0.0 if zero_infinity else torch.inf, losses)
    if reduction == "none":
        return losses
    return (losses / wanted.clamp(min=1)).mean() if reduction == "mean" else losses.sum()


def _of_normalised(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """0 [batch], with the gradient exp(log_probs): torch's kernel takes its input for normalised, and adds
    this."""
    p = log_probs.exp()
    used = torch.arange(len(p), device=p.device)[:, None] < lengths
    return torch.where(used[..., None], p - p.detach(), 0.0).sum((0, 2))


def _padded(targets: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """Targets [batch, label], also of those given in one row."""
    if targets.dim() == 2:
        return targets
    parts = torch.split(targets, lengths.tolist())
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=blank)
