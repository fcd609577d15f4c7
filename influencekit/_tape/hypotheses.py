"""Why a replayed step is not what the loop did: simple causes, each tested on the gradient that the loop's
optimizer was given.

    a: that gradient [param];  b: the replayed one;  theta: the parameters before the step
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from influencekit._tape.optimizer import UpdateRule

__all__ = ["Evidence", "explained", "some_entries"]

_FITS = 1e-3  # how far, relative to the loop's gradient, a cause may be off
_EXAMPLES = 64  # so many, at most, are differentiated one by one
_NUMBERS = 1 << 26  # in as many gradients, of all parameters, as are held at once


class Evidence(NamedTuple):
    """What a step leaves to look at that does not replay.

    `gradient(coefficients)` [param] is the replayed gradient with these coefficients [slot] instead of its
    own; `sizes`: the examples of its micro-batches, `slots`: where they stand; `losses`, `replayed_losses`
    [example]: as the loop's outputs gave them (NaN: not known), and as replayed; `accumulate`: what the tape
    was told; `passed_over`: batches that were delivered before the step and not forwarded; `left`:
    `some_entries` of the gradients that were there before the step began, if any were.
    """

    rule: UpdateRule
    theta: Tensor
    a: Tensor
    b: Tensor
    coefficients: Tensor
    slots: Sequence[slice]
    sizes: Sequence[int]
    gradient: Callable[[Tensor], Tensor]
    losses: Tensor
    replayed_losses: Tensor
    accumulate: int
    passed_over: int = 0
    left: Tensor | None = None


def some_entries(parts: Sequence[Tensor]) -> Tensor:
    """A few entries of every tensor, in one vector."""
    return torch.cat([x.detach().reshape(-1)[:64].double() for x in parts])


def explained(e: Evidence) -> str | None:
    """The cause that fits, and what to write; None where none does."""
    for test in (
        _outputs,
        _update,
        _left_over,
        _scaled,
        _by_value,
        _penalty,
        _micros,
        _examples,
        _some,
        _each,
    ):
        if said := test(e):
            return said
    return (
        "the outputs are the loop's and the gradient is not: the loop minimises another loss than loss= "
        "(or adds something: penalty=), or changes gradients before the step"
        if bool(e.losses.isfinite().all())
        else None
    )


def _near(a: Tensor, b: Tensor, size: Tensor | None = None, by: float = _FITS) -> bool:
    return bool((a - b).norm() <= by * (a if size is None else size).norm())


def _outputs(e: Evidence) -> str | None:
    known = e.losses.isfinite()
    mine, theirs = e.losses[known], e.replayed_losses[known]
    if not len(mine) or torch.allclose(mine, theirs, rtol=2e-3, atol=1e-5):
        return None
    if e.passed_over:
        return (
            f"the model gave the loop other outputs, and {e.passed_over} batches were delivered before the "
            "step and not forwarded: take them from tape.batches one at a time, each with its step (no "
            "list(...), no prefetching behind it)"
        )
    return (
        f"the model gave the loop other outputs (mean loss {float(mine.mean()):.4g}, replayed "
        f"{float(theirs.mean()):.4g}): did it forward the batch as it came? What the loop does to it belongs "
        "into the data set, collate= or forward=, and random numbers from a generator of its own into torch's"
    )


def _update(e: Evidence) -> str | None:
    if not _near(e.a, e.b, by=1e-4):
        return None
    clip = getattr(e.rule.optimizer, "clip_norm", None)
    if clip is not None and float(e.a.norm()) > clip:
        return f"it fits if the loop does not clip: leave out clip_norm={clip:g}"
    return (
        "the gradient is the replayed one and the update is not: something else than optimizer.step() "
        "changes the parameters (a hook on it, a subclass of it, a second step)"
    )


def _left_over(e: Evidence) -> str | None:
    parts = e.rule.layout.split(e.a - e.b).values()
    if e.left is None or len(e.left) != len(some_entries(list(parts))) or not float(e.left.norm()):
        return None
    if not _near(some_entries(list(parts)), e.left):
        return None
    return "it fits if the gradients of the step before were still there: call optimizer.zero_grad() in each"


def _scaled(e: Evidence) -> str | None:
    r = float(e.a @ e.b / (e.b @ e.b).clamp(min=1e-300))
    if not _near(e.a, r * e.b) or r == 0:
        return None

    def is_(value: float) -> bool:
        return abs(r / value - 1) < _FITS

    clip, norm = getattr(e.rule.optimizer, "clip_norm", None), float(e.a.norm())
    round_norm = float(f"{norm:.2g}")
    n = e.sizes[0] if len(set(e.sizes)) == 1 else 0
    what = f"the gradient is {r:.4g} times the replayed one"
    if e.accumulate > 1 and len(e.sizes) == 1 and is_(e.accumulate):
        return f"{what}; it fits if a step has one batch: leave out accumulate={e.accumulate}"
    if (ranks := _ranks()) > 1 and is_(ranks):
        return (
            f"{what}; it fits if the gradients are summed over the ranks, not averaged: divide them by the "
            f"number of ranks, {ranks}"
        )
    if n > 1 and is_(n):
        return f'{what}; it fits if the loop minimises the sum of the losses: write reduction="sum"'
    if n > 1 and is_(1 / n):
        return f'{what}; it fits if the loop minimises the mean of the losses: write reduction="mean"'
    if e.accumulate > 1 and is_(e.accumulate):
        return (
            f"{what}; it fits if the loop does not divide by accumulate: write reduction=lambda batch: "
            f"{e.accumulate} / len(batch[0])"
        )
    if r < 1 and clip is None and abs(norm / round_norm - 1) < 2e-3:
        return f"{what}; it fits if the loop clips its norm to {round_norm:g}: write clip_norm={round_norm:g}"
    return (
        f"{what}; it fits if the loop multiplies the loss by that (a mean over tokens or weights, a scaler "
        "without unscale_): write reduction=, a function of the batch that gives the factor of every loss"
    )


def _ranks() -> int:
    """How many processes train together."""
    known = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if known else 1


def _by_value(e: Evidence) -> str | None:
    c = float(e.a.abs().max())
    if not bool((e.b.abs() > c).any()) or not _near(e.a, e.b.clamp(-c, c)):
        return None
    return f"it fits if the loop clips every entry of the gradient to {c:.4g}: write clip_value={c:.4g}"


def _penalty(e: Evidence) -> str | None:
    difference = e.rule.layout.split(e.a - e.b)
    names = [n for n, x in difference.items() if float(x.norm()) > _FITS * float((e.a - e.b).norm())]
    r = torch.cat([difference[n].reshape(-1) for n in names])
    theta = torch.cat([e.rule.layout.split(e.theta)[n].reshape(-1) for n in names])
    some = len(names) < len(difference)
    of = f"{', '.join(names[:2])}{' ...' if len(names) > 2 else ''}" if some else "all parameters"
    for kind, slope, half in (("p.pow(2).sum()", theta, 0.5), ("p.abs().sum()", theta.sign(), 1.0)):
        factor = float(r @ slope / (slope @ slope).clamp(min=1e-300))
        if len(r) > 2 and factor and _near(r, factor * slope, by=1e-2):
            which = "parameters())" if not some else "parameters() if ...)"
            return (
                f"it fits if the loss has {half * factor:.3g} * {kind} of {of} beside it: write "
                f"penalty=lambda model: {half * factor:.3g} * sum({kind} for p in model.{which}"
            )
    return None


def _combined(e: Evidence, rows: Sequence[slice | list[int]]) -> Tensor | None:
    """The weights [row] with which the gradients of these slots add up to the loop's; None if they do not."""
    parts = []
    for row in rows:
        only = torch.zeros_like(e.coefficients)
        only[row] = e.coefficients[row]
        parts.append(e.gradient(only))
    g = torch.stack(parts, 1).double()
    found = torch.linalg.lstsq(g.cpu(), e.a.double().cpu()[:, None]).solution
    if not found.isfinite().all() or not _near(e.a.double().cpu(), (g.cpu() @ found)[:, 0]):
        return None
    return found[:, 0]


