"""The attributes of a store: what each is, and what one says of another."""

from __future__ import annotations

from math import prod
from typing import Any

from influencekit._trajectory.schema.kinds import (
    Kind,
    check_object,
    items,
    none_or,
    number,
    one_of,
    text,
    whole,
    yes_or_no,
)
from influencekit.errors import StoreError

__all__ = ["check_attributes", "sizes"]

_SIZE = 1 << 40  # parameters, and entries of one
_DTYPES = tuple(f"{s}{k}" for s, k in (("<", "f2"), ("<", "f4"), ("<", "f8"), ("<", "i8"), ("|", "u1")))

_plain = Kind("an object", lambda x: type(x) is dict)
_shape = Kind("a shape", lambda x: type(x) is list and len(x) <= 32 and all(map(whole(0, _SIZE).fits, x)))
_shapes = Kind(
    "a list of names and shapes",
    lambda x: (
        type(x) is list
        and all(type(e) is list and len(e) == 2 and text().fits(e[0]) and _shape.fits(e[1]) for e in x)
        and sum(prod(e[1]) for e in x) <= _SIZE
        and len({e[0] for e in x}) == len(x)
    ),
)
_column = Kind(
    "dims, a dtype and a number",
    lambda x: (
        type(x) is list
        and len(x) == 3
        and items(text(60)).fits(x[0])
        and 1 <= len(x[0]) <= 2
        and one_of(*_DTYPES).fits(x[1])
        and (type(x[2]) in (int, float) or x[2] == "nan")
    ),
)
_columns = Kind("an object of columns", lambda x: type(x) is dict and all(map(_column.fits, x.values())))
_checks = Kind(
    "an object of rows and checksums",
    lambda x: (
        type(x) is dict
        and all(type(e) is dict and e.keys() == {"rows", "full", "last"} for e in x.values())
        and all(whole().fits(e["rows"]) and text(1 << 26).fits(e["full"]) for e in x.values())
        and all(items(whole(0, (1 << 32) - 1)).fits(e["last"]) for e in x.values())
    ),
)
_counts = Kind("an object of row numbers", lambda x: type(x) is dict and all(map(whole().fits, x.values())))
_digests = Kind(
    "digests of examples",
    lambda x: (
        type(x) is dict
        and x.keys() == {"examples", "hashed", "entries"}
        and whole(1).fits(x["examples"])
        and whole(1, x["examples"]).fits(x["hashed"])
        and type(x["entries"]) is dict
        and all(map(text(1368).fits, x["entries"].values()))
    ),
)
_CONTENTS = {
    "training data": _digests,
    "test data": _digests,
    "frozen parameters and constant buffers": text(16),
    "tensors of the loss": text(16),
}

_ATTRIBUTES: dict[str, Kind] = {
    "influencekit_schema": whole(),
    "influencekit_version": text(60),
    "torch_version": text(200),
    "created": text(60),
    "status": one_of("recording", "complete", "stopped"),
    "start": whole(),
    "stop": whole(),
    "committed": whole(),
    "workload": text(),
    "seed": whole(-(1 << 63), (1 << 64) - 1),
    "info": _plain,
    "recorder": text(),
    "lossless": yes_or_no,
    "held": none_or(whole(1)),
    "optimizer": text(1 << 24),
    "schedule": text(1 << 24),
    "l2": number(0),
    "device": text(60),
    "threads": whole(1, 1 << 20),
    "buffers": _shapes,
    "accuracy": number(0, 1, nan=True),
    "accuracy_note": text(),
    "reason": text(1 << 20),
    "caution": text(1 << 20),
    "replay": text(),
    "reloaded": whole(),
    "fingerprint": _plain,
    "contents": _plain,
    "tape": _plain,
    "resume": _plain,
    "checks": _checks,
    "digest": text(64),
}  # fmt: skip
_REQUIRED = {
    "created", "status", "start", "committed", "workload", "seed", "info", "recorder", "optimizer",
    "schedule", "l2", "device", "influencekit_version", "torch_version", "fingerprint",
}  # fmt: skip
_FINGERPRINT = {
    "parameters": _shapes,
    "dtype": text(),
    "training examples": none_or(whole()),
    "training data": none_or(text()),
    "l2": number(0),
    "optimizer": text(1 << 24),
}
_INFO = {"spec": text(), "draw_seed": whole(-(1 << 63), (1 << 64) - 1)}
_TAPE = {
    "optimizer": _plain,
    "updates": whole(0, 1 << 53),
    "target_key": text(),
    "custom_forward": yes_or_no,
    "penalty": yes_or_no,
    "training": items(text()),
    "autocast": none_or(one_of("float16", "bfloat16")),
    "separable": yes_or_no,
    "tolerance": number(0),
    "reduction": one_of("mean", "sum", "given"),
    "ids": one_of("positions", "contents", "given"),
    "ranks": whole(2),
    "index_entry": Kind("text or a whole number", lambda x: type(x) in (str, int)),
}
_RULE = {
    "rule": text(200),
    "clip_norm": none_or(number(0)),
    "clip_norm_type": text(60),
    "clip_value": none_or(number(0)),
    "groups": Kind("a list of groups", lambda x: type(x) is list and len(x) > 0),
}
_RESUME = {
    "columns": _columns,
    "expected": Kind(
        "two counts", lambda x: type(x) is list and len(x) == 2 and all(map(none_or(whole()).fits, x))
    ),
    "state": none_or(whole()),
    "tables": _counts,
    "snapshot": none_or(_plain),
}
_POSITION = {  # where a loop is
    "epoch": whole(),
    "position": whole(),
    "loader": text(),
    "began": none_or(whole()),
    "own": items(text(1 << 20)),
    "now": whole(),
    "lrs": items(number()),
    "schedulers": items(_plain),
}


