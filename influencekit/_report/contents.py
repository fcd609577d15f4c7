"""Examples as people see them: pictures, tokens, rows, waveforms, or as the user shows them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from influencekit._arguments import short
from influencekit._report.pictures import (
    SIDES,
    Budget,
    Range,
    array_picture,
    encoded,
    figure_picture,
    picture,
    range_of,
)
from influencekit._report.record import Content
from influencekit._training.batch import Batch, select, tensors_of
from influencekit.errors import InputError

__all__ = ["KINDS", "Show", "check_show", "columns_of", "contents", "contents_and_range"]

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
    return contents_and_range(batches, ids, show, names)[0]


def contents_and_range(
    batches: Iterable[Batch], ids: Sequence[Any], show: Show, names: Any, within: Range | None = None
) -> tuple[list[Content | None], Range | None]:
    """The same, and the values that are black and white in all pictures (`within`, or `range_of` these)."""
    if callable(show) or isinstance(show, Mapping):
        return _shown(batches, ids, show), within
    if show is not None and not (isinstance(show, str) and show in KINDS):
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
        found += _MAKERS[kind](x, names, ids[len(found) : len(found) + len(x)])
    if kinds != {"picture"}:
        return found, within
    within = within or range_of([values for values, _ in found])
    images = [array_picture(values, *within) for values, _ in found]
    side = Budget(len(images)).side(images, encoded)
    pairs = zip(images, found, strict=True)
    return [replace(picture(image, side), note=note) for image, (_, note) in pairs], within


def check_show(show: Show, own: Sequence[Any]) -> None:
    """Errors: {id: what to show} that holds no id of these examples."""
    if isinstance(show, Mapping) and not any(each in show or str(each) in show for each in own):
        raise InputError(
            f"report: show has none of the ids of the examples; it has {short(list(show)[:3])}, and they are "
            f"called {short(list(own[:3]))}"
        )


def kind_of(x: Tensor) -> str:
    """How inputs [example, ...] are shown, by their shape and type."""
    if not x.is_floating_point():
        return "tokens" if x.dim() == 2 and x.dtype != torch.bool else "none"
    if x.dim() == 4 and x.shape[1] in (1, 3):
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


def _pictures(x: Tensor, names: Any, ids: Sequence[Any]) -> list[Any]:
    """(values [row, column] or [row, column, 3], what was left out) of every example."""
    values = x.float()
    if values.dim() == 4 and values.shape[1] in (1, 3):
        pass
    elif values.dim() == 2:
        side = round(values.shape[1] ** 0.5)
        if side * side != values.shape[1]:
            raise InputError(f"report: show='picture' needs square pictures, got {values.shape[1]} values")
        values = values.reshape(len(values), 1, side, side)
    elif values.dim() == 3:
        values = values[:, None]
    else:
        raise InputError(f"report: show='picture' cannot be of inputs {list(x.shape)}; give a function")
    notes = _left_out(values)
    least = values.nan_to_num(torch.inf, torch.inf, torch.inf).amin((1, 2, 3), keepdim=True)
    values = values.where(values.isfinite(), least.nan_to_num(posinf=0.0))
    if (longest := max(values.shape[2:])) > SIDES[0]:  # no more is shown, so no more is held
        sides = [max(1, n * SIDES[0] // longest) for n in values.shape[2:]]
        values = torch.nn.functional.interpolate(values, sides, mode="area")
    last = values.movedim(1, -1) if values.shape[1] == 3 else values[:, 0]
    return list(zip(last.numpy(), notes, strict=True))


def _left_out(x: Tensor) -> list[str | None]:
    """What is said of values that are not finite, of every example."""
    lost, each = (~x.isfinite()).reshape(len(x), -1).sum(1).tolist(), x[0].numel() if len(x) else 0
    return [f"{n:,} of {each:,} values are NaN or infinite, and left out" if n else None for n in lost]


def _tokens(x: Tensor, names: Any, ids: Sequence[Any]) -> list[Content]:
    rows = x.reshape(len(x), -1)[:, :TOKENS].tolist()
    more = [f"... {x[0].numel() - TOKENS} more"] if x[0].numel() > TOKENS else []
    if names is None:
        return [Content("tokens", [f"{t:g}" for t in row] + more) for row in rows]
    decodes, found = hasattr(names, "decode"), []
    for row, name in zip(rows, ids, strict=True):
        try:
            if decodes:
                found.append(Content("text", _cut(str(names.decode(row)))))
            else:
                found.append(Content("tokens", [_token(names, int(t)) for t in row] + more))
        except Exception as error:  # the user's own names
            what = "names.decode(tokens)" if decodes else "names"
            raise InputError(
                f"report: {what} failed for example {short(name)} with {said(error)}; names must give a text "
                "for every token, or have decode(tokens)"
            ) from error
    return found


def _token(names: Any, token: int) -> str:
    """Its name; of a list, no token below 0 has one, such as those that a loss leaves out."""
    return str(token) if token < 0 and isinstance(names, Sequence) else str(names[token])


def _rows(x: Tensor, names: Any, ids: Sequence[Any]) -> list[Content]:
    values = x.reshape(len(x), -1)[:, :COLUMNS].double().tolist()
    return [Content("row", [_short(v) for v in row]) for row in values]


def _waves(x: Tensor, names: Any, ids: Sequence[Any]) -> list[Content]:
    """The largest height of every part, above and below zero, so that no peak is lost. Values that are not
    finite are left out, and a part of nothing else is flat."""
    flat = x.reshape(len(x), -1).double().numpy()
    there = np.isfinite(flat)
    width = min(POINTS, flat.shape[1])
    high = [part.max(1) for part in np.array_split(np.where(there, flat, -np.inf), width, axis=1)]
    low = [part.min(1) for part in np.array_split(np.where(there, flat, np.inf), width, axis=1)]
    top = np.maximum(np.abs(np.where(there, flat, 0)).max(1, initial=0.0), 1e-30)[:, None]
    ends = (np.where(np.isfinite(one), one, 0) for one in (np.stack(low, 1), np.stack(high, 1)))
    both = [np.rint(100 * one / top).astype(int) for one in ends]
    return [
        Content("wave", np.stack([a, b], 1).tolist(), note=note)
        for a, b, note in zip(*both, _left_out(x), strict=True)
    ]


def _none(x: Tensor, names: Any, ids: Sequence[Any]) -> list[None]:
    return [None] * len(x)


_MAKERS: dict[str, Callable[[Tensor, Any, Sequence[Any]], list[Any]]] = {
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
            raise InputError(
                f"report: show(example) failed for example {short(name)} with {said(error)}"
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


def said(error: Exception) -> str:
    """What it is and its first line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[:TEXT]} ... {len(text) - TEXT} characters more"


def _short(value: float) -> float | str:
    return float(f"{value:.4g}") if np.isfinite(value) else str(value)
