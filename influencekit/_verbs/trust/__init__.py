"""`trust`: how far scores of a run can be believed, window by window."""

from influencekit._verbs.trust.verb import LIMITS, trust

__all__ = ["LIMITS", "trust"]
