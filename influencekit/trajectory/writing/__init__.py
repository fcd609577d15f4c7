"""Writing a trajectory store while a run goes on: growing arrays, one act that commits, a thread for it."""

from influencekit.trajectory.writing.growing import Column
from influencekit.trajectory.writing.writer import COLUMNS, Kept, Writer

__all__ = ["COLUMNS", "Column", "Kept", "Writer"]
