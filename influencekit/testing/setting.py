"""What the laws of estimators are tested on: the tiny run with every optimizer, its windows and queries."""

from collections.abc import Iterator
from functools import cache

from torch import Tensor

from influencekit._training.optimizer import Group
from influencekit._training.optimizers import SGD, Adam, AdamW
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.record import record
from influencekit.errors import InputError
from influencekit.interfaces import Claim, Estimator, Query
from influencekit.registry import make
from influencekit.testing.oracle import tiny_workload
from influencekit.windows import Window

__all__ = [
    "ASK",
    "OPTIMIZERS",
    "TOLERANCE",
    "accepted",
    "accepts",
    "agree",
    "queries",
    "recorded",
    "windows_of",
]

# clip_norm is below the gradient norms met, so clipping is active; a large eps keeps Adam smooth
OPTIMIZERS = {
    "sgd": SGD(lr=0.3),
    "sgd with momentum": SGD(lr=0.2, momentum=0.8, dampening=0.3, weight_decay=0.05, clip_norm=0.15),
    "sgd with Nesterov momentum": SGD(
        lr=0.1, momentum=0.7, nesterov=True, groups=(Group(("last.*",), {"lr": 0.3, "weight_decay": 0.1}),)
    ),
    "adam": Adam(lr=0.05, eps=0.01, weight_decay=0.05),
    "adamw": AdamW(lr=0.05, eps=0.01, weight_decay=0.1, clip_norm=0.15),
}
"""The optimizers that the laws of estimators are tested with, by name."""
TOLERANCE = 1e-10  # of the largest score: rounding is about 1e-15, wrong formulas are off by 1e-3 or more
ASK = (
    "ask workload.examples(rows), .target(batch), .outputs(theta, batch) and .losses(theta, batch) for what "
    "a batch holds"
)


@cache
def recorded(optimizer: str, recorder: str = "full") -> Trajectory:
    """`tiny_workload` trained with one of `OPTIMIZERS`, by name, and recorded.

    Recorded once a process; recordings of one run share the traced step.

    Example:

        >>> from influencekit.testing import recorded
        >>> recorded("adam").steps
        6
    """
    if recorder == "full":
        return record(tiny_workload(OPTIMIZERS[optimizer]), recorder)
    whole = recorded(optimizer)
    return Trajectory(record(whole.workload, recorder).group, whole.workload, whole.step)


def windows_of(estimator: Estimator, steps: int) -> list[Window]:
    """Windows an estimator must take: the whole run, and if it claims WINDOWED, all meanings of removal."""
    whole = Window(0, steps)
    if Claim.WINDOWED not in estimator.claims:
        return [whole]
    return [
        whole,
        Window(2, 5, "global"),
        Window(2, 5, "window"),
        Window(3, 4, "occurrence"),
        Window(0, 3, "window"),
    ]


def accepted(estimator: Estimator) -> Iterator[tuple[str, Trajectory]]:
    """The recorded runs whose optimizers the estimator does not refuse."""
    try:
        hash(estimator)
    except TypeError as reason:
        raise AssertionError(f"configuration is hashable: {type(estimator).__name__}: {reason}") from reason
    for name in OPTIMIZERS:
        if accepts(estimator, name):
            yield name, recorded(name)


@cache
def accepts(estimator: Estimator, name: str) -> bool:
    trajectory = recorded(name)
    workload, windows = trajectory.workload, windows_of(estimator, trajectory.steps)
    try:
        scores = estimator.scores(trajectory, queries(), windows)
    except InputError:
        if name == "sgd":
            raise
        return False
    shape = (workload.n_test, len(windows), workload.n_train)
    if not isinstance(scores, Tensor) or scores.shape != shape or scores.dtype != workload.dtype:
        came = f"{scores.dtype} {list(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise AssertionError(
            f"labelled: {name}: scores must be a tensor [query, window, train] = {list(shape)} of "
            f"{workload.dtype}, got {came}"
        )
    return True


def queries() -> Query:
    """The query that the laws take where several values are wanted: the loss of each test example."""
    return make("query", "test-losses")


def agree(law: str, found: Tensor, expected: Tensor, tolerance: float, where: str) -> None:
    """The largest error, relative to the largest expected value; what was left out does not count."""
    if found.shape != expected.shape:
        raise AssertionError(f"{law}: {where}: shape {list(found.shape)}, expected {list(expected.shape)}")
    known = ~(found.isnan() | expected.isnan())
    if found.isnan().all():
        raise AssertionError(f"{law}: {where}: no score is a number")
    if not known.any():
        return
    error = (found - expected)[known].abs().max().item()
    scale = max(expected[known].abs().max().item(), 1e-30)
    if not error <= tolerance * scale:
        raise AssertionError(
            f"{law}: {where}: off by {error / scale:.2e} of the largest score, allowed {tolerance:.0e}"
        )
