"""What is installed, by name: the built-in table, third parties' entry points, `make` and `spec`.

A spec is `name` or `name:key=value:key=value`, as in `every-k:k=20`; values as in `influencekit._specs`.
Specs joined by commas make a list: `dit:curvature=fisher,if,loo`. Nothing is imported before it is asked for.

Third parties use the entry-point groups `influencekit.estimators`, `.queries`, `.recorders`, `.workloads`,
`.evaluations`, and `influencekit.commands` for a command of the command line.
Two owners of one name are an error where that name is used. A plugin that cannot be loaded is an error where
it is named, a warning and a broken row in lists, and does not matter elsewhere.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, TypeVar, cast

from influencekit._catalog import BUILTINS, KINDS, PACKAGES
from influencekit._entry_points import entry_points, provider
from influencekit._lazy import loaded
from influencekit._specs import REQUIRED, options_of, read_options, unknown
from influencekit.errors import InfluenceKitError, InputError

__all__ = [
    "BUILTINS", "KINDS", "Listing", "describe", "label", "load", "make", "names", "resolve", "spec", "split",
]  # fmt: skip

T = TypeVar("T")

_COMMANDS = "influencekit.commands"  # the sixth group: commands, which have no specs


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
            with redirect_stdout(sys.stderr) if self.provider != "built-in" else nullcontext():
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


@dataclass(frozen=True)
class Listing:
    """A row of `influencekit list`. `options` as `key=default`; `status` is `ok` or the reason why not.

    Example:

        >>> from influencekit.registry import describe
        >>> row = next(row for row in describe("recorder") if row.name == "every-k")
        >>> row.options, row.status
        (('k=20',), 'ok')
    """

    kind: str
    name: str
    provider: str
    summary: str
    options: tuple[str, ...]
    status: str


def names(kind: str) -> tuple[str, ...]:
    """The installed names of a kind: built-ins in the order of the table, then the plugins' by alphabet.

    Example:

        >>> from influencekit.registry import names
        >>> "every-k" in names("recorder")
        True
    """
    return tuple(dict.fromkeys(entry.name for entry in _entries(kind)))


def package_of(kind: str, name: str) -> str | None:
    """Which of our own plugins brings a name, installed or not; None where it is none of theirs."""
    return next(
        (package for package, brought in PACKAGES.items() if name in brought.get(kind, "").split()), None
    )


def entries(kind: str) -> tuple[Entry, ...]:
    """Who claims which name of a kind, or of `command`; a name may have several owners. Imports nothing."""
    return _entries(kind)


def load(kind: str, name: str) -> Callable[..., Any]:
    """The class (a workload's function, a command) behind a name.

    Errors: unknown, of one of our plugins that is not installed, owned twice, or broken.

    Example:

        >>> from influencekit.registry import load
        >>> load("recorder", "every-k").__name__
        'EveryK'
    """
    owners = [entry for entry in _entries(kind) if entry.name == name]
    if not owners:
        if package := package_of(kind, name):
            raise InputError(f"{name} comes with the package {package}: pip install {package}")
        raise unknown(f"{kind} named", name, names(kind), "installed")
    if len(owners) > 1:
        whose = " and ".join(f"{entry.provider} ({entry.target})" for entry in owners)
        raise InputError(f"{kind} '{name}' has {len(owners)} owners: {whose}; uninstall all but one of them")
    return owners[0].load()


def make(kind: str, text: str, /, **overrides: Any) -> Any:
    """The object that a spec describes; for a workload, what its function returns.

    `overrides` are Python values and win over the spec's. Errors: `InputError` for an unknown name or option
    (with the nearest match and all there are), a value of the wrong type, an option given twice or missing,
    and whatever the class itself refuses.

    Example:

        >>> import influencekit as ik
        >>> ik.make("recorder", "every-k:k=20")
        EveryK(k=20)
    """
    name = text.partition(":")[0]
    target = load(kind, name)
    options = options_of(target)
    values = read_options(kind, text, options) | overrides
    for key in values:
        if new := getattr(target, "renamed_options", {}).get(key):
            raise InputError(f"option '{key}' of {kind} '{name}' is called '{new}' now")
        if key not in options:
            raise unknown(f"option of {kind} '{name}' named", key, options, "options")
    if missing := [
        key for key, option in options.items() if option.default is REQUIRED and key not in values
    ]:
        raise InputError(
            f"{kind} '{name}' needs a value for {', '.join(missing)}, as in {name}:{missing[0]}=..."
        )
    try:
        return target(**values)
    except ValueError as refused:
        if kind == "workload" or isinstance(refused, InputError):
            raise
        raise InputError(f"{kind} '{text}': {refused}") from refused


def resolve(kind: str, given: T | str) -> T:
    """The object itself, or the one that a spec describes: what every verb does with its arguments.

    Errors: those of `make`; a class in place of an object.

    Example:

        >>> from influencekit.registry import resolve
        >>> resolve("recorder", "every-k:k=5")
        EveryK(k=5)
        >>> resolve("recorder", resolve("recorder", "full"))
        Full()
    """
    if isinstance(given, type):
        raise InputError(f"expected an object, got the class {given.__name__}; write {given.__name__}()")
    return cast(T, make(kind, given)) if isinstance(given, str) else given


def spec(thing: Any) -> str:
    """The canonical spec of an object: its registered name and the options that are not at their defaults.

    `make(kind, spec(o)) == o`, and `spec(make(kind, s)) == s` for a canonical s. Errors: `InputError` for an
    object whose class is not registered, or that holds something without a text form (a tensor); `label`
    takes those as well.

    Example:

        >>> import influencekit as ik
        >>> ik.spec(ik.make("estimator", "dit:curvature=hessian"))
        'dit'
    """
    cls = type(thing)
    name = _name_of(cls)
    if name is None:
        raise InputError(
            f"{cls.__qualname__} is not registered under a name, so it has no spec; pass the object itself"
        )
    return _written(name, thing, lambda option, value: option.write(value))


def label(thing: Any) -> str:
    """Words for any object, for titles and attrs: its spec where it has one, otherwise as near as can be.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.registry import label
        >>> label(ik.make("estimator", "dit:curvature=fisher"))
        'dit:curvature=fisher'
    """
    cls = type(thing)
    name = _name_of(cls) or f"{cls.__module__}.{cls.__qualname__}"
    if not dataclasses.is_dataclass(thing):
        return name

    def show(option: Any, value: Any) -> str:
        try:
            return option.write(value)
        except InputError:
            return f"<{type(value).__name__}>"

    return _written(name, thing, show)


def split(text: str) -> list[str]:
    """The specs of a list: `dit:curvature=fisher,if` holds two. Errors: `InputError` for an empty one.

    Example:

        >>> from influencekit.registry import split
        >>> split("dit:curvature=fisher, if")
        ['dit:curvature=fisher', 'if']
    """
    specs = [part.strip() for part in text.split(",")]
    if not all(specs):
        raise InputError(f"expected specs separated by single commas, got '{text}'")
    return specs


def describe(kind: str | None = None) -> list[Listing]:
    """Everything installed (of one kind). Imports it all; warns of whatever is broken or owned twice.

    Example:

        >>> from influencekit.registry import describe
        >>> {row.kind for row in describe("query")}
        {'query'}
    """
    return [_listing(entry) for each in ([kind] if kind else KINDS) for entry in _entries(each)]


def _listing(entry: Entry) -> Listing:
    summary, status = "", "ok"
    options: tuple[str, ...] = ()
    try:
        target: Any = entry.load()
        if entry.kind == "command":
            summary = target.get_short_help_str(100)
        else:
            summary = (inspect.getdoc(target) or "").partition("\n")[0]
            options = tuple(str(option) for option in options_of(target).values())
        load(entry.kind, entry.name)
    except InfluenceKitError as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=3)
        status = str(error)
    return Listing(entry.kind, entry.name, entry.provider, summary, options, status)


@cache  # reading every distribution's metadata takes tens of milliseconds
def _entries(kind: str) -> tuple[Entry, ...]:
    group = _COMMANDS if kind == "command" else KINDS.get(kind)
    if group is None:
        raise unknown("kind", kind, list(KINDS), "kinds")
    own = [Entry(kind, name, target) for name, target in BUILTINS.get(kind, {}).items()]
    others = [
        Entry(kind, point.name, point.value.split("[")[0].replace(" ", ""), *provider(point.dist))
        for point in entry_points(group)
    ]
    return (*own, *sorted(others, key=lambda entry: (entry.name, entry.provider)))


def _check(kind: str, found: Any) -> None:
    """Raise TypeError where `found` cannot be what its kind asks for; its options must be readable, too."""
    if kind == "workload":
        if not callable(found):
            raise TypeError(f"expected a function that returns a Workload, found {type(found).__name__}")
    elif kind == "command":
        if not isinstance(found, import_module("click").Command):
            raise TypeError(f"expected a click.Command, found {type(found).__name__}")
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


def _name_of(cls: type) -> str | None:
    """The name a class is registered under. Loads no plugin but those that could have brought the class."""
    own = f"{cls.__module__}:{cls.__qualname__}"
    package = cls.__module__.partition(".")[0]
    for entry in (entry for kind in KINDS for entry in _entries(kind)):
        if entry.target == own:
            return entry.name
        module = entry.target.partition(":")[0]
        if entry.provider != "built-in" and (module in sys.modules or module.partition(".")[0] == package):
            try:
                if entry.load() is cls:
                    return entry.name
            except InfluenceKitError:
                continue
    return None


def _written(name: str, thing: Any, write: Callable[[Any, Any], str]) -> str:
    parts = [name]
    for option in options_of(type(thing)).values():
        value = getattr(thing, option.name)
        if not option.is_default(value):
            parts.append(f"{option.name}={write(option, value)}")
    return ":".join(parts)
