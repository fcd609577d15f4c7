"""pandas, for tables of text that need not be UTF-8: pyarrow, where it is installed, refuses such text."""

from typing import Any

__all__ = ["pandas"]


def pandas() -> Any:
    """The library, which keeps text as Python does."""
    import pandas as library

    library.set_option("mode.string_storage", "python")
    return library