def _micros(e: Evidence) -> str | None:
    if len(e.sizes) < 2 or not 2 * len(e.sizes) <= len(e.a) <= _NUMBERS / len(e.sizes):
        return None
    found = _combined(e, e.slots)
    if found is None:
        return None
    listed = ", ".join(f"{x:.3g}" for x in found.tolist()[:4])
    return (
        f"it fits if the micro-batches of the step count {listed} times what they do here (one mean over "
        "all of them, such as over their tokens): write reduction=, a function of the batch that gives the "
        "factor of every loss"
    )


def _examples(e: Evidence) -> str | None:
    n = sum(e.sizes)
    if not 2 <= n <= _EXAMPLES or not 2 * n <= len(e.a) <= _NUMBERS / n:
        return None
    rows = [[s.start + k] for s, size in zip(e.slots, e.sizes, strict=True) for k in range(size)]
    found = _combined(e, rows)
    if found is None:
        return None
    if bool((found < -1e-2).any()):  # another loss: with two classes such weights fit every one
        return None
    if bool((found.abs() < 1e-2).any()):
        count = int((found.abs() >= 1e-2).sum())
        return (
            f"it fits if only {count} of the {n} examples count: let loss(outputs, target, batch) give 0 for "
            "the others, and reduction= the factor of the rest (with separable=False, where the losses of "
            "all decide which, as the hardest)"
        )
    return (
        f"it fits if the losses are weighted by {float(found.min()):.3g} to {float(found.max()):.3g}, one "
        "weight an example (of a column, of its class): let loss= multiply by it, as loss(outputs, target, "
        "batch) can"
    )


def _some(e: Evidence) -> str | None:
    difference = e.rule.layout.split(e.a - e.b)
    size = float(e.a.norm())
    odd = [n for n, x in difference.items() if float(x.norm()) > 1e-4 * size]
    if not odd or len(odd) == len(difference):
        return None
    return (
        f"only the gradient of {', '.join(odd[:3])}{' ...' if len(odd) > 3 else ''} differs: something that "
        "the tape cannot see changes it (a hook, a line between backward and step), or a part of the loss "
        "reaches it alone"
    )


def _each(e: Evidence) -> str | None:
    mine, theirs = e.rule.layout.split(e.a), e.rule.layout.split(e.b)
    factors = {}
    for name, a in mine.items():
        b = theirs[name]
        factor = float((a * b).sum() / (b * b).sum().clamp(min=1e-300))
        if not _near(a, factor * b):
            return None
        factors[name] = float(f"{factor:.3g}")  # of a layer's parameters the first is named
    low, high = min(factors, key=lambda n: factors[n]), max(factors, key=lambda n: factors[n])
    return (
        f"it fits if the gradient of every parameter is scaled by a factor of its own ({low} by "
        f"{factors[low]:.3g}, {high} by {factors[high]:.3g}), as by clipping layers one by one, which is not "
        "recorded: clip all together (clip_norm=)"
    )
