"""`curate`: what to leave out, chosen on one part of trusted data and judged on the other."""

from influencekit._verbs.curate.verb import curate

__all__ = ["curate"]
