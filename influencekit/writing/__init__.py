"""Writing a trajectory store while a run goes on: growing arrays, one act that commits, a thread for it."""

from influencekit.writing.growing import Column
from influencekit.writing.writer import COLUMNS, Kept, Writer

__all__ = ["COLUMNS", "Column", "Kept", "Writer"]
