"""What plugins use beside the public names: the one module for authors of estimators and commands.

Public are `influencekit` and the modules directly below it that docs/api documents, and of these the names in
`__all__`. Everything else may be renamed at any time. tests/test_public.py holds our own plugins to this.
"""

from influencekit._lazy import lazily

_HOME = {
    # a batch, the parameters, and what a step changes
    "Batch": "_training.batch",
    "select": "_training.batch",
    "tensors_of": "_training.batch",
    "with_tensors": "_training.batch",
    "logits_of": "_training.accuracy",
    "Layout": "_training.layout",
    "Part": "_training.parts",
    "Plan": "_training.plan",
    "State": "_training.state",
    "Step": "_training.step",
    "training_time": "estimators.influence_function",
    # gradients, and their products with vectors
    "example_gradients": "_training.gradients",
    "gradient_products": "_training.gradients",
    "query_gradient": "_effects.query_gradient",
    "step_products": "_effects.step_products",
    # scores of examples by themselves
    "for_every_query": "_effects.labels",
    # scores from what every occurrence contributes
    "Contributions": "interfaces",
    "scores_from_contributions": "_effects.backward",
    # other runs of a recorded plan, and a sweep along their mean
    "MeanOfRuns": "_effects.mean_of_runs",
    "weighted_runs": "_trajectory.rerun",
    # leave-one-out of several runs
    "agreements": "_verbs.ceiling",
    # retraining with other weights
    "Strategy": "_effects.retrain",
    "Weighting": "_effects.retrain",
    "capacity": "_effects.retrain",
    "query_at": "_effects.retrain",
    "retraining_effects": "estimators.loo",
    "strategy_of": "_effects.retrain",
    "train_together": "_effects.retrain",
    # calls on executors
    "begun_executor": "_executors.specs",
    "check_executor": "_executors.specs",
    "drive": "_executors.futures",
    # results and stores
    "NewStore": "_files",
    "check_result": "_files",
    "hold": "_files",
    "sweep": "_files",
    "whole": "_files",
    "read_sealed": "_sealed",
    "sealed": "_sealed",
    "local": "_address",
    "better_in": "_direction",
    # commands
    "complain": "cli.console",
    "print_table": "cli.console",
    "say": "cli.console",
    "progress": "_bars",
    "shared": "cli.parameters",
    "use_device": "cli.problems",
}

__all__ = sorted(_HOME)
__getattr__ = lazily(__name__, _HOME)


def __dir__() -> list[str]:
    return __all__
