"""The users' own names of examples: what may be one, and that no two look the same."""

import re
from collections.abc import Hashable, Iterable, Sequence
from difflib import get_close_matches
from itertools import islice
from math import isfinite
from typing import Any

import numpy as np
from torch import Tensor

from influencekit._arguments import short
from influencekit.errors import InputError

__all__ = ["checked_ids", "positions_among", "refuse_large"]

_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = tuple(f"'{each}" for each in "=+-@\t\r\n")  # behind an apostrophe, as for a spreadsheet


def checked_ids(ids: Iterable[Any], n: int, name: str) -> list[Hashable]:
    """`ids` as plain Python values, one for each of n examples; `name` is what the user calls them.

    Takes a list, a tuple, a range, an array (numpy, torch, a column of pandas) of one dimension. Errors:
    another number of them; two that are equal, or that look the same once they are written, as 1 and "1" do
    on disk, in tables and on the command line; ids that are lists themselves.
    """
    if isinstance(ids, Tensor) and not ids.is_meta:
        ids = ids.detach().cpu().numpy()
    if isinstance(ids, np.ndarray) and ids.ndim != 1:
        raise InputError(
            f"{name}: expected one id an example, [{n}], got an array of shape {list(ids.shape)}"
        )
    if not isinstance(ids, Iterable) or isinstance(ids, str | bytes | Tensor):
        raise InputError(f"{name}: expected a list of {n} different example ids, got {short(ids)}")
    plain = [_plain(each, name) for each in islice(ids, n + 1)]
    problem = f"got {len(plain)} ids" if len(plain) < n else "got more" if len(plain) > n else _twins(plain)
    if problem:
        raise InputError(f"{name}: expected {n} different example ids; {problem}")
    own = _of_one_kind(plain)
    refuse_large(own, name)
    return own


def refuse_large(ids: Iterable[Any], name: str) -> None:
    """Refuse whole numbers that no array of 64 bits holds."""
    large = next((i for i in ids if type(i) is int and not -(2**63) <= i < 2**63), None)
    if large is not None:
        raise InputError(
            f"{name}: expected whole numbers of 64 bits with a sign, got {large}, which is too large; give "
            "them as text"
        )


def _plain(each: Any, name: str) -> str | int | float:
    """An id as text or a number. Errors: anything else, and text that cannot be written."""
    each = each.item() if isinstance(each, Tensor | np.generic) and each.shape == () else each
    if isinstance(each, str) and "\0" not in each and not _SURROGATE.search(each):
        return str(each)
    if isinstance(each, int | float) and not isinstance(each, bool) and isfinite(each):
        return each
    why = ", which cannot be written everywhere" if isinstance(each, str) else ""
    raise InputError(f"{name}: expected text or a number for each example, got {short(each)}{why}")


def _of_one_kind(ids: list[Any]) -> list[Hashable]:
    """The ids of one kind, as arrays hold them: whole numbers, numbers, or else text."""
    kinds = {type(each) for each in ids}
    if kinds in ({str}, {int}):
        return ids
    if kinds <= {int, float} and float in kinds and all(abs(each) <= 2**53 for each in ids):
        return [float(each) for each in ids]
    return [str(each) for each in ids]


def _twins(ids: Sequence[Hashable]) -> str:
    """What to say of the first two ids that are equal or are written alike; nothing where there are none."""
    seen: dict[Hashable, Hashable] = {}
    for each in ids:
        for key in (each, str(each)):
            if key in seen and type(seen[key]) is not type(each):
                return f"{seen[key]!r} and {each!r} look the same in tables and on disk, use text for all"
            if key in seen:
                return f"{each!r} appears twice"
        seen[each] = seen[str(each)] = each
    return ""


def positions_among(ids: Iterable[Hashable], own: Sequence[Any]) -> list[int]:
    """Positions of the examples of these ids among their `own` ids, in the order asked for.

    A text stands for the id that is written like it, so that ids may come from a file, also behind the
    apostrophe that keeps a spreadsheet from computing it. Errors: what is no list of ids; an id that no
    example has.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InputError(f"expected a list of example ids, got {short(ids)}")
    ids = ids.reshape(-1).tolist() if isinstance(ids, Tensor) and not ids.is_meta else ids
    exact = {name: k for k, name in enumerate(own)}
    written = {str(name): k for name, k in exact.items()}
    found = []
    for name in ids:
        name = _plain(name, "ids")
        text = str(name)
        position = exact.get(name, written.get(text))
        if position is None and text.startswith(_ESCAPED):
            position = written.get(text[1:])
        if position is None:
            plain = text.strip(), text.strip().removesuffix(".0")  # as spreadsheets write numbers
            near = [each for each in plain if each in written] or get_close_matches(text, written, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise InputError(
                f"no training example '{name}'; {hint}there are {len(own)}, '{own[0]}' to '{own[-1]}'"
            )
        found.append(position)
    return found
