"""What a store says of a taped run, and by which it knows its model and its data set."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from influencekit._tape.change_detector import bit_sum
from influencekit._tape.loader import items, rows_behind
from influencekit._tape.optimizer import UpdateRule
from influencekit._tape.replica import Call
from influencekit._tape.rng import fixed
from influencekit._tape.step_collector import StepCollector
from influencekit._tape.stream import StreamExamples
from influencekit._training.checks.model import frozen
from influencekit._training.step import Step
from influencekit._trajectory.contents import digest_tensors, of_items, of_tensors
from influencekit._trajectory.fingerprint import (
    Known,
    compare_contents,
    digest,
    digest_by_name,
    named,
    of_loss,
    sampled_rows,
)
from influencekit._trajectory.unchanged import Unchanged
from influencekit.errors import InputError, StoreError

__all__ = ["check_fingerprint", "check_penalty", "contents_of_data", "run_attributes", "watched"]

_FROZEN = "frozen parameters and constant buffers"
_WEIGHTS = "a frozen weight of the model"
_SECONDS = 2.0  # in which as many examples are hashed as can be fetched


def run_attributes(
    model: nn.Module, call: Call, rule: UpdateRule, steps: StepCollector, changing: Sequence[str], *,
    separable: bool, optimizer: dict[str, Any], tolerance: float, positions: bool,
) -> dict[str, Any]:  # fmt: skip
    """Attributes of a store: how its steps are rebuilt, and how its model and data set are recognised."""
    layout, stream = rule.layout, isinstance(call.data, StreamExamples)
    return {
        "seed": 0,
        "info": {},
        "schedule": "as recorded",
        "l2": 0.0,
        "tape": {
            "optimizer": optimizer,
            "updates": rule.updates,
            "target_key": call.target_key,
            "custom_forward": call.forward is not None,
            **({} if call.penalty is None else {"penalty": True}),
            "training": [name for name, on in steps.training.items() if on],
            "autocast": None if steps.autocast is None else str(steps.autocast).removeprefix("torch."),
            "separable": separable,
            "tolerance": tolerance,
            "reduction": steps.reduction,
            "ids": _ids(call.data, positions),
            **({} if steps.index_entry is None else {"index_entry": steps.index_entry}),
        },
        "fingerprint": {
            "parameters": [[n, list(s)] for n, s in zip(layout.names, layout.shapes, strict=True)],
            "dtype": _dtype(model, layout.names),
            "training examples": None if stream else len(call.data),
            "training data": None if stream else _sample_digest(call.data),
            _FROZEN: digest_by_name(_constant(model, layout.names, changing)),
        },
        "contents": {
            **({} if stream else {"training data": contents_of_data(call.data)}),
            _FROZEN: digest_tensors(_constant(model, layout.names, changing)),
            **of_loss(call.loss),
        },
    }


def _ids(data: Any, positions: bool) -> str:
    """Where the names of the examples come from."""
    if isinstance(data, StreamExamples):
        return "given" if data.named else "contents"
    return "positions" if positions else "given"


def check_fingerprint(
    attrs: Mapping[str, Any], model: nn.Module, data: Any, changing: Sequence[str], where: str, loss: Any
) -> Known:
    """Refuse another model or data set than those of the run, and say what differs. What was compared."""
    stored = attrs["fingerprint"]
    shapes = {n: list(p.shape) for n, p in model.named_parameters()}
    for name, shape in stored["parameters"]:
        if shapes.get(name) != shape:
            got = f"shape {shapes[name]}" if name in shapes else "no parameter of that name"
            raise StoreError(
                f"{where} is a run of another model: its {name} has shape {shape}, this one has {got}; pass "
                "the model that was recorded, built in the same way"
            )
    names = [n for n, _ in stored["parameters"]]
    if stored["dtype"] != _dtype(model, names):
        raise StoreError(
            f"{where} is a run of {stored['dtype']} parameters, and this model's are {_dtype(model, names)}; "
            "build it as it was for the run"
        )
    stream = stored["training examples"] is None
    if stream != isinstance(data, StreamExamples):
        raise StoreError(
            f"{where} was recorded with{'out' if stream else ''} a data set; pass data="
            f"{'None' if stream else 'the same data set'}"
        )
    if not stream and stored["training examples"] != len(data):
        raise StoreError(
            f"{where} was recorded on {stored['training examples']} training examples, and data has "
            f"{len(data)}; pass the same data set"
        )
    whole, constant = attrs.get("contents", {}), _constant(model, names, changing)
    mine: dict[str, Any] = {_FROZEN: digest_tensors(constant), **of_loss(loss)}
    if not stream and ("training data" in whole or rows_behind(data) is not None):
        mine["training data"] = contents_of_data(data, whole.get("training data", {}).get("hashed"))
    known = compare_contents(attrs, mine)
    if not stream and ("training data" in known.wrong or stored["training data"] != _sample_digest(data)):
        said = known.wrong.get("training data")
        raise StoreError(
            f"{where} was recorded on other training data of the same size (or in another order, or with "
            f"another preprocessing){f': {said} differ' if said else ''}; pass the same data set"
        )
    if _FROZEN in known.wrong or stored[_FROZEN] != digest_by_name(constant):
        raise StoreError(
            f"{where}: the frozen parameters or constant buffers of the model are not those of the run; load "
            "the same pretrained weights"
        )
    if known.wrong:
        raise StoreError(
            f"{where}: the tensors of the loss, such as the weights of classes, are not those of the run; "
            "pass the same loss"
        )
    return known


def check_penalty(about: Mapping[str, Any], penalty: Any, where: str) -> None:
    """Refuse a penalty where there was none, and none where there was one."""
    if about.get("penalty", False) != (penalty is not None):
        was, do = ("without", "leave out") if penalty is not None else ("with", "pass")
        raise InputError(f"{where} was recorded {was} a penalty; {do} penalty=...")


def _sample_digest(data: Any) -> str:
    """A digest of a sample of examples. Random augmentation is drawn from a fixed seed."""
    with fixed():
        return digest(items(data, [i])[0] for i in sampled_rows(len(data)))


def contents_of_data(data: Any, hashed: int | None = None) -> dict[str, Any]:
    """The contents of a data set: of all examples where they are rows of tensors, else of `hashed`.

    `hashed` None: as many as can be fetched in two seconds, as a sample tells. Random augmentation is drawn
    from a fixed seed. Cost: at most five times as long, where examples take longer to fetch.
    """
    if (found := rows_behind(data)) is not None:
        return of_tensors(*found)
    n = len(data)
    if hashed is None:
        start = time.monotonic()
        sample = sampled_rows(n)
        with fixed():
            items(data, list(sample))
        each = (time.monotonic() - start) / len(sample)
        hashed = min(n, max(1, int(_SECONDS / max(each, 1e-9))))
    return of_items(partial(items, data), n, hashed, 5 * _SECONDS, fixed)


def watched(known: Known, data: Any, step: Step, sample: str | None) -> Unchanged:
    """What an opened run shares with whoever opened it. `sample`: the digest of examples that are fetched."""
    loss, test, weights = step.workload.loss, step.workload.test, frozen(step.workload.model)
    of_test = {} if test is None else {"test data": of_tensors(named(test))}

    def of_weights() -> dict[str, Any]:
        return {_WEIGHTS: digest([bit_sum(p)] for p in weights)} if weights else {}

    def now() -> dict[str, Any]:
        found: dict[str, Any] = {**of_loss(loss), **of_weights()}
        if test is not None:
            found["test data"] = of_tensors(named(test))
        if (rows := rows_behind(data)) is not None:
            found["training data"] = of_tensors(*rows)
        elif sample is not None:
            found["a sample of the training data"] = _sample_digest(data)
        return found

    known_then = {**known.contents, **of_test, **of_weights(), "a sample of the training data": sample}
    return Unchanged(now, known_then, loss, step.loss_settings)


def _dtype(model: nn.Module, names: Sequence[str]) -> str:
    own = dict(model.named_parameters())
    return ", ".join(sorted({str(own[n].dtype).removeprefix("torch.") for n in names}))


def _constant(model: nn.Module, names: Sequence[str], changing: Sequence[str]) -> dict[str, Tensor]:
    """What training leaves alone: frozen parameters and constant buffers."""
    rest = {n: p for n, p in model.named_parameters() if n not in names}
    return rest | {n: b for n, b in model.named_buffers() if n not in changing}
