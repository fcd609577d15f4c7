"""A training step done again as the user's loop did it: eagerly, in their model's own mode and randomness."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from influencekit._tape.loader import fetch
from influencekit._tape.rng import fixed, restored
from influencekit._tape.stream import StreamExamples
from influencekit._training.batch import Batch, NewEntries, tensors_of
from influencekit._training.call import Loss, arguments, one_each, parts_of, target_of, values_of
from influencekit._training.checks.examples import refusing_indices
from influencekit._training.checks.model import copy_model, frozen
from influencekit._training.checks.separability import fixed_statistics, own_losses
from influencekit._training.layout import Layout
from influencekit._training.loss_by_part import Parts
from influencekit.errors import InputError

__all__ = [
    "Call",
    "NOT_TENSORS",
    "RecordedExamples",
    "Micro",
    "few_of",
    "is_large",
    "Penalty",
    "Replica",
    "changed_buffers",
    "modes",
    "on_device",
    "put_back",
    "set_modes",
]

_SMALL = 1 << 20  # parameters of a model, frozen ones too, up to which dispatch outweighs arithmetic
NOT_TENSORS = "a taped run has no training tensors"


Penalty = Callable[..., Tensor]
"""`penalty(model)`, or `penalty(model, outputs=..., batch=...)` where it has parameters of these names."""


class Micro(NamedTuple):
    """One micro-batch as it was: its places in the step, its examples, the generators around it; in a run
    without a data set also the stored contents of its examples.

    With a penalty there is one more place than there are examples: the last is the penalty's.
    """

    slots: slice
    indices: list[int]
    fetch_rng: bytes | None
    forward_rng: bytes | None
    rows: list[int] | None = None


@dataclass(frozen=True)
class Call:
    """How a batch becomes outputs and per-example losses; the same for recording, replay and derivatives.

    A batch is a tensor (input and target), a tuple or list (inputs..., target) or a mapping whose
    `target_key` entry is the target and whose other entries are keyword arguments of the model. With
    `forward`, outputs are `forward(model, batch)` instead. Losses are `loss(outputs, target)`, one a row, or
    `loss(outputs, target, batch=batch)` where it has such a parameter. What a step minimises may have a
    `penalty`, a scalar of the model, or of the model, the outputs and the batch, which is no example's.
    `changed`: what some examples are in place of what the data set says, as if a label had been wrong.
    """

    loss: Loss
    data: Any
    collate: Callable[[list[Any]], Any]
    target_key: str = "labels"
    forward: Callable[[nn.Module, Any], Any] | None = None
    penalty: Penalty | None = None
    changed: NewEntries | None = None

    def batch(self, micro: Micro, device: torch.device) -> Batch:
        """The batch of a micro-batch, fetched again, or as it was stored."""
        if isinstance(self.data, StreamExamples):
            found = on_device(self.data.batch(micro.indices, micro.rows), device)
        else:
            found = on_device(fetch(self.data, self.collate, micro.indices, micro.fetch_rng), device)
        return found if self.changed is None else self.changed.within(found, torch.tensor(micro.indices))

    def target(self, batch: Any) -> Any:
        """What the loss compares the outputs with; None where it takes that from the batch itself."""
        return target_of(batch, self.target_key, self.loss)

    def outputs(self, model: nn.Module, batch: Any) -> Any:
        """The model's outputs on a batch."""
        if self.forward is not None:
            return self.forward(model, batch)
        args, kwargs = arguments(batch, self.target_key)
        return model(*args, **kwargs)

    def losses(self, outputs: Any, batch: Any, count: int) -> Tensor:
        """Per-example losses [count]. Errors: another shape."""
        with refusing_indices():
            return one_each(values_of(self.loss, outputs, self.target(batch), batch), count)

    def parts(self, outputs: Any, batch: Any) -> Parts:
        """The losses of the examples' parts. Errors: a loss that does not tell parts apart."""
        with refusing_indices():
            return parts_of(self.loss, outputs, self.target(batch), batch)

    @cached_property
    def penalty_takes(self) -> frozenset[str]:
        """Which of `outputs` and `batch` the penalty asks for."""
        names = {} if self.penalty is None else inspect.signature(self.penalty).parameters
        return frozenset(names) & {"outputs", "batch"}

    def penalty_of(self, model: nn.Module, outputs: Any, batch: Any) -> Tensor:
        """The penalty [1] of a micro-batch. Errors: no scalar."""
        assert self.penalty is not None
        given = {"outputs": outputs, "batch": batch}
        found = self.penalty(model, **{name: given[name] for name in self.penalty_takes})
        if not isinstance(found, Tensor) or found.numel() != 1 or not found.is_floating_point():
            got = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"penalty must return one number as a tensor, got {got}; sum over parameters, and use sum() "
                "of tensors, not of their .item()"
            )
        return found.reshape(1)

    def penalised(self, model: nn.Module, batch: Any) -> Any:
        """The model's outputs, and beside them the penalty [1] where there is one."""
        outputs = self.outputs(model, batch)
        return outputs if self.penalty is None else (outputs, self.penalty_of(model, outputs, batch))

    def penalised_losses(self, outputs: Any, batch: Any, count: int) -> Tensor:
        """Losses [slot] of what `penalised` gave: of `count` examples, then the penalty if there is one."""
        if self.penalty is None:
            return self.losses(outputs, batch, count)
        outputs, penalty = outputs
        return torch.cat([self.losses(outputs, batch, count), penalty])

    def penalised_parts(self, outputs: Any, batch: Any) -> Parts:
        """The same by part: a penalty is a row of one part."""
        if self.penalty is None:
            return self.parts(outputs, batch)
        outputs, penalty = outputs
        losses, weights, part = self.parts(outputs, batch)
        more = losses.shape[1] - 1
        alone, one = pad(penalty[:, None], (0, more)), pad(weights.new_ones(1, 1), (0, more))
        if part is not None:
            part = torch.cat([part, torch.zeros_like(part[:1])])
        return Parts(torch.cat([losses, alone]), torch.cat([weights, one]), part)

    def slot_losses(self, model: nn.Module, batch: Any, count: int) -> Tensor:
        """The losses [slot] of a micro-batch of `count` examples at once."""
        return self.penalised_losses(self.penalised(model, batch), batch, count)


