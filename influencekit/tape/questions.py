"""What is asked once, at the first step of a tape or when a run is opened: of what a loss depends."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from influencekit.errors import InputError
from influencekit.tape.loader import items
from influencekit.tape.noise import Noise
from influencekit.tape.replica import Micro, Replica, modes, on_device, set_modes
from influencekit.tape.rng import capture, fixed, preserved_random, restored
from influencekit.training.batch import Batch, select, tensors_of
from influencekit.training.buffers import buffers_in_float64
from influencekit.training.checks.examples import saying_what_fails
from influencekit.training.checks.model import check_side_doors, copy_model, leaves, refuse_hidden_ties
from influencekit.training.checks.taylor import check_pull
from influencekit.training.functional import called
from influencekit.training.kernels.operators import plain_operators
from influencekit.training.layout import Layout
from influencekit.training.losses import Training
from influencekit.training.parts import Part
from influencekit.training.workload import Within, Workload

__all__ = [
    "refuse_foreign", "refuse_mixing", "refuse_random_evaluation", "refuse_side_doors", "refuse_together",
    "refuse_underivable",
]  # fmt: skip

_FEW = 4  # examples on which derivatives are held against differences
_SEEDS = 8  # tries of a random collation: one may leave the first example alone by chance


def refuse_foreign(replica: Replica, model: nn.Module, batch: Batch, rng: bytes | None, count: int) -> None:
    """Refuse losses that reach parameters of something else than the model that they are given.

    `replica` stands at the state before the step; `model` is the loop's own.
    """
    batch = copy(batch)  # forward= may take entries out
    with restored(rng, tensors_of(batch)[0].device), torch.enable_grad():
        losses = replica.call.losses(replica.call.outputs(replica.model, batch), batch, count)
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
                f"loss= or forward= reaches parameter {loops[id(leaf)]} of the loop's model, not of the one "
                "that it is given, so a replay would see other weights than the step's; use the model that "
                "forward(model, batch) is given, and leave penalties to weight_decay"
            )
        raise InputError(
            f"the loss depends on a parameter of shape {list(leaf.shape)} that is not the model's: a second "
            "network, or a learned part of the loss; make it a part of the model, or freeze it "
            "(requires_grad_(False)) if nothing trains it"
        )


def refuse_side_doors(replica: Replica, layout: Layout, batch: Batch, rng: bytes | None, count: int) -> None:
    """Refuse a model that reaches its parameters by another way than as attributes."""
    device = tensors_of(batch)[0].device

    def losses(model: nn.Module) -> Tensor:
        with restored(rng, device):
            some = copy(batch)
            return replica.call.losses(replica.call.outputs(model, some), some, count)

    check_side_doors(replica.model, losses, layout.names)


def refuse_underivable(
    replica: Replica,
    layout: Layout,
    theta: Tensor,
    buffers: Mapping[str, Tensor],
    batch: Batch,
    rng: bytes | None,
) -> None:
    """Refuse a model of which first-order scores would be wrong or impossible, while nothing is lost yet."""
    if rng is not None:
        with restored(rng, theta.device), plain_operators():
            Noise(lambda: replica.call.outputs(replica.model, copy(batch)))
    rows = torch.arange(min(_FEW, len(tensors_of(batch)[0])), device=theta.device)
    some = select(batch, rows)

    def losses_of(model: nn.Module, buffers: Mapping[str, Tensor]) -> Training:
        def call(theta: Tensor, buffers: Mapping[str, Tensor], batch: Batch, within: Within) -> Any:
            run = partial(replica.call.outputs, batch=copy(batch))
            with restored(rng, theta.device):
                return called(model, layout.split(theta), buffers, run, within)

        def loss_of(outputs: Any, batch: Batch) -> Tensor:
            with plain_operators():
                return replica.call.losses(outputs, batch, len(rows))

        def wide() -> Training:
            return losses_of(copy_model(model).double(), buffers_in_float64(buffers))

        return Training(call, loss_of, layout.size, buffers, wide=wide)

    try:
        refuse_hidden_ties(replica.model)
        part = Part(slice(None), some, losses_of(replica.model, buffers))
        check_pull(part, theta, theta.new_full((len(rows),), 1 / len(rows)))
    except InputError as error:
        raise InputError(f"{error} (to record for loo alone, pass check=0)") from error


def refuse_together(replica: Replica, batch: Batch, rng: bytes | None) -> None:
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


def refuse_mixing(replica: Replica, micro: Micro, device: torch.device, separable: bool) -> None:
    """Refuse a collation whose rows are not one example each, in the order in which they were fetched.

    The same items are collated again in another order, in the same random state; rows must move along, or
    their losses must: padding stays as it is, since the batch still holds its longest item. Where collation
    draws random numbers, only the first row can be compared, in several random states. Where the user has
    said that losses are not separable, only sorting is refused.
    """
    count = len(micro.indices)
    if count < 2:
        return
    with restored(micro.fetch_rng, device):
        found = items(replica.call.data, list(micro.indices))
    if not isinstance(found, list):  # a data set that collates by itself
        return

    def collated(order: list[int], seed: int) -> tuple[Batch, bool]:
        with fixed(seed):
            before = capture()
            batch = replica.call.collate([_copied(found[i]) for i in order])
            return on_device(batch, device), capture() != before

    rolled, every = [*range(1, count), 0], list(range(count))
    others = [0, *range(2, count), 1] if count > 2 else [0, 0]
    for seed in range(_SEEDS):
        first, random = collated(every, seed)
        order, there = (others, [0]) if random else (rolled, every)
        second, _ = collated(order, seed)
        here = [order[k] for k in there]
        same = _same_rows(first, second, here, there)
        sorts = not random and _same_rows(first, second, every, every)
        if not same and (separable or sorts) and not _same_losses(replica, first, second, here, there, count):
            raise InputError(
                "the rows of a collated batch are not one example each, in the order of the items: "
                "collate_fn sorts them, or mixes them (mixup, CutMix); leave that out, or, if it only mixes, "
                "pass separable=False, by which a row counts as the example at its place"
            )
        if not random:
            return


def _copied(item: Any) -> Any:
    """Collations take entries out of items; tensors are shared, since a copy would be of all their memory."""
    if isinstance(item, Tensor | tuple | str | int | float):
        return item
    return [_copied(x) for x in item] if type(item) is list else copy(item)


def _same_rows(a: Batch, b: Batch, here: list[int], there: list[int]) -> bool:
    """Whether rows `here` of all tensors of one batch are the rows `there` of another."""
    mine, theirs = tensors_of(a), tensors_of(b)
    return len(mine) == len(theirs) and all(
        x.shape == y.shape
        and x.dim() > 0
        and len(x) == len(mine[0])
        and torch.equal(x[here].nan_to_num(), y[there].nan_to_num())
        for x, y in zip(mine, theirs, strict=True)
    )


def _same_losses(replica: Replica, a: Batch, b: Batch, here: list[int], there: list[int], count: int) -> bool:
    """The same of losses, without dropout and without batch statistics."""
    model, found = replica.model, []
    before = modes(model)
    model.eval()
    with torch.no_grad():
        for batch in (a, b):
            with fixed():
                found.append(replica.call.losses(replica.call.outputs(model, batch), batch, count))
    set_modes(model, before)
    tolerance = 1e-6 if found[0].dtype == torch.float64 else 1e-3
    return torch.allclose(found[0][here], found[1][there], rtol=tolerance, atol=tolerance)


def refuse_random_evaluation(workload: Workload) -> None:
    """Refuse a model whose losses on the test examples are others every time: queries would be random."""
    if workload.test is None:
        return
    rows = torch.arange(min(8, workload.n_test), device=workload.device)
    some = select(workload.test, rows)
    advice = "give test examples in the form that the model and the loss take"
    with torch.no_grad(), preserved_random(workload.device), saying_what_fails("test", advice):
        first, *others = [workload.losses(workload.theta0, some).double() for _ in range(4)]
    gap = max(float((x - first).abs().nan_to_num().max()) for x in others)
    if gap > 1e-4 * max(1.0, float(first.abs().nan_to_num().max())):
        raise InputError(
            "the model is random in evaluation mode: the losses of the same test examples differ by "
            f"{gap:.2g} from one time to the next, and so would every query; draw only while "
            "module.training is True (F.dropout(x, p, training=self.training))"
        )
