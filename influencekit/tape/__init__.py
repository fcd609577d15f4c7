"""Taped runs: a user's own PyTorch loop, recorded, replayed bit for bit, and opened as a workload."""

from influencekit.tape.open_taped import open_taped
from influencekit.tape.tape import Tape

__all__ = ["Tape", "open_taped"]
