"""What an object of the user's is, to the last number and line of its code: a name alone may hide both."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
from torch import Tensor

from influencekit._trajectory.fingerprint import digest

__all__ = ["code_key"]

_DEEP = 12
_KNOWN = ("influencekit", "torch", "numpy", "builtins", "abc")


def code_key(thing: Any) -> str:
    """16 hexadecimal digits of the class of an object, the code of its methods where the class is the user's,
    and all that it holds: numbers, text, tensors, functions with what they enclose, other objects."""
    return digest([_content(thing, _DEEP)])


def _content(value: Any, deep: int) -> Any:
    if value is None or isinstance(value, str | bytes | int | float | Tensor | np.ndarray | np.generic):
        return value
    if deep == 0:
        return type(value).__qualname__
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        rest = [_content(each, deep - 1) for each in [cells, value.__defaults__, value.__kwdefaults__]]
        return [value.__module__, value.__qualname__, _code(value.__code__), rest]
    if isinstance(value, MethodType):
        return [_content(value.__func__, deep - 1), _content(value.__self__, deep - 1)]
    if isinstance(value, partial):
        return [_content(each, deep - 1) for each in (value.func, value.args, value.keywords)]
    if isinstance(value, Mapping):
        return [[str(k), _content(v, deep - 1)] for k, v in value.items()]
    if isinstance(value, list | tuple):
        return [_content(each, deep - 1) for each in value]
    if isinstance(value, type):
        return _class(value)
    held = getattr(value, "__dict__", None)
    if held is None:  # its text tells it apart; where that is an address, nothing is found again
        return [_class(type(value)), repr(value)]
    return [_class(type(value)), _content(held, deep - 1)]


def _class(cls: type) -> Any:
    own = [c for c in cls.__mro__ if c.__module__.partition(".")[0] not in _KNOWN]
    code = [[k, _code(f.__code__)] for c in own for k, f in vars(c).items() if isinstance(f, FunctionType)]
    return [cls.__module__, cls.__qualname__, code]


def _code(code: CodeType) -> Any:
    consts = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return [code.co_code, list(code.co_names), consts]
