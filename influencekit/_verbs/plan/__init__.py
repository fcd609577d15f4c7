"""`plan`: time, memory and disk of the work on a run, before it begins."""

from influencekit._verbs.plan.verb import plan

__all__ = ["plan"]
