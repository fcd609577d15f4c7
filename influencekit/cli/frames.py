"""pandas, for tables of text that need not be UTF-8: pyarrow, where it is installed, refuses such text."""

import pandas as pd

__all__ = ["pd"]

pd.set_option("mode.string_storage", "python")
