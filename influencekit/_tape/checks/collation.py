"""Whether the rows of a collated batch are one example each, in the order of their items."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor

from influencekit._tape.loader import items
from influencekit._tape.replica import Micro, Replica, modes, on_device, set_modes
from influencekit._tape.rng import capture, fixed, restored
from influencekit._tape.stream import StreamExamples
from influencekit._training.batch import Batch, tensors_of
from influencekit.errors import InputError

__all__ = ["refuse_mixed_rows"]

_SEEDS = 8  # tries of a random collation: one may leave the first example alone by chance


def refuse_mixed_rows(replica: Replica, micro: Micro, device: torch.device, separable: bool) -> None:
    """Refuse a collation whose rows are not one example each, in the order in which they were fetched.

    The same items are collated again in another order and the same random state. Their rows, or the losses
    of these rows, must come in that order; padding does not change, since the batch has the same longest
    item. Where collation draws random numbers, only the first row is compared, in several random states.
    With `separable=False` only a collation that sorts is refused.
    """
    count = len(micro.indices)
    if count < 2 or isinstance(replica.call.data, StreamExamples):  # whose rows are what the loop calls them
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
