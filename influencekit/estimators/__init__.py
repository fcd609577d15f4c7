"""Estimators: methods that score training examples. Reached by name through the registry."""

from influencekit._lazy import lazily

_HOME = {
    "AUM": "estimators.aum",
    "DIT": "estimators.dit",
    "ExpectedLOO": "estimators.expected_loo",
    "FinalLoss": "estimators.final_loss",
    "InfluenceFunction": "estimators.influence_function",
    "LOO": "estimators.loo",
    "OutOfFold": "estimators.out_of_fold",
    "SGDInfluence": "estimators.sgd_influence",
}

__all__ = sorted(_HOME)
__getattr__ = lazily(__name__, _HOME)


def __dir__() -> list[str]:
    return __all__
