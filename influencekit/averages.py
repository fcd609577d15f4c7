"""Averages of states: the models of EMA and SWA, and single states. Reached by name through the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from influencekit._arguments import real_number, whole_number
from influencekit._average import Average
from influencekit._tensors import real_tensor
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InputError

__all__ = ["EMA", "SWA", "After", "Last", "Reloaded", "States"]

By = Literal["step", "epoch"]


@dataclass(frozen=True)
class EMA(Average):
    """Exponential moving average of the weights, as `torch.optim.swa_utils.AveragedModel` takes it.

        avg <- decay avg + (1 - decay) theta,   the first update copies theta

    `AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))`, updated after the steps (or `by` epoch)
    `start`, `start + every`, ..., counted from 0. `initial`: the average begins as the initial parameters, as
    in loops that begin with `deepcopy(model)`, and the first update is like the others. `warmup`: update n =
    0, 1, ... has the decay min(decay, (1 + n) / (10 + n)). `use_buffers` as of `AveragedModel`.

    Errors: `InputError` for a decay outside of 0 to 1, or a run with no such update.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=3"))
        >>> ik.make("average", "ema:decay=0.9").weights(run).tolist()  # the copy is of the state after step 0
        [0.0, 0.81..., 0.08..., 0.09...]
        >>> ik.estimate(run, "test-loss", "dit", average="ema:decay=0.9").influence.shape
        (1, 1, 24)
    """

    decay: float = 0.999
    every: int = 1
    start: int = 0
    by: By = "step"
    initial: bool = False
    warmup: bool = False
    use_buffers: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        real_number("ema: decay", self.decay, 0, 1)
        _check_counts("ema", self.every, self.start)

    def weights(self, trajectory: Trajectory) -> Tensor:
        states = _updates(trajectory, "ema", self.by, self.start, self.every)
        n = torch.arange(len(states), dtype=torch.float64)
        decays = torch.full_like(n, self.decay)
        if self.warmup:
            decays = decays.minimum((1 + n) / (10 + n))
        if not self.initial:
            decays[0] = 0.0  # a copy
        left = decays.flip(0).cumprod(0).flip(0)  # of the average before update n, what is left at the end
        found = torch.zeros(trajectory.steps + 1, dtype=torch.float64)
        found[0] = left[0]
        counted = (1 - decays) * torch.cat([left[1:], left.new_ones(1)])
        return found.index_add(0, torch.tensor(states), counted)


@dataclass(frozen=True)
class SWA(Average):
    """Stochastic weight averaging: the mean of the states after the epochs (or `by` step) `start`, `start +
    every`, ..., counted from 0.

    What `torch.optim.swa_utils.AveragedModel(model)` gives when it is updated there; `use_buffers` as of that
    class. Statistics that `update_bn` computes anew from the data are not those of any recorded state, and
    are not asked about. Errors: `InputError` for a run that has no such state.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=4"))
        >>> ik.make("average", "swa:start=2").weights(run).tolist()
        [0.0, 0.0, 0.0, 0.5, 0.5]
    """

    start: int = 0
    every: int = 1
    by: By = "epoch"
    use_buffers: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts("swa", self.every, self.start)

    def weights(self, trajectory: Trajectory) -> Tensor:
        states = _updates(trajectory, "swa", self.by, self.start, self.every)
        found = torch.zeros(trajectory.steps + 1, dtype=torch.float64)
        return found.index_add(0, torch.tensor(states), found.new_full((len(states),), 1 / len(states)))


@dataclass(frozen=True)
class After(Average):
    """The model after one `epoch`, or after one `step`, counted from 0: of the best epoch, for instance.

    Errors: `InputError` where neither or both are given, or the run has none of this number.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=3"))
        >>> ik.make("average", "after:epoch=1").weights(run).tolist()
        [0.0, 0.0, 1.0, 0.0]
    """

    epoch: int | None = None
    step: int | None = None

    def weights(self, trajectory: Trajectory) -> Tensor:
        if (self.epoch is None) == (self.step is None):
            raise InputError("after: expected one of epoch and step, as in after:epoch=3")
        by: By = "epoch" if self.step is None else "step"
        number = self.epoch if self.step is None else self.step
        assert number is not None
        ends = _ends(trajectory, by)
        if not 0 <= number < len(ends):
            raise InputError(f"after: the run has the {by}s 0 to {len(ends) - 1}, and no {by} {number}")
        return _one(trajectory, ends[number])


@dataclass(frozen=True)
class Last(Average):
    """The last state, also of a run whose loop loaded earlier weights again at its end.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=3"))
        >>> ik.make("average", "last").weights(run).tolist()
        [0.0, 0.0, 0.0, 1.0]
    """

    def weights(self, trajectory: Trajectory) -> Tensor:
        return _one(trajectory, trajectory.steps)


@dataclass(frozen=True)
class Reloaded(Average):
    """The state that the loop loaded again at its end, such as the best one; the default of such runs.

    Errors: `InputError` for a run whose loop loaded none.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=3"))
        >>> try:
        ...     ik.make("average", "reloaded").weights(run)
        ... except ik.InputError as error:
        ...     print(error)
        reloaded: the loop of this run loaded no earlier weights at its end; write after:epoch=... ...
    """

    def weights(self, trajectory: Trajectory) -> Tensor:
        state = trajectory.attrs.get("reloaded")
        if state is None:
            raise InputError(
                "reloaded: the loop of this run loaded no earlier weights at its end; write after:epoch=... "
                "for the model after an epoch"
            )
        return _one(trajectory, int(state))


@dataclass(frozen=True, eq=False)
class States(Average):
    """Weights of one's own, [state], or {state: weight} for those that count. Python only: pass them as
    `average=`.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=3"))
        >>> ik.estimate(run, average={2: 0.5, 3: 0.5}).influence.shape
        (1, 1, 24)
    """

    given: Mapping[int, float] | Sequence[float] | Any = field(repr=False)
    use_buffers: bool = False

    def weights(self, trajectory: Trajectory) -> Tensor:
        if not isinstance(self.given, Mapping):
            return real_tensor("average", self.given).double()
        found = torch.zeros(trajectory.steps + 1, dtype=torch.float64)
        for t, weight in self.given.items():
            t = whole_number("average: the number of a state", t, 0, trajectory.steps)
            found[t] = real_number(f"average: the weight of state {t}", weight)
        return found


def _check_counts(name: str, every: int, start: int) -> None:
    whole_number(f"{name}: every", every, 1)
    whole_number(f"{name}: start", start, 0)


def _ends(trajectory: Trajectory, by: By) -> list[int]:
    """The states after the steps, or after the epochs, 0, 1, ..."""
    if by == "step":
        return list(range(1, trajectory.steps + 1))
    epochs = trajectory.plan.epoch
    return torch.searchsorted(epochs, torch.arange(int(epochs[-1]) + 1), right=True).tolist()


def _updates(trajectory: Trajectory, name: str, by: By, start: int, every: int) -> list[int]:
    states = _ends(trajectory, by)[start::every]
    if not states:
        raise InputError(f"{name}: the run has no {by} {start}, after which the average would begin")
    return states


def _one(trajectory: Trajectory, state: int) -> Tensor:
    found = torch.zeros(trajectory.steps + 1, dtype=torch.float64)
    found[state] = 1.0
    return found