@dataclass(frozen=True)
class RecordedExamples:
    """The data set of a taped run as training examples, fetched anew; where it is random, always alike."""

    call: Call
    device: torch.device

    def __len__(self) -> int:
        return len(self.call.data)

    def __iter__(self) -> Iterator[Any]:
        raise InputError(f"{NOT_TENSORS} in workload.train; ask workload.examples(rows) for a batch of them")

    def __getitem__(self, key: Any) -> Any:
        return iter(self)

    def at(self, rows: Tensor) -> Batch:
        """The examples at these positions, of any shape, one after the other."""
        with fixed():
            return self.call.batch(Micro(slice(None), rows.reshape(-1).tolist(), None, None), self.device)


def on_device(batch: Any, device: torch.device) -> Batch:
    """A collated batch as plain tensors on a device: a tensor, a tuple or a dict of them."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    parts: dict[Any, Any] = dict(batch) if isinstance(batch, Mapping) else dict(enumerate(batch))
    if wrong := [k for k, v in parts.items() if not isinstance(v, Tensor)]:
        raise InputError(
            f"entry {wrong[0]!r} of the collated batch is a {type(parts[wrong[0]]).__name__}; leave only "
            "tensors in it (in the data set or in collate_fn)"
        )
    moved = {k: v.to(device) for k, v in parts.items()}
    return moved if isinstance(batch, Mapping) else tuple(moved.values())


def is_large(model: nn.Module) -> bool:
    """Whether arithmetic outweighs the dispatch that traces and batches of models save."""
    return sum(p.numel() for p in model.parameters()) > _SMALL


def few_of(model: nn.Module) -> int:
    """On how many examples derivatives are held against differences, which takes up to twenty gradients."""
    return 2 if is_large(model) else 16


def modes(model: nn.Module) -> dict[str, bool]:
    """Which modules are in training mode, by name."""
    return {name: module.training for name, module in model.named_modules()}


def set_modes(model: nn.Module, training: Mapping[str, bool]) -> None:
    """Put every module back into its mode."""
    for name, module in model.named_modules():
        module.training = training.get(name, module.training)


def put_back(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy values into a model's own tensors, of any shape and dtype, by name."""
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value.reshape(own[name].shape))


