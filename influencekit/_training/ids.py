"""The users' own names of examples: what may be one, and that no two look the same."""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
from torch import Tensor

from influencekit.errors import InputError

__all__ = ["checked_ids"]


def checked_ids(ids: Iterable[Any], n: int, name: str) -> list[Hashable]:
    """`ids` as plain Python values, one for each of n examples; `name` is what the user calls them.

    Takes a list, a tuple, a range, an array (numpy, torch, a column of pandas) of one dimension. Errors:
    another number of them; two that are equal, or that look the same once they are written, as 1 and "1" do
    on disk, in tables and on the command line; ids that are lists themselves.
    """
    if isinstance(ids, Tensor):
        ids = ids.detach().cpu().numpy()
    if isinstance(ids, np.ndarray) and ids.ndim != 1:
        raise InputError(
            f"{name}: expected one id an example, [{n}], got an array of shape {list(ids.shape)}"
        )
    if not isinstance(ids, Iterable):
        raise InputError(f"{name}: expected a list of {n} different example ids, got {type(ids).__name__}")
    plain = [each.item() if isinstance(each, Tensor | np.generic) else each for each in ids]
    for each in plain:
        if not isinstance(each, Hashable) or isinstance(each, tuple):
            raise InputError(f"{name}: expected text or a number for each example, got {each!r}")
    problem = f"got {len(plain)} ids" if len(plain) != n else _twins(plain)
    if problem:
        raise InputError(f"{name}: expected {n} different example ids; {problem}")
    return plain


def _twins(ids: list[Hashable]) -> str:
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
