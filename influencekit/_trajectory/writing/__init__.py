"""Writing a trajectory store while a run goes on: growing arrays, one act that commits, a thread for it."""

from influencekit._trajectory.writing.growing import Column
from influencekit._trajectory.writing.writer import COLUMNS, Kept, Writer

__all__ = ["COLUMNS", "Column", "Kept", "Writer"]
