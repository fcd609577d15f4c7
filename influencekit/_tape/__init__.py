"""Record a PyTorch loop of your own, replay it bit for bit, and open it as a workload."""

from influencekit._tape.open_taped import open_taped
from influencekit._tape.tape import Tape

__all__ = ["Tape", "open_taped"]
