"""Estimators: methods that score training examples. Reached by name through the registry."""

from influencekit._lazy import lazily

_HOME = {
    "DIT": "estimators.dit",
    "ExpectedLOO": "estimators.expected_loo",
    "InfluenceFunction": "estimators.influence_function",
    "LOO": "estimators.loo",
    "SGDInfluence": "estimators.sgd_influence",
}

__all__ = sorted(_HOME)
__getattr__ = lazily(__name__, _HOME)


def __dir__() -> list[str]:
    return __all__