def check_attributes(attrs: dict[str, Any], store: str, newer: bool) -> None:
    """Errors: `StoreError` that names the attribute. `newer`: unknown ones are let be, since another version
    wrote them."""
    where = f"{store}: the attribute"
    taped = "tape" in attrs
    check_object(attrs, _ATTRIBUTES, _REQUIRED | ({"buffers"} if taped else {"stop"}), where, not newer)
    start, stop, committed = attrs["start"], attrs.get("stop"), attrs["committed"]
    if stop is not None and not (start < stop and committed <= stop):
        _refuse(where, "stop", f"after start ({start}) and not before committed ({committed})", stop)
    if attrs.get("reloaded", 0) > committed:
        _refuse(where, "reloaded", f"at most {committed}, which is committed", attrs["reloaded"])
    known = _FINGERPRINT, {"parameters", "dtype", "training examples"}
    check_object(attrs["fingerprint"], *known, f"{where} 'fingerprint': its", closed=False)
    check_object(attrs.get("contents", {}), _CONTENTS, set(), f"{where} 'contents': its", not newer)
    check_object(attrs["info"], _INFO, set(), f"{where} 'info': its", closed=False)
    if taped:
        _check_tape(attrs["tape"], {n for n, _ in attrs["fingerprint"]["parameters"]}, where, newer)
    if "resume" in attrs:
        said = f"{where} 'resume': its"
        check_object(attrs["resume"], _RESUME, set(_RESUME), said, not newer)
        if taped and attrs["resume"]["snapshot"] is not None:
            position = attrs["resume"]["snapshot"]
            check_object(position, _POSITION, set(_POSITION), f"{said} 'snapshot', its", closed=False)


def sizes(attrs: dict[str, Any]) -> dict[str, int]:
    """The lengths of dims that the attributes tell."""
    found = {"param": sum(prod(shape) for _, shape in attrs["fingerprint"]["parameters"])}
    found["buffer"] = sum(prod(shape) for _, shape in attrs.get("buffers", []))
    if (examples := attrs["fingerprint"]["training examples"]) is not None:
        found["train"] = examples
    return found


def _check_tape(tape: Any, names: set[str], where: str, newer: bool) -> None:
    said = f"{where} 'tape': its"
    needed = _TAPE.keys() - {"penalty", "index_entry", "reduction", "ids", "ranks"}
    check_object(tape, _TAPE, set(needed), said, not newer)
    rule, said = tape["optimizer"], f"{said} 'optimizer', its"
    check_object(rule, _RULE, {"rule", "clip_norm", "groups"}, said, not newer)
    found: list[str] = []
    for group in rule["groups"]:
        if type(group) is not dict or not items(text()).fits(group.get("params")):
            raise StoreError(f"{said} 'groups': expected each with a list of 'params'; record again")
        found += group["params"]
    if len(found) != len(names) or set(found) != names:
        raise StoreError(
            f"{said} 'groups' hold other parameters than the attribute 'fingerprint'; record again"
        )


def _refuse(where: str, name: str, expected: str, got: Any) -> None:
    raise StoreError(f"{where} {name!r}: expected {expected}, got {got!r}; record again")
