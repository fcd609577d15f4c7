"""Whether all ranks of a loop do the same: data and model at its start, rates and parameters later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from influencekit._tape.exchange import Exchange, Phase
from influencekit._tape.fingerprint import contents_of_data
from influencekit._tape.hyperparameters import HyperParameters
from influencekit._tape.optimizer import learning_rates
from influencekit._tape.step_collector import StepCollector
from influencekit._tape.trainable_state import TrainableState
from influencekit._trajectory.fingerprint import compare_contents

__all__ = ["Present", "present_of", "refuse_apart", "refuse_drift", "same_run"]

_DATA = "training data"
_TOLD = {  # what is said of a tape: its words
    "autocast": "autocast",
    "training": "the modules in training mode",
    "reduction": "reduction=",
    "target_key": "target_key=",
    "penalty": "the presence of penalty=",
    "separable": "separable=",
}


class Present(NamedTuple):
    """What a rank has after a step. `bits`: the sum of those of its parameters, of a sample of each; None
    where they are not finite. `sums`: {name: the same of each}."""

    step: int
    optimizer: str
    lrs: list[float]
    settings: Sequence[Mapping[str, Any]]
    bits: int | None
    sums: Callable[[], dict[str, int]] | None


def present_of(
    steps: StepCollector, settings: HyperParameters, optimizer: torch.optim.Optimizer,
    state: Callable[[], TrainableState | None],
) -> Present:  # fmt: skip
    """What this rank has, after the step that `steps` has just finished."""
    now = state()
    assert now is not None
    bits = now.bit_sum() if now.finite() else None
    kind, lrs = type(optimizer).__name__, learning_rates(optimizer)
    return Present(steps.step - 1, kind, lrs, settings.now, bits, now.bits)


def refuse_drift(
    exchange: Exchange, found: Sequence[Present], sums: Callable[[], dict[str, int]] | None
) -> None:
    """Refuse ranks that do not make the same step. `sums`: of this rank."""
    first = found[0]
    for rank, other in enumerate(found):
        if said := _differing(first, other, rank):
            exchange.refuse(f"step {first.step}: {said}; give the optimizers of all ranks the same schedule")
    if None in (bits := [one.bits for one in found]) or len(set(bits)) == 1:
        return
    each = exchange.gathered(Phase.STEPPED, first.step, sums() if sums else {})
    rank = next(k for k, one in enumerate(bits) if one != first.bits)
    name = next((n for n, bits in each[0].items() if each[rank].get(n) != bits), "number 0")
    exchange.refuse(
        f"step {first.step}: after it parameter {name} of rank {rank} is not that of rank 0; begin with the "
        "same weights, and average the gradients over all ranks in every step, as DistributedDataParallel "
        "does, so that each makes the same update"
    )


def refuse_apart(exchange: Exchange, digests: Sequence[str]) -> None:
    """Refuse ranks that end with other parameters."""
    if odd := [rank for rank, one in enumerate(digests) if one != digests[0]]:
        exchange.refuse(
            f"the parameters of rank {odd[0]} are not those of rank 0 at the end of the loop; average the "
            "gradients over all ranks in every step, as DistributedDataParallel does, so that each makes the "
            "same update"
        )


def same_run(exchange: Exchange, about: dict[str, Any], data: Any) -> dict[str, Any]:
    """The attributes of a run, with the number of its ranks. Errors: ranks that record other data, another
    model or loss, or in another way."""
    mine = about["fingerprint"], about["contents"], about["tape"]
    found = exchange.gathered(Phase.BEGUN, 0, mine)
    counts = [contents.get(_DATA, {}).get("hashed") for _, contents, _ in found]
    if len(set(counts)) > 1:  # as many as could be fetched in time
        again = about["contents"] | {_DATA: contents_of_data(data, min(filter(None, counts)))}
        found = exchange.gathered(Phase.BEGUN, 0, (about["fingerprint"], again, about["tape"]))
    (fingerprint, contents, tape), *others = found
    for rank, (print_, whole, its) in enumerate(others, 1):
        wrong = compare_contents({"fingerprint": fingerprint, "contents": contents}, whole).wrong
        wrong |= {
            key: "" for key, value in fingerprint.items() if print_.get(key) != value and key not in wrong
        }
        for what, said in wrong.items():
            exchange.refuse(
                f"the ranks do not have the same {what}{f': {said} differ' if said else ''} (rank {rank}, "
                "compared with rank 0); give every rank the same data set, model and loss, and let a "
                "DistributedSampler divide the examples"
            )
        for key, words in _TOLD.items():
            if its.get(key) != tape.get(key):
                values = [
                    ", ".join(map(repr, x)) if isinstance(x, list) else x
                    for x in (tape.get(key), its.get(key))
                ]
                exchange.refuse(
                    f"the ranks do not record in the same way: {words} is {values[0]} on rank 0 and "
                    f"{values[1]} on rank {rank}; do the same on every rank"
                )
    return {**about, "tape": {**about["tape"], "ranks": exchange.size}}


def _differing(first: Present, other: Present, rank: int) -> str:
    """What differs between rank 0 and another one, in words."""
    both = f"on rank 0 and {{}} on rank {rank}"
    if first.optimizer != other.optimizer:
        return f"the optimizer is {first.optimizer} {both.format(other.optimizer)}"
    if len(first.lrs) != len(other.lrs):
        return f"the optimizer has {len(first.lrs)} parameter groups {both.format(len(other.lrs))}"
    for k, (mine, its) in enumerate(zip(first.lrs, other.lrs, strict=True)):
        if mine != its:
            return f"the learning rate of group {k} is {mine!r} {both.format(repr(its))}"
    for k, (own, theirs) in enumerate(zip(first.settings, other.settings, strict=True)):
        for name, value in own.items():
            if theirs.get(name) != value:
                return f"{name} of parameter group {k} is {value!r} {both.format(repr(theirs.get(name)))}"
    return ""
