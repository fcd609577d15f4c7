"""What is shown of an evaluation: a title, rows, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

__all__ = ["Table"]


class Table(NamedTuple):
    """What is shown of an evaluation: a title, the rows, and notes below them, a sentence each.

    The index of `rows` names them and has names itself, such as "estimator"; cells are text or numbers.

    Example:

        >>> import influencekit as ik
        >>> ik.Table.of("Coverage", ["hits"], {"dit": ["0.9"], "if": ["0.7"]}).rows.loc["if", "hits"]
        '0.7'
    """

    title: str
    rows: pd.DataFrame
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        title: str,
        heads: Sequence[str],
        rows: Mapping[Any, Sequence[Any]],
        names: Sequence[str] = ("estimator",),
        notes: Sequence[str] = (),
    ) -> Table:
        """A table of {name of a row: its cells} under `heads`; with several `names`, rows have tuples."""
        labels = list(rows)
        index = pd.MultiIndex.from_tuples(labels) if len(names) > 1 else pd.Index(labels)
        return cls(title, pd.DataFrame(list(rows.values()), index.set_names(names), heads), tuple(notes))
