"""Whether what a store says has meaning: ids, states, batches, rates and losses against the rebuilt run."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from influencekit._trajectory.contents import compare, of_tensors
from influencekit._trajectory.fingerprint import named
from influencekit._trajectory.store import read, shown
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import StoreError

__all__ = ["Losses", "Meaning", "check_meaning"]

_STEPS = 1000  # whose losses are read at once, as they lie in a chunk


class Meaning(NamedTuple):
    """What of a store was compared with the run that was built again."""

    what: str
    examples: int
    of: int | None
    test: bool

    def __str__(self) -> str:
        count = f"all {self.of}" if self.examples == self.of else f"{self.examples} of {self.of}"
        data = (
            f"; {count} training examples" if self.of is not None else "; training examples are the store's"
        )
        return f"{self.what}{data}{', and the test set' if self.test else ''}"


def check_meaning(trajectory: Trajectory) -> Meaning:
    """Compare everything that a store says of a run with what is known of it without the store.

    Of a run that `record` made, the ids, batches, learning rates, epochs and first state must be those of the
    workload that was built again. Of a taped run, whose loop is not at hand, ids must be unique, and the
    columns of its steps agree with each other, with the tape's reduction and with the data set. Losses are
    compared by `Losses`, where steps are trained again. What is not named in the result was not compared.

    Errors: `StoreError` that names the array, the step and the values. Cost: the columns are read once.
    """
    attrs, workload = dict(trajectory.attrs), trajectory.workload
    stored: dict[str, Any] = dict(trajectory.group.attrs)
    if "tape" in attrs:  # opening it has compared the columns
        what = "ids are unique; batches, coefficients, learning rates and epochs agree with each other"
    else:
        _check_recorded(trajectory)
        what = "ids, batches, learning rates, epochs" + ", first state" * (trajectory.first == 0)
    of = stored["fingerprint"]["training examples"]
    test = stored.get("contents", {}).get("test data")
    same = test is not None and not compare(test, of_tensors(named(workload.test))).difference
    here = workload.device.type == "cpu" and stored["device"] == "cpu"  # another may round otherwise
    if same and here and "accuracy" in stored:
        _check_accuracy(trajectory, stored["accuracy"])
        what += ", accuracy"
    return Meaning(what, attrs.get("examples_compared", of), of, same)


def _check_recorded(trajectory: Trajectory) -> None:
    workload, plan, where = trajectory.workload, trajectory.plan, shown(trajectory.group)
    expected: dict[str, Any] = {
        "train": _text(workload.train_ids or range(workload.n_train)),
        "batch": plan.indices.numpy(),
        "lr": plan.lr.numpy(),
        "epoch": plan.epoch.numpy(),
        "step": np.arange(plan.steps),
    }
    for name, values in expected.items():
        stored = read(trajectory.group, name)
        _compare(where, name, _text(stored.tolist()) if name == "train" else stored, values)
    if trajectory.first == 0:
        start, first = trajectory.step.start(), trajectory.state(0)
        mine = {"theta": start.theta, **start.slots, **start.buffers}
        for name, value in {"theta": first.theta, **first.slots, **first.buffers}.items():
            _compare(where, name, value.cpu().numpy()[None], mine[name].cpu().numpy()[None])


def _compare(where: str, name: str, stored: np.ndarray, mine: np.ndarray) -> None:
    """Errors: the first value of an array that is not what it must be."""
    if stored.shape != mine.shape:
        raise StoreError(f"{where}: the array {name!r} has the shape {stored.shape}, expected {mine.shape}")
    if len(odd := np.argwhere(~((stored == mine) | _nan(stored, mine)))):
        at = tuple(int(k) for k in odd[0])
        along = {"train": "example"}.get(
            name, "step" if name in ("batch", "lr", "epoch", "step") else "state"
        )
        column = f", column {at[1]}" if len(at) > 1 else ""
        raise StoreError(
            f"{where}: the array {name!r} has {stored[at]} in {along} {at[0]}{column}, and the run that was "
            f"built again {mine[at]}; something else has written it: record again"
        )


def _text(ids: Any) -> np.ndarray:
    return np.array([str(each) for each in ids], dtype=np.dtypes.StringDType())


def _nan(a: np.ndarray, b: np.ndarray) -> Any:
    return np.isnan(a) & np.isnan(b) if a.dtype.kind == "f" else False


def _check_accuracy(trajectory: Trajectory, stored: float) -> None:
    if trajectory.last < trajectory.steps:
        raise StoreError(
            f"{shown(trajectory.group)}: the attribute 'accuracy' is that of the end of a run, and this one "
            f"has {trajectory.last} of {trajectory.steps} steps; something else has written it: record again"
        )
    end = trajectory.evaluated(trajectory.steps)
    mine = trajectory.workload_at(trajectory.steps).judge(end.theta).value
    count = trajectory.workload.n_test
    if not abs(mine - stored) < 0.5 / count and not (np.isnan(mine) and np.isnan(stored)):
        raise StoreError(
            f"{shown(trajectory.group)}: the attribute 'accuracy' is {stored:.6g}, and the last state has "
            f"{mine:.6g}; something else has written it: record again"
        )


class Losses:
    """Compares the losses of steps that are trained again with those that are stored.

    `exact`: on the CPU that trained them they are the same but for rounding. Otherwise to 1 %, and under
    autocast to 5 %, as far as a run is replayed at all.
    """

    def __init__(self, trajectory: Trajectory, exact: bool) -> None:
        self._trajectory, self._exact, self.steps = trajectory, exact, 0
        rounds = trajectory.step.source.rounds
        self._first, self._rows = -1, np.zeros((0, 0))  # a block of stored losses
        self._tolerance = (1e-5, 1e-7) if exact else (5e-2, 5e-3) if rounds else (1e-2, 1e-4)

    def compare(self, t: int, losses: Tensor) -> None:
        """Errors: `StoreError` that names the step, the example and both losses."""
        stored, batch = self._stored(t), self._trajectory.plan.indices[t].numpy()
        mine, there = losses.detach().cpu().double().numpy(), batch >= 0
        taped = "tape" in self._trajectory.attrs
        near = np.isclose(mine, stored, *self._tolerance) | (np.isnan(stored) & (taped | ~there))
        if not near[there].all():
            slot = int(np.flatnonzero(there & ~near)[0])
            raise StoreError(
                f"{shown(self._trajectory.group)}: the array 'loss' has {stored[slot]:.6g} in step {t}, "
                f"column {slot} (example {batch[slot]}), and trained again it is {mine[slot]:.6g}; something "
                "else has written it, or the loss is another: record again"
            )
        self.steps += bool(np.isfinite(stored[there]).any())

    def _stored(self, t: int) -> np.ndarray:
        first = t // _STEPS * _STEPS
        if first != self._first:
            rows = slice(first, min(first + _STEPS, self._trajectory.last))
            self._first, self._rows = first, read(self._trajectory.group, "loss", rows)
        return self._rows[t - first].astype(np.float64)

    def __str__(self) -> str:
        how = "" if self._exact else f" to {100 * self._tolerance[0]:g} %"
        return f"losses of {self.steps} steps{how}"
