"""One registered problem: a pool, a model and two settings become a function that returns Workloads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from influencekit._arguments import short
from influencekit._docstring import first_line
from influencekit._exclusive import exclusive
from influencekit._specs import options_of, unknown
from influencekit._training.optimizers import SGD
from influencekit._training.schedules import Constant, InverseSqrt
from influencekit._training.workload import Workload
from influencekit.errors import InputError
from influencekit.workloads.draw import Pool, draw, stream
from influencekit.workloads.models import MODELS

__all__ = ["Problem", "Setting", "problem"]


@dataclass(frozen=True)
class Setting:
    """How to train: plain SGD with learning rate `lr`, divided by sqrt(t + 1) at step t if `decay`.

    l2 is the coefficient of 0.5 * |theta|^2 in every per-example loss.

    Example:

        >>> from influencekit.workloads import Setting
        >>> Setting(0.05, epochs=42).batch_size
        64
    """

    lr: float
    epochs: int = 21
    decay: bool = True
    l2: float = 0.0
    batch_size: int = 64
    n_train: int = 256
    n_validation: int = 256
    n_test: int = 256


class Problem(Protocol):
    """A registered workload function; None leaves an option as the setting has it.

    `data_seed` draws the examples in place of `seed`, which then decides the initial parameters and the order
    of the batches only.

    Example:

        >>> from influencekit.registry import load
        >>> sorted(load("workload", "mnist-1v7-lr").settings)
        ['paper', 'trained']
    """

    __name__: str
    settings: Mapping[str, Setting]

    def __call__(
        self,
        *,
        seed: int = 0,
        setting: str = "paper",
        data_dir: str | None = None,
        epochs: int | None = None,
        lr: float | None = None,
        batch_size: int | None = None,
        n_train: int | None = None,
        data_seed: int | None = None,
    ) -> Workload: ...


def problem(name: str, pool: Callable[[str | None], Pool], *, paper: Setting, trained: Setting) -> Problem:
    """The function registered as `name`; the model is the part of the name after its last hyphen.

    `seed` decides the draw of the examples, the initialisation and the batch order, each by a stream of its
    own; the global random state is left as it was. With `data_seed`, that one decides the draw, so that seeds
    train on the same examples. A pool is read once a process.

    Cost: nothing until the function is called. Errors: those of the function: `InputError` for an unknown
    option or setting, or more examples than the pool has.

    Example:

        >>> import numpy as np
        >>> from influencekit.workloads import Part, Pool, Setting, by_example, problem
        >>> part = Part(np.random.default_rng(0).normal(size=(90, 3)), np.arange(90) % 2 == 1, range(90))
        >>> pool = Pool(part, None, by_example, ("even", "odd"), "Noise", "none needed", "bundled")
        >>> def read(data_dir=None):
        ...     "Noise, even against odd."
        ...     return pool
        >>> few = dict(n_train=20, n_validation=20, n_test=20, epochs=2)
        >>> function = problem("noise-lr", read, paper=Setting(0.1, **few), trained=Setting(0.5, **few))
        >>> function(setting="trained").n_train
        20
    """
    settings = {"paper": paper, "trained": trained}
    model = MODELS[name.rpartition("-")[2]]

    def function(
        *,
        seed: int = 0,
        setting: str = "paper",
        data_dir: str | None = None,
        epochs: int | None = None,
        lr: float | None = None,
        batch_size: int | None = None,
        n_train: int | None = None,
        data_seed: int | None = None,
        **other: Any,
    ) -> Workload:
        if other:
            raise unknown(f"option of workload '{name}' named", [*other][0], options_of(function), "options")
        if not isinstance(setting, str) or setting not in settings:
            raise InputError(f"{name}: setting must be 'paper' or 'trained', got {short(setting)}")
        chosen = settings[setting]
        n = chosen.n_train if n_train is None else n_train
        if n < 1:
            raise InputError(f"{name}: n_train must be at least 1, got {n}")
        examples = pool(data_dir)
        of_draw = seed if data_seed is None else data_seed
        drawn = draw(examples, of_draw, n, chosen.n_validation, chosen.n_test)
        shape = tuple(drawn.train[0].shape[1:])
        info = {
            "setting": setting,
            "data": examples.title,
            "data_source": examples.source,
            "data_licence": examples.licence,
            "class_0": examples.classes[0],
            "class_1": examples.classes[1],
            "input_shape": "x".join(str(length) for length in shape),
        }
        return Workload(
            model=_initialised(model, shape, seed),
            loss=nn.BCEWithLogitsLoss(reduction="none"),
            train=drawn.train,
            validation=drawn.validation,
            test=drawn.test,
            train_ids=drawn.train_ids,
            test_ids=drawn.test_ids,
            optimizer=SGD(lr=chosen.lr if lr is None else lr),
            schedule=InverseSqrt() if chosen.decay else Constant(),
            epochs=chosen.epochs if epochs is None else epochs,
            batch_size=chosen.batch_size if batch_size is None else batch_size,
            l2=chosen.l2,
            seed=stream(seed, "order"),
            name=name,
            info=info,
        )

    function.__name__ = function.__qualname__ = name.replace("-", "_")
    function.__module__ = pool.__module__
    function.__doc__ = f"{first_line(pool)} Model: {model.__name__}."
    function.settings = settings  # type: ignore[attr-defined]
    return function  # type: ignore[return-value]


@exclusive()
def _initialised(
    model: Callable[[tuple[int, ...]], nn.Module], shape: tuple[int, ...], seed: int
) -> nn.Module:
    """torch's default initialisation from a stream of `seed`; the global generator is put back afterwards."""
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(stream(seed, "initialisation"))
        return model(shape)
    finally:
        torch.set_rng_state(state)
