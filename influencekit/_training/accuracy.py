"""Accuracy, found by asking the loss which outputs it scores, and against which classes.

At constant outputs, which prefer no class, the gradient of a classification loss says it all. It is 0 where
the loss does not look, which settles shifted and ignored tokens; along the axis of the classes its smallest
entry is the right class. Targets only confirm that this is so.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import is_dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from influencekit._training.batch import Batch, mapped
from influencekit._training.call import Loss, values_of
from influencekit.errors import InfluenceKitError

__all__ = [
    "Accuracy", "accuracy", "accuracy_and_threshold", "accuracy_of", "logits_of", "read_as",
]  # fmt: skip

_ABOVE = {"above 0": 0.0, "above 0.5": 0.5}  # the readings of one output
_PIECE = 64 << 20  # bytes of outputs that the loss is asked about at once

Ask = Callable[[float], Tensor | None]  # the loss's gradient by the outputs, all of which are this number


class Accuracy(NamedTuple):
    """The fraction of what the loss scores that is classified rightly, or NaN and a `note` that says why."""

    value: float
    note: str = ""

    def attrs(self) -> dict[str, Any]:
        """What a run and its results say of it."""
        return {"accuracy": self.value, **({"accuracy_note": self.note} if self.note else {})}


class _Reading(NamedTuple):
    """What outputs mean under one reading of them: how many are right, of how many, and how surely."""

    right: int
    scored: int
    sure: int


def accuracy(outputs: Any, target: Any, loss: Loss, batch: Batch | None = None) -> Accuracy:
    """Accuracy of a model's outputs under `loss(outputs, target)`, which gives one loss an example.

    `batch` is what a loss sees that asks for it.

    Several outputs a position (example, pixel, token): the largest wins. One: above 0 means class 1, or above
    0.5 where the loss takes probabilities. Several labels an example count one by one. Cost: one to three
    gradients of the loss by the outputs.
    """
    return accuracy_of([(outputs, target, batch)], loss)


def accuracy_of(parts: Iterable[tuple[Any, Any, Batch | None]], loss: Loss) -> Accuracy:
    """The same of outputs, targets and batches that come in pieces."""
    return accuracy_and_threshold(parts, loss)[0]


def accuracy_and_threshold(
    parts: Iterable[tuple[Any, Any, Batch | None]], loss: Loss
) -> tuple[Accuracy, float | None]:
    """The same, and of one output a position the number above which it counts as class 1; else None."""
    found: list[dict[Any, _Reading]] = []
    rows, said, failed, right = [0, 0], "", None, 0
    for outputs, target, batch in parts:
        logits, put = _logits(outputs)
        if logits is None or not isinstance(target, Tensor) or not logits.dim():
            return Accuracy(float("nan"), "the outputs or the targets are not a tensor"), None
        rows = [n + (len(x) if x.dim() else 0) for n, x in zip(rows, (logits, target), strict=True)]
        shapes = [[n, *x.shape[1:]] if x.dim() else [] for n, x in zip(rows, (logits, target), strict=True)]
        said = f"outputs {shapes[0]} and targets {shapes[1]}"
        if not target.dim() or len(logits) != len(target) or not logits.numel():
            return Accuracy(float("nan"), f"{said} do not belong together"), None
        plain = _plain(logits, target)
        right += int((logits.argmax(1) == target).sum()) if plain else 0
        try:
            found += [
                _readings(z, t, partial(_asked, partial(values_of, loss), put, z, t, some))
                for z, t, some in _pieces(logits.detach(), target, batch)
            ]
        except InfluenceKitError:
            raise
        except Exception as error:  # the user's own loss, on outputs that no model gave
            failed = error
        if failed is not None and not plain:
            return Accuracy(float("nan"), f"the loss fails on constant outputs ({_line(failed)})"), None
    if failed is not None:  # there is but one reading, without asking
        return Accuracy(right / rows[0]), None
    whole = {key: _joined([p[key] for p in found]) for key in found[0] if all(key in p for p in found)}
    best = max((r.sure for r in whole.values() if r.scored), default=0)
    surest = [(key, r) for key, r in whole.items() if r.scored and r.sure == best]
    if len(surest) == 1:
        key, reading = surest[0]
        return Accuracy(reading.right / reading.scored), _ABOVE.get(key)
    what = "can be read in two ways" if surest else "are not classes and labels that the loss compares"
    return Accuracy(float("nan"), f"{said} {what}"), None


def read_as(outputs: Any, target: Tensor, losses: Callable[[Any], Tensor]) -> str:
    """How outputs and one target an example are classes that the loss compares: "classes", outputs [n, class]
    and whole numbers; "above 0" or "above 0.5", one output, which says the larger of two numbers there. Else
    "". `losses(outputs)` gives one loss an example. Where it cannot be asked, whole numbers decide.
    """
    logits, put = _logits(outputs)
    if logits is None:
        return ""
    z = logits.detach()
    ask = partial(_asked, lambda given, *_: losses(given), put, z, target, None)
    try:
        found = _readings(z, target, ask)
    except InfluenceKitError:
        raise
    except Exception:  # the user's own loss, on outputs that no model gave
        return "classes" if _plain(z, target) else ""
    known = {1: "classes", "above 0": "above 0", "above 0.5": "above 0.5"}
    return next((known[key] for key, one in found.items() if key in known and one.scored), "")


def _joined(parts: list[_Reading]) -> _Reading:
    return _Reading(sum(p.right for p in parts), sum(p.scored for p in parts), min(p.sure for p in parts))


# the outputs, and the loss asked about others -----------------------------------------------------------


def logits_of(outputs: Any) -> Tensor | None:
    """The floating-point tensor in a model's outputs: they themselves, their entry or attribute `logits`, or
    the first of a tuple. None where there is none.

    Example:

        >>> import torch
        >>> from influencekit.extend import logits_of
        >>> logits_of({"logits": torch.zeros(4, 3), "hidden": None}).shape
        torch.Size([4, 3])
    """
    return _logits(outputs)[0]


def _logits(outputs: Any) -> tuple[Tensor | None, Callable[[Tensor], Any]]:
    """The tensor that is scored, and a function that puts another in its place in a shallow copy."""
    if isinstance(outputs, Tensor):
        return outputs, lambda z: z
    if isinstance(outputs, Mapping):
        logits = outputs.get("logits")

        def put(z: Tensor) -> Any:
            other: Any = copy(outputs)
            other["logits"] = z
            return other

    elif isinstance(outputs, tuple | list) and not hasattr(outputs, "_fields"):
        logits = outputs[0] if outputs else None

        def put(z: Tensor) -> Any:
            return type(outputs)([z, *outputs[1:]])

    else:
        logits = getattr(outputs, "logits", None)

        def put(z: Tensor) -> Any:
            if hasattr(outputs, "_replace"):
                return outputs._replace(logits=z)
            if is_dataclass(outputs) and not isinstance(outputs, type):
                return replace(outputs, logits=z)
            other = copy(outputs)
            other.logits = z
            return other

    return (logits if isinstance(logits, Tensor) and logits.is_floating_point() else None), put


def _pieces(logits: Tensor, target: Tensor, batch: Batch | None) -> Iterator[tuple[Tensor, Tensor, Any]]:
    size = max(1, _PIECE // logits[0].nbytes)
    for k in range(0, len(logits), size):
        rows = slice(k, k + size)
        yield logits[rows], target[rows], None if batch is None else mapped(batch, itemgetter(rows))


def _asked(
    values: Callable[[Any, Tensor, Any], Tensor], put: Callable[[Tensor], Any], z: Tensor, t: Tensor,
    batch: Any, value: float,
) -> Tensor | None:  # fmt: skip
    """Gradient of the summed losses by the outputs where all are `value`; None where it is not finite."""
    with torch.enable_grad():
        constant = torch.full_like(z, value).requires_grad_()
        total = values(put(constant.clone()), t, batch).sum()
        g = torch.autograd.grad(total, constant, allow_unused=True)[0] if total.requires_grad else None
    return g if g is not None and bool(g.isfinite().all()) else None


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]


def _plain(logits: Tensor, target: Tensor) -> bool:
    """Whether there is but one reading, without the loss: outputs [n, class] and labels [n]."""
    classes = logits.dim() == 2 and target.dim() == 1 and not target.is_floating_point()
    return classes and logits.shape[1] > 1 and bool(((target >= 0) & (target < logits.shape[1])).all())


# the readings -------------------------------------------------------------------------------------------


def _readings(z: Tensor, t: Tensor, ask: Ask) -> dict[Any, _Reading]:
    """All readings of outputs z and targets t that agree with the loss."""
    found: dict[Any, _Reading | None] = {}
    g = ask(0.0)
    if g is None:
        g = ask(0.5)  # of probabilities: the logarithm of 0 is not finite
    if g is None:
        raise ValueError("it has no finite gradient there")
    for axis in [k for k in range(1, z.dim()) if z.shape[k] > 1]:
        if t.shape == z.shape:
            found[axis] = _distributions(z, t, g, axis, ask)
        elif z.numel() > t.numel() and not t.is_floating_point():
            found[axis] = _classes(z, t, g, axis)
    if not any(found.values()) and z.numel() == t.numel():
        found |= _signs(z.reshape(-1), t.reshape(-1), ask)
    return {key: reading for key, reading in found.items() if reading is not None}


def _classes(z: Tensor, t: Tensor, g: Tensor, axis: int) -> _Reading | None:
    """Outputs with their classes along `axis`, and targets that number them."""
    g, guess = g.movedim(axis, -1), z.argmax(axis)
    own, scored = g.argmin(-1), (g != 0).any(-1)
    single = bool(((g < 0).sum(-1) == 1)[scored].all())
    if own.shape == t.shape:
        if _lowest(g[scored], t[scored]):
            return _Reading(int((guess == t)[scored].sum()), int(scored.sum()), 2 + single)
        if t.dim() > 1 and not bool(scored[:, -1].any()):  # the outputs of a token are about the next
            here, following = scored[:, :-1], t[:, 1:]
            if _lowest(g[:, :-1][here], following[here]):
                return _Reading(int((guess[:, :-1] == following)[here].sum()), int(here.sum()), 2 + single)
    if single and _among(own, scored, t, z.shape[axis]):
        return _Reading(int((guess == own)[scored].sum()), int(scored.sum()), 1)
    return None


def _lowest(g: Tensor, t: Tensor) -> bool:
    """Whether gradients [position, class] are lowest at the classes t [position].

    In their row, or else in their column (lower than where other classes are right): some losses prefer
    classes whatever the target, as weights do together with label smoothing.
    """
    if bool(((t < 0) | (t >= g.shape[1])).any()):
        return False
    if torch.equal(g.argmin(1), t):
        return True
    mine = g.gather(1, t[:, None])
    there = g.new_full((g.shape[1],), -torch.inf).scatter_reduce(0, t, mine[:, 0], "amax")
    elsewhere = g.scatter(1, t[:, None], torch.inf).amin(0)
    return bool((there < elsewhere).all())


def _among(own: Tensor, scored: Tensor, t: Tensor, classes: int) -> bool:
    """Whether the right classes of every example are among its targets, as often, wherever they stand."""

    def counts(values: Tensor, there: Tensor) -> Tensor:
        rows = torch.zeros(len(t), classes, dtype=torch.int64, device=t.device)
        values, there = (x.long().reshape(len(t), -1) for x in (values.where(there, 0), there))
        return rows.scatter_add(1, values, there)

    return bool((counts(own, scored) <= counts(t, (t >= 0) & (t < classes))).all())


def _distributions(z: Tensor, t: Tensor, g: Tensor, axis: int, ask: Ask) -> _Reading | None:
    """Targets that spread 1 over the classes along `axis`, one-hot or soft; not independent labels."""
    if bool((t < 0).any()) or not bool(((t.double().sum(axis) - 1).abs() < 1e-3).all()):
        return None
    own, scored = t.argmax(axis), (g != 0).any(axis)
    if not bool((g.argmin(axis) == own)[scored].all()):
        return None
    if bool((g > 0).any()):  # a softmax: only differences of outputs count
        other = ask(1.0)
        if other is None or not torch.allclose(other, g, rtol=1e-3, atol=1e-3 * float(g.abs().max())):
            return None
    return _Reading(int(((z.argmax(axis) == own) & scored).sum()), int(scored.sum()), 2)


def _signs(z: Tensor, t: Tensor, ask: Ask) -> dict[Any, _Reading | None]:
    """One output a position, and targets 0 and 1, or -1 and 1; of others the loss must take no notice."""
    signed = bool((t == -1).any()) and not bool((t == 0).any())
    one, zero = t == 1, t == (-1 if signed else 0)

    def reading(at: float) -> tuple[_Reading | None, Tensor]:
        g = ask(at)
        if g is None:
            return None, one & zero
        g = g.reshape(-1)
        scored = g != 0
        right = ((z > at) == one) & scored
        agrees = bool((scored <= (one | zero)).all()) and bool(((g < 0) == one)[scored].all())
        return (_Reading(int(right.sum()), int(scored.sum()), 1) if agrees else None), scored

    def both(scored: Tensor) -> bool:
        return all(bool((scored & kind).any()) or not bool(kind.any()) for kind in (one, zero))

    logit, scored = reading(0.0)
    if logit is not None and both(scored):
        top = ask(1.0)  # where losses that want the number 1 are content
        if bool(zero.any()) or top is None or bool((top.reshape(-1) != 0)[one].any()):
            return {"above 0": logit}
    half, scored = reading(0.5)
    return {"above 0.5": half if both(scored) else None}