def changed_buffers(before: Mapping[str, Tensor], model: nn.Module) -> list[str]:
    """The buffers that are not what they were."""
    return [name for name, b in model.named_buffers() if not torch.equal(before[name], b)]


class Replica:
    """A private copy of a model that does recorded steps again, by `backward` as the loop did. What is frozen
    is the model's own."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        self.model = copy_model(model, frozen(model))
        self.call = call

    @contextmanager
    def at(
        self, layout: Layout, theta: Tensor, buffers: Mapping[str, Tensor]
    ) -> Iterator[list[nn.Parameter]]:
        """The copy with these parameters and buffers, no gradients; yields its parameters in order."""
        own = dict(self.model.named_parameters())
        params = [own[name] for name in layout.names]
        put_back(own, layout.split(theta))
        put_back(dict(self.model.named_buffers()), buffers)
        for p in self.model.parameters():
            if p.requires_grad:
                p.grad = None
        yield params
        for p in params:
            p.grad = None

    def gradient(
        self,
        layout: Layout,
        theta: Tensor,
        buffers: Mapping[str, Tensor],
        micros: Sequence[tuple[Batch, Tensor, bytes | None]],
        autocast: torch.dtype | None,
        scale: float = 1.0,
    ) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """Gradient [param] of sum(coefficients * losses) over micro-batches (batch, coefficients, rng).

        Also the losses [slot] of each micro-batch, and the buffers after the last. As by a GradScaler, losses
        are multiplied by `scale` and the gradient is divided by it; where it overflows, which it did not in
        the loop, by half of it, and so on.
        """
        found = []
        device = theta.device
        with self.at(layout, theta, buffers) as params, torch.enable_grad():
            for batch, coefficients, rng in micros:
                with (
                    restored(rng, device),
                    torch.autocast(device.type, dtype=autocast, enabled=autocast is not None),
                ):
                    losses = self.call.slot_losses(self.model, batch, len(tensors_of(batch)[0]))
                loss = (coefficients * losses.to(coefficients.dtype)).sum()
                (loss if scale == 1 else loss * scale).backward()
                found.append(losses.detach())
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
            g = torch.cat([grad.reshape(-1) for grad in grads])
            g = g if scale == 1 else g * (1 / scale)
        if scale > 1 and not bool(g.isfinite().all()):
            return self.gradient(layout, theta, buffers, micros, autocast, max(scale / 2, 1.0))
        kept = {n: b.detach().clone() for n, b in self.model.named_buffers() if n in buffers}
        return g, found, kept

    def separable(self, batch: Batch, rng: bytes | None) -> bool:
        """Whether the loss of an example is its own, or batch normalisation alone ties it to the others."""
        device = tensors_of(batch)[0].device
        before = {name: b.clone() for name, b in self.model.named_buffers()}

        def losses(batch: Batch) -> Tensor:
            put_back(dict(self.model.named_buffers()), before)  # which a loss may read
            with restored(rng, device), torch.enable_grad():  # a model may take derivatives itself
                found = self.call.losses(
                    self.call.outputs(self.model, batch), batch, len(tensors_of(batch)[0])
                )
            return found.detach()

        try:
            if own_losses(losses, batch, rng is not None):
                return True
            with fixed_statistics():
                return own_losses(losses, batch, rng is not None)
        finally:
            put_back(dict(self.model.named_buffers()), before)
