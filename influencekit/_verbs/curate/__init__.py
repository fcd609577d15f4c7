"""`curate`: what to leave out, chosen by some trusted examples and judged by others."""

from influencekit._verbs.curate.verb import curate

__all__ = ["curate"]
