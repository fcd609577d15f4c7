"""Queries and estimators of the user's own, held to what they say before and after they are asked."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from influencekit._arguments import short
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InfluenceKitError, InputError
from influencekit.interfaces import Estimator, Query
from influencekit.registry import label
from influencekit.windows import Window

__all__ = ["labels_of", "require_claims", "scores_of"]


def labels_of(trajectory: Trajectory, query: Query) -> list[Hashable]:
    """The query's labels. Errors: none, two alike, or other values than one a label.

    A query that is not of this package is evaluated once to see that, at the end of the run.
    """
    with _naming(query, "labels"):
        labels = query.labels(trajectory.workload)
        found = list(labels) if isinstance(labels, Sequence) and not isinstance(labels, str | bytes) else []
        if not found or len(set(found)) != len(found) or any(each is None for each in found):
            raise InputError(
                f"{label(query)}.labels: expected different names in a list, got {short(labels)}"
            )
    if not type(query).__module__.startswith("influencekit."):
        _check_values(trajectory, query, len(found))
    return found


def _check_values(trajectory: Trajectory, query: Query, count: int) -> None:
    last = trajectory.last
    theta, workload = trajectory.evaluated(last).theta, trajectory.workload_at(last)
    with _naming(query, "evaluate"), torch.no_grad():
        values: Any = query.at(workload, theta)(theta)
    if not isinstance(values, Tensor) or values.shape != (count,) or not values.is_floating_point():
        came = f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else short(values)
        raise InputError(
            f"{label(query)}.evaluate: expected one real number a label, shape [{count}], got {came}"
        )


def scores_of(
    trajectory: Trajectory, query: Query, estimator: Estimator, windows: Sequence[Window], labels: int
) -> tuple[Tensor, Tensor | None]:
    """The estimator's scores [query, window, train], and standard errors if it has some. Errors: another
    shape, or no real numbers."""
    if type(estimator).__module__.startswith("influencekit."):
        found, errors = estimator.scores_and_errors(trajectory, query, windows)
    else:
        with _naming(estimator, "scores"):
            found, errors = estimator.scores_and_errors(trajectory, query, windows)
    shape = (labels, len(windows), trajectory.workload.n_train)
    if not isinstance(found, Tensor) or found.shape != shape or found.is_complex():
        came = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else short(found)
        raise InputError(
            f"{label(estimator)}: expected scores [query, window, train] = {list(shape)}, got {came}"
        )
    return found.detach(), errors


def require_claims(estimator: Estimator) -> None:
    """Errors: claims that are no set."""
    if not isinstance(estimator.claims, Set):
        raise InputError(f"{label(estimator)}.claims: expected a set of Claim, got {short(estimator.claims)}")


@contextmanager
def _naming(thing: Query | Estimator, what: str) -> Iterator[None]:
    """An error of the user's own code is one line that names it; the error itself is its cause."""
    try:
        yield
    except InfluenceKitError:
        raise
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:120]
        raise InputError(f"{label(thing)}.{what} fails ({type(error).__name__}: {line})") from error
