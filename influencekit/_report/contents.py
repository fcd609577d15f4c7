"""Examples as people see them: pictures, tokens, rows, waveforms, or as the user shows them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from influencekit._arguments import short
from influencekit._report.pictures import Budget, array_picture, encoded, figure_picture, picture
from influencekit._report.record import Content
from influencekit._training.batch import Batch, select, tensors_of
from influencekit.errors import InputError

__all__ = ["KINDS", "Show", "columns_of", "contents"]

Show = Callable[[Any], Any] | Mapping[Hashable, Any] | str | None
KINDS = ("picture", "tokens", "row", "wave", "none")
TEXT, TOKENS, COLUMNS, POINTS = 2000, 200, 64, 160  # the most of each that is kept
_LEAST_SIDE, _LEAST_WAVE = 4, 256


def contents(
    batches: Iterable[Batch], ids: Sequence[Any], show: Show = None, names: Any = None
) -> list[Content | None]:
    """Of the examples of these batches, one after the other, whose own ids are `ids`.

    Errors: `show` fails or gives what cannot be shown; names that are not as many as columns.
    """
    if callable(show) or isinstance(show, Mapping):
        return _shown(batches, ids, show)
    if show is not None and show not in KINDS:
        raise InputError(
            f"report: show must be a function of an example, {{id: what to show}}, or one of "
            f"{', '.join(KINDS)}, got {short(show)}"
        )
    found: list[Any] = []
    kinds = set[str]()
    for batch in batches:
        x = tensors_of(batch)[0].detach().cpu()
        kind = show or kind_of(x)
        kinds.add(kind)
        found += _MAKERS[kind](x, names)
    if kinds == {"picture"}:
        side = Budget(len(found)).side(found, encoded)
        return [picture(each, side) for each in found]
    return found


def kind_of(x: Tensor) -> str:
    """How inputs [example, ...] are shown, by their shape and type."""
    if not x.is_floating_point():
        return "tokens" if x.dim() == 2 and x.dtype != torch.bool else "none"
    if x.dim() == 4 and x.shape[1] in (1, 3) and min(x.shape[2:]) >= _LEAST_SIDE:
        return "picture"
    if x.dim() == 3 and x.shape[1] <= 2 and x.shape[2] >= _LEAST_WAVE:
        return "wave"
    if x.dim() == 3 and min(x.shape[1:]) >= _LEAST_SIDE:
        return "picture"
    return "row" if x.dim() == 2 else "none"


def columns_of(batch: Batch, show: Show, names: Any) -> tuple[str, ...]:
    """What the values of a row are called; none where examples are no rows. Errors: too few or many names."""
    if callable(show) or isinstance(show, Mapping):
        return ()
    x = tensors_of(batch)[0]
    if (show or kind_of(x)) != "row":
        return ()
    width = x[0].numel()
    if names is None:
        return tuple(f"column {k}" for k in range(min(width, COLUMNS)))
    if isinstance(names, str) or not isinstance(names, Iterable) or len(listed := list(names)) != width:
        raise InputError(f"report: names must be the names of the {width} columns, got {short(names)}")
    return tuple(str(each) for each in listed[:COLUMNS])


def _pictures(x: Tensor, names: Any) -> list[Any]:
    values = x.float()
    if values.dim() == 4:
        values = values.movedim(1, -1) if values.shape[1] == 3 else values[:, 0]
    elif values.dim() == 2:
        side = round(values.shape[1] ** 0.5)
        if side * side != values.shape[1]:
            raise InputError(f"report: show='picture' needs square pictures, got {values.shape[1]} values")
        values = values.reshape(len(values), side, side)
    if values.dim() not in (3, 4):
        raise InputError(f"report: show='picture' cannot be of inputs {list(x.shape)}; give a function")
    flat = values.numpy()
    return [array_picture(one, float(np.nanmin(one)), float(np.nanmax(one))) for one in flat]


def _tokens(x: Tensor, names: Any) -> list[Content]:
    rows = x.reshape(len(x), -1)[:, :TOKENS].tolist()
    more = [f"... {x[0].numel() - TOKENS} more"] if x[0].numel() > TOKENS else []
    if hasattr(names, "decode"):
        return [Content("text", _cut(str(names.decode(row)))) for row in rows]
    if names is None:
        return [Content("tokens", [f"{t:g}" for t in row] + more) for row in rows]
    try:
        return [Content("tokens", [str(names[int(t)]) for t in row] + more) for row in rows]
    except (LookupError, TypeError) as error:
        raise InputError(
            f"report: names must give a text for every token, or have decode(tokens); {short(names)} does not"
        ) from error


def _rows(x: Tensor, names: Any) -> list[Content]:
    values = x.reshape(len(x), -1)[:, :COLUMNS].double().tolist()
    return [Content("row", [_short(v) for v in row]) for row in values]


def _waves(x: Tensor, names: Any) -> list[Content]:
    """The largest height of every part, above and below zero, so that no peak is lost."""
    flat = x.reshape(len(x), -1).double().numpy()
    parts = np.array_split(np.nan_to_num(flat), min(POINTS, flat.shape[1]), axis=1)
    high = np.stack([part.max(1) for part in parts], 1)
    low = np.stack([part.min(1) for part in parts], 1)
    top = np.maximum(np.abs(flat).max(1, initial=0.0), 1e-30)[:, None]
    both = [np.rint(100 * np.nan_to_num(one) / top).astype(int) for one in (low, high)]
    return [Content("wave", np.stack([a, b], 1).tolist()) for a, b in zip(*both, strict=True)]


def _none(x: Tensor, names: Any) -> list[None]:
    return [None] * len(x)


_MAKERS: dict[str, Callable[[Tensor, Any], list[Any]]] = {
    "picture": _pictures, "tokens": _tokens, "row": _rows, "wave": _waves, "none": _none,
}  # fmt: skip


def _shown(batches: Iterable[Batch], ids: Sequence[Any], show: Any) -> list[Content | None]:
    """What the user makes of each example. Pictures are kept small as those of ours are."""
    made: list[Any] = []
    for batch in batches:
        count = len(tensors_of(batch)[0])
        for k in range(count):
            made.append(_asked(show, batch, k, ids[len(made)]))
    images = [each for each in made if not isinstance(each, str | None)]
    side = Budget(len(images)).side(images, encoded) if images else 0
    return [
        None
        if each is None
        else Content("text", _cut(each))
        if isinstance(each, str)
        else picture(each, side)
        for each in made
    ]


def _asked(show: Any, batch: Batch, k: int, name: Any) -> Any:
    if isinstance(show, Mapping):
        thing = show.get(name, show.get(str(name)))
    else:
        try:
            thing = show(select(batch, torch.tensor(k)))
        except Exception as error:  # the user's own function
            line = (str(error).splitlines() or [""])[0]
            raise InputError(
                f"report: show(example) failed for example {name} with {type(error).__name__}: {line}"
            ) from error
    if thing is None or isinstance(thing, str):
        return thing
    if hasattr(thing, "savefig"):
        return figure_picture(thing)
    if hasattr(thing, "convert") and hasattr(thing, "size"):
        return thing
    raise InputError(
        f"report: show must give text, a picture of PIL or a figure of matplotlib, got {short(thing)} for "
        f"example {name}"
    )


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[:TEXT]} ... {len(text) - TEXT} characters more"


def _short(value: float) -> float | str:
    return float(f"{value:.4g}") if np.isfinite(value) else str(value)
