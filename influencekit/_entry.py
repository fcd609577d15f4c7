"""One owner's claim to one name of the registry, and what is asked of the class or function behind it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from influencekit._docstring import docstring
from influencekit._lazy import LOADING, loaded
from influencekit._specs import options_of
from influencekit.errors import InfluenceKitError

__all__ = ["Entry"]


@dataclass(frozen=True)
class Entry:
    """One owner's claim to one name. `target` is `module:attribute`; `provider` says whose it is, and
    `summary` what that distribution says of itself."""

    kind: str
    name: str
    target: str
    provider: str = "built-in"
    summary: str = ""

    def load(self) -> Callable[..., Any]:
        """The class or function itself. Errors: `InfluenceKitError` naming the owner if it does not work."""
        module, _, attribute = self.target.partition(":")
        try:
            with LOADING, redirect_stdout(sys.stderr) if self.provider != "built-in" else nullcontext():
                found: Any = loaded(module)
            for part in attribute.split("."):
                found = getattr(found, part)
            _check(self.kind, found)
        except KeyboardInterrupt:
            raise
        except BaseException as reason:  # a plugin's module may raise anything while it is imported
            first_line = (str(reason).splitlines() or [""])[0]
            raise InfluenceKitError(
                f"{self.kind} '{self.name}' ({self.provider}, {self.target}) is broken: "
                f"{type(reason).__name__}: {first_line}"
            ) from reason
        return found


def _check(kind: str, found: Any) -> None:
    """Raise TypeError where `found` cannot be what its kind asks for; its options must be readable, too."""
    if kind == "workload":
        if not callable(found):
            raise TypeError(f"expected a function that returns a Workload, found {type(found).__name__}")
    elif kind == "command":
        if not isinstance(found, import_module("click").Command):
            raise TypeError(f"expected a click.Command, found {type(found).__name__}")
        found.help = found.help or docstring(found.callback)
        return
    else:
        interface = getattr(import_module("influencekit.interfaces"), kind.capitalize())
        if not (isinstance(found, type) and issubclass(found, interface)):
            raise TypeError(f"expected a subclass of influencekit.{interface.__name__}")
        if missing := sorted(getattr(found, "__abstractmethods__", ())):
            raise TypeError(f"does not define {', '.join(missing)}")
        parameters = getattr(found, "__dataclass_params__", None)
        if parameters is None or not parameters.frozen:
            raise TypeError("expected a frozen dataclass")
    options_of(found)
