"""What plugins use beside the public names: the one module for authors of estimators and commands.

Public are `influencekit` and the modules directly below it that docs/api documents, and of these the names in
`__all__`. Everything else may be renamed at any time. tests/test_public.py holds our own plugins to this.
"""

from influencekit.lazy import lazily

_HOME = {
    # a batch, the parameters, and what a step changes
    "Batch": "training.batch",
    "select": "training.batch",
    "tensors_of": "training.batch",
    "with_tensors": "training.batch",
    "Layout": "training.layout",
    "State": "training.state",
    "Step": "training.step",
    "training_time": "estimators.influence_function",
    # gradients, and their products with vectors
    "example_gradients": "training.gradients",
    "gradient_products": "training.gradients",
    "query_gradient": "effects.query_gradient",
    "step_products": "effects.step_products",
    # scores from what every occurrence contributes
    "Contributions": "interfaces",
    "scores_from_contributions": "effects.backward",
    # retraining with other weights
    "Strategy": "effects.retrain",
    "Weighting": "effects.retrain",
    "capacity": "effects.retrain",
    "query_at": "effects.retrain",
    "retraining_effects": "estimators.loo",
    "strategy_of": "effects.retrain",
    "train_together": "effects.retrain",
    # results and stores
    "NewStore": "files",
    "better_in": "direction",
    # commands
    "complain": "cli.console",
    "print_table": "cli.console",
    "say": "cli.console",
    "progress": "cli.progress",
    "shared": "cli.parameters",
    "use_device": "cli.problems",
}

__all__ = sorted(_HOME)
__getattr__ = lazily(__name__, _HOME)


def __dir__() -> list[str]:
    return __all__
