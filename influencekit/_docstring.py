"""What a docstring says, which users read in lists, titles and help."""

import ast
import inspect
import sys
import textwrap
from typing import Any

__all__ = ["docstring", "first_line"]


def docstring(thing: Any) -> str:
    """The docstring of a class or function; "" where it has none.

    `python -OO` drops docstrings, and dataclasses put their signature in their place: there it is read from
    the source.
    """
    written = inspect.getdoc(thing) or ""
    if sys.flags.optimize < 2:
        return written
    try:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # there is no source
        return written
    if isinstance(node, ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
        return text
    return written  # of a function that was made


def first_line(thing: Any) -> str:
    """The first line of its docstring, or ""."""
    return docstring(thing).strip().partition("\n")[0]
