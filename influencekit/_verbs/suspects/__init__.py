"""`suspects`: which labels are wrong, found by the score that finds planted wrong labels best."""

from influencekit._verbs.suspects.verb import suspects

__all__ = ["suspects"]
