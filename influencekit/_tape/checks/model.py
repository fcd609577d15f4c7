"""Checks of what a loss depends on, made once: at the first step of a tape, or when a run is opened."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from influencekit._tape.random_draws import RandomDraws
from influencekit._tape.replica import Replica, few_of, put_back
from influencekit._tape.rng import preserved_random, restored
from influencekit._training.batch import Batch, select, tensors_of
from influencekit._training.buffers import buffers_in_float64
from influencekit._training.checks.examples import saying_what_fails
from influencekit._training.checks.model import check_side_doors, copy_model, leaves, refuse_hidden_ties
from influencekit._training.checks.taylor import check_pull
from influencekit._training.functional import called
from influencekit._training.kernels.operators import plain_operators
from influencekit._training.layout import Layout
from influencekit._training.losses import Training
from influencekit._training.parts import Part
from influencekit._training.workload import Within, Workload
from influencekit.errors import InputError

__all__ = [
    "refuse_inseparable", "refuse_nondifferentiable", "refuse_other_parameters", "refuse_random_evaluation",
    "refuse_side_doors",
]  # fmt: skip


def _few(model: nn.Module, batch: Batch) -> tuple[Batch, Tensor]:
    """The first examples of a batch, and their rows."""
    first = tensors_of(batch)[0]
    rows = torch.arange(min(few_of(model), len(first)), device=first.device)
    return select(batch, rows), rows


def refuse_other_parameters(
    replica: Replica, model: nn.Module, batch: Batch, rng: bytes | None, count: int
) -> None:
    """Refuse losses that depend on parameters of another model than the one that they are given.

    `replica` stands at the state before the step; `model` is the loop's own.
    """
    batch = copy(batch)  # forward= may take entries out
    with restored(rng, tensors_of(batch)[0].device), torch.enable_grad():
        losses = replica.call.slot_losses(replica.model, batch, count)
    if not losses.requires_grad:
        raise InputError(
            "the loss that loss= gives does not depend on the model's parameters: it is detached (no_grad, "
            "detach or item in loss= or forward=), so no derivative could be taken; let gradients through"
        )
    mine = {id(p) for p in replica.model.parameters()}
    loops = {id(p): name for name, p in model.named_parameters()}
    for leaf in leaves(losses):
        if id(leaf) in mine or not isinstance(leaf, nn.Parameter):
            continue
        if id(leaf) in loops:
            raise InputError(
                f"loss=, forward= or penalty= reaches parameter {loops[id(leaf)]} of the loop's model, not "
                "of the one that it is given, so a replay would see other weights than the step's; use the "
                "model that forward(model, batch) is given, and L1 or L2 as penalty=lambda model: ..."
            )
        raise InputError(
            f"the loss depends on a parameter of shape {list(leaf.shape)} that is not the model's: a second "
            "network, or a learned part of the loss; make it a part of the model, or freeze it "
            "(requires_grad_(False)) if nothing trains it"
        )


def refuse_side_doors(replica: Replica, layout: Layout, batch: Batch, rng: bytes | None) -> None:
    """Refuse a model that reaches its parameters otherwise than as attributes, seen on a few examples."""
    some, rows = _few(replica.model, batch)

    def losses(model: nn.Module) -> Tensor:
        with restored(rng, rows.device):
            return replica.call.slot_losses(model, copy(some), len(rows))

    check_side_doors(replica.model, losses, layout.names)


def refuse_nondifferentiable(
    replica: Replica, layout: Layout, theta: Tensor, buffers: Mapping[str, Tensor], batch: Batch,
    rng: bytes | None,
) -> None:  # fmt: skip
    """Refuse a model whose first-order scores would be wrong or impossible, before it is trained."""
    if rng is not None:
        with restored(rng, theta.device), plain_operators():
            RandomDraws(lambda: replica.call.outputs(replica.model, copy(batch)))
    some, rows = _few(replica.model, batch)

    def losses_of(model: nn.Module, buffers: Mapping[str, Tensor]) -> Training:
        def call(theta: Tensor, buffers: Mapping[str, Tensor], batch: Batch, within: Within) -> Any:
            run = partial(replica.call.penalised, batch=copy(batch))
            with restored(rng, theta.device):
                return called(model, layout.split(theta), buffers, run, within)

        def loss_of(outputs: Any, batch: Batch) -> Tensor:
            with plain_operators():
                return replica.call.penalised_losses(outputs, batch, len(rows))

        def wide() -> Training:
            return losses_of(copy_model(model, double=True), buffers_in_float64(buffers))

        return Training(call, loss_of, layout.size, buffers, wide=wide)

    try:
        refuse_hidden_ties(replica.model)
        part = Part(slice(None), some, losses_of(replica.model, buffers))
        if replica.call.penalty is not None:  # |theta| has a corner where theta is 0, as it often is at first
            theta = torch.where(theta == 0, 1e-2 * theta.norm() / len(theta) ** 0.5, theta)
        slots = len(rows) + (replica.call.penalty is not None)
        coefficients = theta.new_full((slots,), 1 / len(rows))
        _refuse_buffers_of_backward(replica, layout, theta, part, coefficients, rng)
        check_pull(part, theta, coefficients)
    except InputError as error:
        raise InputError(f"{error} (to record for loo alone, pass check=0)") from error


def _refuse_buffers_of_backward(
    replica: Replica, layout: Layout, theta: Tensor, part: Part, coefficients: Tensor, rng: bytes | None
) -> None:
    """Refuse a model of which backward changes buffers, as it does where checkpointing computes a block that
    changes them once more: derivatives are those of its forward pass."""
    batch, losses = part.batch, part.losses
    buffers = losses.buffers
    if not buffers:
        return
    _, _, trained = replica.gradient(layout, theta, buffers, [(copy(batch), coefficients, rng)], None)
    put_back(dict(replica.model.named_buffers()), buffers)
    with torch.enable_grad():
        _, forward = losses.call(theta.detach().requires_grad_(), buffers, batch, nullcontext)
    for name, before in buffers.items():
        x, y = (after[name].detach().double() - before.double() for after in (trained, forward))
        if (x - y).abs().max() > 0.05 * max(x.abs().max(), y.abs().max()):
            raise InputError(
                f"backward changes buffer {name} of the model, which only a forward pass may: checkpointing "
                "computes a block twice, and so changes running statistics twice; leave the layer out of "
                "what is checkpointed, or use one without running statistics"
            )


def refuse_inseparable(replica: Replica, batch: Batch, rng: bytes | None) -> None:
    """Refuse a model in which an example's loss depends on the other rows of its batch."""
    if replica.separable(batch, rng):
        return
    found = [n for n, m in replica.model.named_modules() if "BatchNorm" in type(m).__name__ and m.training]
    where = f" (layers {', '.join(found)} in training mode)" if found else ""
    raise InputError(
        f"the loss of an example depends on the other examples of its batch{where}; influence of single "
        "examples is not defined then: use layer or group norm, or pass "
        "separable=False, which keeps a removed example in those statistics and marks the results"
    )


def refuse_random_evaluation(workload: Workload, name: str = "test") -> None:
    """Refuse a model whose losses on the test examples are others every time: queries would be random.
    `name`: what the user calls these examples."""
    if workload.test is None:
        return
    rows = torch.arange(min(8, workload.n_test), device=workload.device)
    some = select(workload.test, rows)
    advice = f"give {name} examples in the form that the model and the loss take"
    with torch.no_grad(), preserved_random(workload.device), saying_what_fails(name, advice):
        first, *others = [workload.losses(workload.theta0, some).double() for _ in range(4)]
    gap = max(float((x - first).abs().nan_to_num().max()) for x in others)
    if gap > 1e-4 * max(1.0, float(first.abs().nan_to_num().max())):
        raise InputError(
            f"the model is random in evaluation mode: the losses of the same {name} examples differ "
            f"by {gap:.2g} from one time to the next, and so would every query; draw only while "
            "module.training is True (F.dropout(x, p, training=self.training))"
        )
