"""The hyper-parameters of a loop's optimizer, which schedulers may change from step to step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from influencekit._tape.optimizer import hyperparameters
from influencekit.errors import InputError, StoreError

__all__ = ["HyperParameters", "settings_of"]

Group = dict[str, Any]


class HyperParameters:
    """The hyper-parameters of every parameter group but the learning rates. Errors: an unknown optimizer.

    Numbers may change during a run, such as the momentum under OneCycleLR. `now` are the present ones, and
    `scale` is what a GradScaler multiplies the loss by.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer, self.scale = optimizer, 1.0
        self.begin()

    def begin(self, described: Sequence[Group] | None = None) -> None:
        """The run begins: with the present ones, or, when it is resumed, with those that were described."""
        now = hyperparameters(self._optimizer)
        for group, values in zip(now, described or (), strict=described is not None):
            group.update({n: _as_tuple(v) for n, v in values.items() if n in group})
        self.first = self.now = now

    def changed(self, step: int, scale: float = 1.0) -> np.ndarray | None:
        """The numbers from this step on, the scale last, as a row of the store's table; None where they are
        as before.

        Errors: a change of what is not a number, or that makes another rule.
        """
        before, groups = self.now, self._optimizer.param_groups
        if len(groups) != len(before):
            raise InputError(
                f"the optimizer got another parameter group before step {step}; add it before the "
                "run, with lr = 0 until it is to be trained"
            )
        same, self.scale = scale == self.scale, scale
        if same and all(g[n] == v for g, old in zip(groups, before, strict=True) for n, v in old.items()):
            return None
        self.now = hyperparameters(self._optimizer)
        if same and self.now == before:
            return None
        for k, (old, new) in enumerate(zip(before, self.now, strict=True)):
            for name, value in old.items():
                if value != new[name] and not _may_change(name, value, new[name]):
                    raise InputError(
                        f"{name} of parameter group {k} changed from {value} to {new[name]} before step "
                        f"{step}; only numbers may change during a run, and momentum not from or to 0"
                    )
        return np.array([step, *_numbers(self.now), scale], dtype=np.float64)

    def noted(self) -> dict[str, Any]:
        """What a resumed loop needs of them, as JSON: the present ones, and those of the last step."""
        present = hyperparameters(self._optimizer)
        scale = {} if self.scale == 1 else {"scale": self.scale}
        if present == self.now == self.first:
            return scale
        return {"settings": [[_as_lists(g) for g in groups] for groups in (present, self.now)], **scale}

    def return_to(self, note: Mapping[str, Any]) -> None:
        """Put them back as they were noted. Errors: they never changed, and are others now."""
        if "settings" not in note:
            self._check_first()
        present, last = note.get("settings", (self.first, self.first))
        self.scale = note.get("scale", 1.0)
        for group, values in zip(self._optimizer.param_groups, present, strict=True):
            group.update({name: _as_tuple(value) for name, value in values.items()})
        self.now = [{name: _as_tuple(value) for name, value in values.items()} for values in last]

    def _check_first(self) -> None:
        for k, (mine, its) in enumerate(zip(hyperparameters(self._optimizer), self.first, strict=True)):
            for name, value in its.items():
                if mine[name] != value:
                    raise InputError(
                        f"{name} of parameter group {k} is {mine[name]}, and was {value} in the run that is "
                        "resumed; resume it with the same optimizer"
                    )


def settings_of(groups: Sequence[Group], rows: Iterable[np.ndarray]) -> tuple[tuple[int, list[Group]], ...]:
    """(first step, hyper-parameters of every group) of the rows of the store's table.

    Errors: `StoreError` for rows that are none of these groups.
    """
    found, before = [], -1.0
    own = [{n: _as_tuple(v) for n, v in group.items() if n not in ("params", "lr")} for group in groups]
    for row in rows:
        if len(row) != len(_numbers(own)) + 2 or not np.isfinite(row).all() or row[0] <= before or row[0] % 1:
            raise StoreError("the array 'settings' holds what no tape writes; record again")
        before = row[0]
        values = iter(row[1:].tolist())
        changed = [{n: _with_numbers(v, values) for n, v in group.items()} for group in own]
        found.append((int(row[0]), changed))
    return tuple(found)


def _may_change(name: str, old: Any, new: Any) -> bool:
    if isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
        return all(a == b or _may_change(name, a, b) for a, b in zip(old, new, strict=True))
    if name == "momentum" and not (old and new):
        return False
    return _is_number(old) and _is_number(new)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(groups: Sequence[Group]) -> list[float]:
    return [x for group in groups for v in group.values() for x in _flat(v) if _is_number(x)]


def _flat(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _with_numbers(value: Any, numbers: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_with_numbers(v, numbers) for v in value)
    if not _is_number(value):
        return value
    number = next(numbers)
    return int(number) if isinstance(value, int) and number.is_integer() else number


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_lists(group: Group) -> Group:
    return {n: list(v) if isinstance(v, tuple) else v for n, v in group.items()}
