"""What arguments must be, by their annotations: numbers in any guise become plain, the rest is refused.

A whole number may come from NumPy or as a tensor without dimensions; True is none, nor is 2.0. Options of
dataclasses are checked by `check_options`, parameters of functions by `checked`, both by what stands behind
the colon; `whole_number` and `real_number` also say in which range.
"""

from __future__ import annotations

import inspect
import reprlib
import sys
from collections.abc import Callable, Collection
from functools import wraps
from math import isfinite, isnan
from types import NoneType
from typing import Any, Literal, ParamSpec, TypeVar, get_args, get_origin

from influencekit._specs import Option, is_union, options_of, shown_type
from influencekit.errors import InputError

__all__ = [
    "check_options",
    "check_seed",
    "checked",
    "fitted",
    "moved_fraction",
    "one_of",
    "real_number",
    "short",
    "whole_number",
]

P = ParamSpec("P")
T = TypeVar("T")

_LARGEST = int(sys.float_info.max)
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def short(value: Any) -> str:
    """A value in an error message: as Python writes it, on one line and not long, or what it is."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if not isinstance(value, int | float | complex | str | bytes | list | tuple | set | dict | NoneType):
        return type(value).__name__
    try:
        return " ".join(_SHORT.repr(value).split())
    except Exception:  # objects of the user's own in a list
        return type(value).__name__


def whole_number(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """`value` as an `int`, from `least` to `most`. Errors: no whole number, or outside of these."""
    found: int = fitted(name, int, value)
    _check_range(name, found, least, most)
    return found


def check_seed(name: str, value: Any) -> int:
    """`value` as the seed of a generator of torch. Errors: no whole number, or of more than 64 bits."""
    return whole_number(name, value, -(2**63), 2**64 - 1)


def real_number(
    name: str, value: Any, least: float | None = None, most: float | None = None, above: float | None = None,
    below: float | None = None, finite: bool = True,
) -> float:  # fmt: skip
    """`value` as a plain number in a range; an `int` stays one. Errors: no number, NaN, outside of it."""
    found: float = fitted(name, float, value)
    _check_range(name, found, least, most, above, below)
    if finite and not isfinite(found):
        raise InputError(f"{name} must be finite, got {short(value)}")
    return found


def one_of(name: str, value: Any, words: Collection[str]) -> str:
    """`value`, which is one of some words. Errors: anything else."""
    if not isinstance(value, str) or value not in words:
        raise InputError(f"{name} must be one of {', '.join(words)}, got {short(value)}")
    return str(value)


def _check_range(
    name: str, value: float, least: float | None = None, most: float | None = None,
    above: float | None = None, below: float | None = None,
) -> None:  # fmt: skip
    if (
        (least is not None and value < least)
        or (most is not None and value > most)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
    ):
        low = f"from {least}" if least is not None else f"above {above}"
        high = f"to {most}" if most is not None else f"below {below}"
        if most is below is None:
            said = f"at least {least}" if least is not None else low
        elif least is above is None:
            said = f"at most {most}" if most is not None else high
        else:
            both = least is not None and most is not None
            said = f"{low} {high}" if both else f"{low} and {high.replace('to ', 'at most ')}"
        raise InputError(f"{name} must be {said}, got {short(value)}")


# by annotation -------------------------------------------------------------------------------------------


def check_options(thing: Any, name: str | None = None) -> None:
    """For `__post_init__` of a frozen dataclass: its fields are of their annotated types, numbers plain.

    `name` is what the user calls it. A field at its default, or annotated with a type that has no text form,
    is left alone. Errors: `InputError` that names the field.
    """
    for option in options_of(type(thing)).values():
        value = getattr(thing, option.name)
        fit = _fit_option(f"{name or type(thing).__name__}: {option.name}", option, value)
        if fit is not value:
            object.__setattr__(thing, option.name, fit)


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """The function, with its arguments checked by its annotations, as `check_options` does it."""
    signature, name = inspect.signature(function), function.__qualname__.removesuffix(".__init__")

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            takes = ", ".join(n for n in signature.parameters if n != "self")
            raise TypeError(f"{name}() {error}; it takes {takes}") from None
        for option in options_of(function).values():
            typed = signature.parameters[option.name].annotation is not inspect.Parameter.empty
            if typed and option.name in bound.arguments:
                value = bound.arguments[option.name]
                bound.arguments[option.name] = _fit_option(f"{name}: {option.name}", option, value)
        return function(*bound.args, **bound.kwargs)

    return call


def _fit_option(name: str, option: Option, value: Any) -> Any:
    return value if value is option.default else fitted(name, option.annotation, value)


def moved_fraction(name: str, value: Any) -> float:
    """`value` as the fraction of their size by which initial parameters are moved. Errors: 0, above 1, where
    nothing of the start is left."""
    return real_number(name, value, above=0.0, most=1.0)


def fitted(name: str, annotation: Any, value: Any) -> Any:
    """`value` as a plain value of an annotated type. Errors: `InputError` where it is of another one."""
    try:
        return _fit(annotation, value)
    except ValueError as error:
        what = shown_type(annotation)
        more = f" ({error})" if str(error) else ""
        raise InputError(f"{name} must be {what}, got {short(value)}{more}") from None


def _fit(annotation: Any, value: Any) -> Any:
    parts = get_args(annotation)
    if is_union(annotation):
        return _fit_union(parts, value)
    if get_origin(annotation) is tuple and shown_type(annotation):
        return _fit_tuple(parts, value)
    if get_origin(annotation) is Literal:
        return _fit_choice(parts, value)
    if annotation in (int, float, bool):
        return _fit_number(annotation, plain(value))
    if annotation is str:
        return str(_instance(str, value))
    if annotation is NoneType:
        return _instance(NoneType, value)
    if isinstance(annotation, type) and shown_type(annotation):  # an enum
        return _instance(annotation, value)
    return value  # an annotation without a text form


def _fit_union(parts: tuple[Any, ...], value: Any) -> Any:
    others = [part for part in parts if part is not NoneType]
    if value is None and len(others) < len(parts):
        return None
    if not all(map(shown_type, others)):
        return value
    for part in others:
        try:
            return _fit(part, value)
        except ValueError:
            continue
    raise ValueError


def _fit_tuple(parts: tuple[Any, ...], value: Any) -> Any:
    if getattr(value, "ndim", None) == 1 and hasattr(value, "tolist"):
        value = value.tolist()
    each = list(_instance(tuple | list, value))
    if parts[-1] is Ellipsis:
        parts = parts[:1] * len(each)
    if len(parts) != len(each):
        raise ValueError(f"expected {len(parts)} of them")
    found = tuple(_fit(part, one) for part, one in zip(parts, each, strict=True))
    same = type(value) is tuple and all(a is b for a, b in zip(found, value, strict=True))
    return value if same else found


def _fit_choice(choices: tuple[Any, ...], value: Any) -> Any:
    for choice in choices:
        if isinstance(value, type(choice)) and value == choice:
            return choice
    raise ValueError


def _fit_number(kind: type, value: Any) -> Any:
    if kind is bool:
        return _instance(bool, value)
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        raise ValueError
    if kind is float and (isnan(value) if isinstance(value, float) else not -_LARGEST < value < _LARGEST):
        raise ValueError("" if isinstance(value, float) else "which no float holds")
    return value


def plain(value: Any) -> Any:
    """What a scalar of NumPy, or a tensor or an array without dimensions, holds; anything else as it is.

    Errors: `ValueError` for a tensor without values.
    """
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        try:
            return value.item()
        except Exception:  # on the meta device
            raise ValueError from None
    return value


def _instance(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError
    return value
