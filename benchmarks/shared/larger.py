"""The bundled workloads with other numbers of examples, drawn from the same pool."""

from dataclasses import replace
from importlib import import_module

import influencekit as ik
from influencekit.registry import load
from influencekit.workloads import problem


def pool_size(case: str) -> int:
    """How many examples can be drawn from the training pool of a bundled workload: all but the one that its
    test set takes where the data have no test part."""
    pool = import_module(load("workload", case).__module__).pool(None)
    return len(pool.train.y) - (pool.test is None)


def larger(case: str, seed: int, n_train: int, n_further: int) -> ik.Workload:
    """The workload in setting `trained` with so many training examples, and as its validation set so many
    further ones of the pool; its test set is one example."""
    function = load("workload", case)
    sizes = {"n_train": n_train, "n_validation": n_further, "n_test": 1}
    settings = {name: replace(one, **sizes) for name, one in function.settings.items()}
    return problem(case, import_module(function.__module__).pool, **settings)(setting="trained", seed=seed)
