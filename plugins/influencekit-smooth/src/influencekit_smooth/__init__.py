"""First-order influence along several runs with the corners of the model smoothed, for influencekit."""

from influencekit_smooth.smooth import Smooth

__all__ = ["Smooth"]
