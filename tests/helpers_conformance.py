"""A law of the conformance suite by its name."""

from influencekit import Estimator, Query
from influencekit.testing import laws


def law_named(subject: Estimator | Query, name: str):
    return next(law for law in laws(subject) if law.__name__ == name)
