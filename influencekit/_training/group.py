"""Parameters that have hyper-parameters of their own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from influencekit._arguments import check_options, plain, short
from influencekit._specs import options_of, unknown
from influencekit.errors import InputError

__all__ = ["Group", "groups_of"]


@dataclass(frozen=True)
class Group:
    """Parameters (shell-style patterns of names) with hyper-parameters of their own.

    Example: `SGD(lr=.1, groups=(Group(("head.*",), {"lr": .5, "weight_decay": 0.0}),))`. A parameter
    belongs to the first group that matches it, and to the optimizer's own settings when none does.

    Example:

        >>> import influencekit as ik
        >>> head = ik.Group(("head.*",), {"lr": 0.5, "weight_decay": 0.0})
        >>> len(ik.SGD(lr=0.1, groups=(head,)).members())
        2
    """

    params: tuple[str, ...]
    changes: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_options(self)
        if not isinstance(self.changes, Mapping):
            raise InputError(f"Group: changes must be a dict, as in {{'lr': 0.5}}, got {short(self.changes)}")
        try:
            changes = {name: plain(value) for name, value in self.changes.items()}
        except ValueError:
            raise InputError(f"Group: changes must have values, got {short(self.changes)}") from None
        object.__setattr__(self, "changes", changes)


def groups_of(optimizer: Any) -> tuple[Group, ...]:
    """The groups of an optimizer, one or several, as a tuple. Errors: what is none; settings that it does not
    have, or not for groups."""
    name, given = type(optimizer).__name__, optimizer.groups
    known = [
        each for each in options_of(type(optimizer)) if each not in ("groups", "clip_norm", "clip_value")
    ]
    for group in (found := tuple(given) if isinstance(given, tuple | list) else (given,)):
        if not isinstance(group, Group):
            raise InputError(f"{name}: groups must be a tuple of Group(...), got {short(group)}")
        for setting in group.changes:
            if setting not in known:
                raise unknown(f"setting of {name} named", str(setting), known, "settings")
    return found
