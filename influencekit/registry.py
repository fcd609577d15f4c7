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
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, TypeVar, cast

from influencekit._arguments import fitted, short
from influencekit._catalog import BUILTINS, KINDS, PACKAGES
from influencekit._docstring import first_line
from influencekit._entry import Entry
from influencekit._entry_points import entry_points, provider
from influencekit._specs import REQUIRED, options_of, read_options, unknown
from influencekit.errors import InfluenceKitError, InputError

__all__ = [
    "BUILTINS", "KINDS", "Listing", "describe", "label", "load", "make", "names", "resolve",
    "spec", "split",
]  # fmt: skip

T = TypeVar("T")

_COMMANDS = "influencekit.commands"  # the sixth group: commands, which have no specs


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
    return tuple(dict.fromkeys(entry.name for entry in entries(kind)))


def package_of(kind: str, name: str) -> str | None:
    """Which of our own plugins brings a name, installed or not; None where it is none of theirs."""
    return next(
        (package for package, brought in PACKAGES.items() if name in brought.get(kind, "").split()), None
    )


def entries(kind: str) -> tuple[Entry, ...]:
    """Who claims which name of a kind, or of `command`; a name may have several owners. Imports nothing."""
    if not isinstance(kind, str):
        raise InputError(f"expected a kind, one of {', '.join(KINDS)}; got {short(kind)}")
    return _entries(str(kind))


def load(kind: str, name: str) -> Callable[..., Any]:
    """The class (a workload's function, a command) behind a name.

    Errors: unknown, of one of our plugins that is not installed, owned twice, or broken.

    Example:

        >>> from influencekit.registry import load
        >>> load("recorder", "every-k").__name__
        'EveryK'
    """
    if not isinstance(name, str):
        raise InputError(f"{kind}: expected a name, got {short(name)}")
    owners = [entry for entry in entries(kind) if entry.name == name]
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
    if not isinstance(text, str):
        raise InputError(f"{kind}: expected a spec, such as {_first(kind)}; got {short(text)}")
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
    if kind == "workload":  # a function: classes check their own fields
        fit = {
            k: fitted(f"{name}: {k}", options[k].annotation, v)
            for k, v in values.items()
            if _typed(options[k], v)
        }
        return target(**values | fit)
    try:
        return target(**values)
    except (TypeError, ValueError) as refused:
        if isinstance(refused, InputError):
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
    if isinstance(given, str):
        return cast(T, make(kind, given))
    entries(kind)
    if kind != "workload":
        interface = getattr(import_module("influencekit.interfaces"), kind.capitalize())
        averages = kind == "average" and hasattr(given, "weights")  # as it is documented
        if not (isinstance(given, interface) or averages):
            raise InputError(
                f"{kind}: expected an object of a subclass of influencekit.{interface.__name__}, or a spec "
                f"such as '{_first(kind)}', got {short(given)}"
            )
    return given


def listed(name: str, given: Any) -> list[Any]:
    """Several of something: of a list its items, of text the specs that it joins by commas, else it alone.

    Errors: none at all.
    """
    if isinstance(given, str):
        return split(given)
    if not isinstance(given, Iterable) or isinstance(given, bytes | Mapping):
        return [given]
    if not (found := list(given)):
        raise InputError(f"{name}: expected at least one, got none")
    return found


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
    if not isinstance(text, str):
        raise InputError(f"expected specs joined by commas, as in 'dit,if'; got {short(text)}")
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
    return [_listing(entry) for each in (KINDS if kind is None else [kind]) for entry in entries(each)]


def _listing(entry: Entry) -> Listing:
    summary, status = "", "ok"
    options: tuple[str, ...] = ()
    try:
        target: Any = entry.load()
        if entry.kind == "command":
            summary = target.get_short_help_str(100)
        else:
            summary = first_line(target)
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


def _first(kind: str) -> str:
    """The name that stands for a kind in error messages."""
    return next(iter(names(kind)), "one of your own")


def _typed(option: Any, value: Any) -> bool:
    """Whether an argument of a function is annotated, and not at its default."""
    return value is not option.default and option.annotation is not str


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
