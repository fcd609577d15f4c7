"""A run whose examples are parts: tokens, boxes, fields of a form.

    L_t = sum_i k_i [ sum_p a_ip m_ip + (l2/2) |theta|^2 ]                    as the run was trained
        = sum_i sum_p (k_i / n_i) [ n_i a_ip m_ip + (l2/2) |theta|^2 ]        the same sum, over parts

with k_i the coefficient of example i, m_ip the loss of its part p, a_ip its weight and n_i the number of its
parts. So a part is an example with the loss n_i a_ip m_ip and the coefficient k_i / n_i, and it carries the
n_i-th part of its example's penalty. Whatever is known of steps, their derivatives and retraining holds for
such a run. Parts add up to their example because its loss is their sum.

Where a part counts in training that was not there when its example was looked at, its losses are made NaN,
so that no score comes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.nn.functional import pad

from influencekit._training.batch import Batch, tensors_of, with_tensors
from influencekit._training.loss_by_part import Parts, of_columns, of_parts, there
from influencekit._training.losses import Training
from influencekit._training.parts import Gradient, Part, by_autograd, summed
from influencekit._training.state import State
from influencekit._training.step import Step
from influencekit._training.workload import Within, Workload
from influencekit.errors import InputError

__all__ = ["ByPart", "NumberedParts", "PartsThere", "step_by_part"]


class PartsThere(NamedTuple):
    """Which parts the examples of a set have: `number` [example, part] counts them from 0, -1 = none."""

    number: Tensor

    @classmethod
    def of(cls, workload: Workload, batches: Sequence[Batch]) -> PartsThere:
        """Those of all examples of some batches, each evaluated once, at the initial parameters.

        Errors: a loss that does not tell parts apart; no part at all.
        """
        masks = []
        with torch.no_grad():
            for batch in batches:
                outputs = workload.outputs(workload.theta0, batch)
                masks.append(there(workload.calls.parts(outputs, batch)))
        width = max(mask.shape[1] for mask in masks)
        return cls.among(torch.cat([pad(mask, (0, width - mask.shape[1])) for mask in masks]))

    @classmethod
    def among(cls, mask: Tensor) -> PartsThere:
        """Those where a mask [example, part] is true. Errors: no part at all."""
        if not mask.any():
            raise InputError("parts: the weight of every part of every example is 0, so there is none")
        mask = mask[:, : int(mask.any(0).nonzero().max()) + 1]
        number = torch.full(mask.shape, -1, device=mask.device)
        number[mask] = torch.arange(int(mask.sum()), device=mask.device)
        return cls(number)

    @property
    def there(self) -> Tensor:
        """Whether there is a part: [example, part]."""
        return self.number >= 0

    @property
    def total(self) -> int:
        """How many parts there are."""
        return int(self.there.sum())

    @property
    def counts(self) -> Tensor:
        """The number of parts of an example where it has one, else 0: [example, part]."""
        return self.there * self.there.sum(1, keepdim=True)


class NumberedParts:
    """The training set of a run whose examples are parts: how many there are, and which they are."""

    def __init__(self, found: PartsThere) -> None:
        self._there, self._total = found.there, found.total

    def __len__(self) -> int:
        return self._total

    def without(self, positions: Tensor) -> str:
        """In words what is left out: parts by their positions among all parts."""
        if len(positions) != 1:
            return f"without {len(positions)} parts"
        example, part = self._there.nonzero()[int(positions)].tolist()
        return f"without part {part} of the example at position {example}"

    def at(self, rows: Tensor) -> NoReturn:
        """Errors: parts cannot be fetched."""
        raise InputError("this needs training examples, and a part of one cannot be fetched by itself")


class ByPart:
    """The `PartSource` of a run whose examples are parts. `step` is the one of the run itself."""

    def __init__(self, step: Step, workload: Workload, counts: Tensor) -> None:
        self._step, self._source, self._counts = step, step.source, counts.to(workload.dtype)
        self.workload, self.plan = workload, workload.plan
        source = step.source
        self.rounds, self.checked, self.changing = source.rounds, source.checked, source.changing
        self.caution, self.joint, self.eager = source.caution, source.joint, source.eager
        self.traceable, self.alone = source.traceable, source.alone
        self.undivided = "its examples are parts of examples"

    def start(self) -> State:
        """The state before step 0."""
        return self._step.start()

    def parts(self, state: State, padded: bool = False) -> Iterator[Part]:
        """The micro-batches, their slots one for each part of an example."""
        return (self._by_part(part, state.step) for part in self._source.parts(state, padded))

    def few(self, state: State) -> Part:
        """A few examples of the first micro-batch."""
        return self._by_part(self._source.few(state), state.step)

    def gradient(self, state: State, coefficients: Tensor) -> Gradient:
        """By `backward`, and where the run left the buffers."""
        parts = (part.as_run() for part in self.parts(state))
        found = summed(parts, state.theta, coefficients, by_autograd)
        if not state.buffers:
            return found
        own = self._source.gradient(state, self._step.coefficients(state.step))
        return found._replace(buffers=own.buffers)

    def protected(self) -> AbstractContextManager[None]:
        """Leaves the random generators as they were."""
        return self._source.protected()

    def _by_part(self, part: Part, t: int) -> Part:
        tensors = tensors_of(part.batch)
        counts = self._counts[self._step.rows(t)[part.slots][: len(tensors[0])]]
        width = counts.shape[1]
        if isinstance(part.slots, Tensor):
            each = torch.arange(width, device=part.slots.device)
            slots: Tensor | slice = (part.slots[:, None] * width + each).flatten()
        elif part.whole:
            slots = part.slots
        else:
            slots = slice(part.slots.start * width, part.slots.stop * width)
        return Part(slots, (*tensors, counts), _losses(part.losses, part.batch))


def step_by_part(step: Step, found: PartsThere) -> Step:
    """The step of the run whose examples are parts. Cost: nothing is trained.

    Errors: an example with a penalty, and no part to carry it.
    """
    workload, counts = step.workload, found.counts
    rows, valid = step.rows(slice(None)), step.plan.indices.to(counts.device) >= 0
    own, number = counts[rows] * valid[..., None], found.number[rows]  # [step, slot, part]
    if workload.l2 and bool((valid & (own.sum(-1) == 0)).any()):
        bare = int(rows[valid & (own.sum(-1) == 0)][0])
        raise InputError(f"parts: the example at position {bare} has none, and l2= gives it a penalty")
    mean = step.coefficients(slice(None)).double()[..., None]
    coefficient = torch.where(own > 0, mean / own.clamp(min=1), 0.0)
    coefficient[..., 0] += torch.where(valid, 0.0, mean[..., 0])  # of a penalty that is no example's
    indices = torch.where(own > 0, number, -1)
    plan = replace(step.plan, indices=indices.flatten(1).cpu(), coefficient=coefficient.flatten(1))
    workload.theta0, workload.layout  # noqa: B018 (cached, and so in the copy)
    other = copy(workload)
    for cached in ("plan", "_fetched"):
        other.__dict__.pop(cached, None)
    for name, value in {"train": NumberedParts(found), "order": plan, "train_ids": None}.items():
        object.__setattr__(other, name, value)
    return Step(other, source=ByPart(step, other, counts)).varied(start=step.start())


def _losses(losses: Training, like: Batch) -> Training:
    """The losses [slot * part] of batches (*tensors of a batch in the form of `like`, counts)."""
    parts_of = losses.parts_of
    assert parts_of is not None

    def own(batch: Batch) -> Batch:
        return with_tensors(like, tensors_of(batch)[:-1])

    def call(
        theta: Tensor, buffers: Mapping[str, Tensor], batch: Batch, within: Within
    ) -> tuple[Any, dict[str, Tensor]]:
        return losses.call(theta, buffers, own(batch), within)

    def loss_of(outputs: Any, batch: Batch) -> Tensor:
        counts = tensors_of(batch)[-1]
        if losses.penalty:
            one = pad(counts.new_ones(1, 1), (0, counts.shape[1] - 1))
            counts = torch.cat([counts, one])
        return _terms(parts_of(outputs, own(batch)), counts).flatten()

    def again(of: Any) -> Any:
        return None if of is None else lambda: _losses(of(), like)

    wide, rounded = again(losses.wide), again(losses.rounded)
    return replace(losses, call=call, loss_of=loss_of, wide=wide, rounded=rounded, parts_of=None)


def _terms(parts: Parts, counts: Tensor) -> Tensor:
    """n_i a_ip m_ip [slot, part] of counts n_i [slot, part]; NaN for an example with a part elsewhere."""
    weights, part, (columns, width) = parts.weights, parts.part, (parts.weights.shape[1], counts.shape[1])
    strange = (weights.detach().abs() * (of_columns(counts, part, columns) == 0)).sum(1, keepdim=True)
    terms = of_parts(weights * parts.losses, part, width) * counts
    return terms * torch.ones_like(strange).masked_fill(strange > 0, torch.nan)
