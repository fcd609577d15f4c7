"""Whether the columns of a taped run's steps agree with each other, with its tables and its ids.

`columns` has looked at each number by itself before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import zarr

from influencekit._trajectory.store import read
from influencekit.errors import StoreError

__all__ = ["check_agreement"]


def check_agreement(
    group: zarr.Group, columns: Mapping[str, np.ndarray], where: str, *, ids: list[Any], penalty: bool
) -> None:
    """Refuse columns [step, ...] that no run on these examples writes.

    Slots are filled from the first, micro-batch after micro-batch; with a `penalty` the last slot of each is
    no example's. What the tape's reduction makes equal is equal. Errors: `StoreError` that names the array,
    the step and the value. Cost: a few passes over the columns.
    """
    attrs: dict[str, Any] = dict(group.attrs)
    about, check = attrs["tape"], _Columns(group, dict(columns), where)
    check.slots(penalty)
    check.coefficients(about.get("reduction"))
    check.steps()
    for name in ("fetch_rng", "forward_rng"):
        last = check.columns["part"].max(1, keepdims=True)
        beyond = np.arange(columns[name].shape[1]) > last
        check.refuse(name, beyond & (columns[name] >= 0), "-1, since the step has no such micro-batch")
    if "row" in columns:
        check.refuse("row", (columns["row"] >= 0) != (columns["batch"] >= 0), "that of an example, or -1")
        check.first_seen(about.get("ids") == "contents")
    check.settings()
    check.ids(ids, about.get("ids") in ("positions", "contents"))


class _Columns:
    def __init__(self, group: zarr.Group, columns: dict[str, np.ndarray], where: str) -> None:
        self.group, self.columns, self.where = group, columns, where

    def refuse(self, name: str, odd: np.ndarray, expected: str) -> None:
        """Errors: an odd value of an array, of which the first is named."""
        if odd.any():
            self._refuse(name, tuple(int(k) for k in np.argwhere(odd)[0]), expected)

    def _refuse(self, name: str, at: tuple[int, ...], expected: str) -> NoReturn:
        place = f"{'row' if name == 'settings' else 'step'} {at[0]}" + (
            f", column {at[1]}" if len(at) > 1 else ""
        )
        raise StoreError(
            f"{self.where}: the array {name!r} has {self.columns[name][at]} in {place}, expected {expected}; "
            "something else has written it: record again"
        )

    def steps(self) -> None:
        """Errors: steps that are not numbered from 0."""
        count = len(self.columns["batch"])
        step = self.columns["step"] = read(self.group, "step", slice(0, count))
        self.refuse("step", step != np.arange(count), "the number of the step")

    def slots(self, penalty: bool) -> None:
        """Errors: slots that are not filled from the first, or in the order of their micro-batches."""
        part, batch = self.columns["part"], self.columns["batch"]
        there = part >= 0
        step = np.diff(part, axis=1, prepend=0)
        odd = there & (step != 0) & (step != 1)
        odd[:, 0] |= part[:, 0] != 0
        odd[:, 1:] |= there[:, 1:] & ~there[:, :-1]
        self.refuse("part", odd | (part < -1), "the number of a micro-batch, one after the other")
        last = there & (np.diff(part, axis=1, append=-1) != 0)
        examples = there & ~last if penalty else there
        self.refuse("batch", (batch >= 0) != examples, "an example where the step has one, and -1 elsewhere")

    def coefficients(self, reduction: str | None) -> None:
        """Errors: coefficients that are not what the reduction makes of the size of the micro-batch."""
        values, part = self.columns["coefficient"], self.columns["part"]
        self.refuse("coefficient", (part < 0) & (values != 0), "0 in an empty slot")
        if reduction not in ("mean", "sum"):
            return
        examples = self.columns["batch"] >= 0
        alike = examples[:, 1:] & examples[:, :-1] & (part[:, 1:] == part[:, :-1])
        odd = np.zeros(values.shape, bool)
        odd[:, 1:] = alike & (values[:, 1:] != values[:, :-1])
        self.refuse("coefficient", odd, "that of the slot before it")
        size = np.ones(values.shape)
        if reduction == "mean":
            wide = int(part.max(initial=0)) + 1
            keys = np.arange(len(part))[:, None] * wide + part.clip(0)
            size = np.bincount(keys[examples], minlength=len(part) * wide)[keys]
        used = values != 0
        divisor = 1 / np.where(used, values * np.where(examples, size, 1), 1)
        near = np.abs(divisor - divisor.round()) <= 1e-2 * np.abs(divisor)
        self.refuse(
            "coefficient", used & (~near | (divisor.round() < 1)), f"what a {reduction} of losses has"
        )

    def first_seen(self, contents_are_examples: bool) -> None:
        """Errors: contents of a stream whose examples or forms are others."""
        row, batch = self.columns["row"], self.columns["batch"]
        there = batch >= 0
        first = read(self.group, "first")
        if contents_are_examples:
            self.refuse("row", there & (first[batch.clip(0)] != row), "the content of the example in 'batch'")
        who, at = np.unique(batch[there], return_index=True)
        seen = row[there][at]
        theirs = set(zip(row[there].tolist(), batch[there].tolist(), strict=True))
        used = {content for content, _ in theirs}
        for example, content in enumerate(first.tolist()):
            k = int(np.searchsorted(who, example))
            known = k < len(who) and who[k] == example
            strange = (
                content in used and (content, example) not in theirs
            )  # a batch without a step had it else
            if known and (content > seen[k] or strange):
                raise StoreError(
                    f"{self.where}: the array 'first' has content {content} for example {example}, in whose "
                    "batches it is not; something else has written it: record again"
                )

    def settings(self) -> None:
        """Errors: changes of hyper-parameters that are not in the order of the steps."""
        if "settings" in self.group:
            rows = self.columns["settings"] = read(self.group, "settings")
            odd = np.isinf(rows)
            odd[:, 0] |= ~(np.diff(rows[:, 0], prepend=-1) > 0) | (rows[:, 0] % 1 != 0)
            self.refuse("settings", odd, "a finite number, and the steps in ascending order first")

    def ids(self, ids: list[Any], positions: bool) -> None:
        """Errors: two examples of one name; names that are given where positions were recorded."""
        seen: dict[str, int] = {}
        for k, name in enumerate(ids):
            if seen.setdefault(str(name), k) != k or (positions and name != k):
                said = f"also that of example {seen[str(name)]}" if seen[str(name)] != k else f"expected {k}"
                array = "train" if "train" in self.group else "id"
                raise StoreError(
                    f"{self.where}: the array {array!r} names example {k} {name!r}, {said}; something else "
                    "has written it: record again"
                )
