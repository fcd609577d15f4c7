"""The nouns that plugins implement: Recorder, Query, Estimator, Evaluation and Average."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from influencekit._arguments import check_options
from influencekit._average import Average
from influencekit._direction import Better
from influencekit._docstring import first_line
from influencekit._statistics import format_statistic, of_estimators, several_seeds
from influencekit._table import Table
from influencekit._training.gradients import rows_of_jacobian
from influencekit._training.workload import Workload
from influencekit.errors import InputError
from influencekit.windows import Window

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from influencekit._trajectory.trajectory import Trajectory

__all__ = ["Average", "Claim", "Contributions", "Estimator", "Evaluation", "Query", "Recorder", "Table"]


class Claim(StrEnum):
    """What an estimator says of itself; the conformance suite tests every claim that is made.

    EXACT: equals retraining. FIRST_ORDER: the derivative with respect to example weights (Taylor slope 2).
    LINEAR: linear in the query. LOCAL: 0 for an example that no batch holds. WINDOWED: takes any window
    under the three removals; without it an estimator takes only the whole run under global removal.
    ADDITIVE: a sum over occurrences, which `contributions` gives one by one. AVERAGED: takes queries at an
    average of states, or at a state before the last: at what `Trajectory.evaluated(steps)` gives. PARTS: also
    takes a run whose examples are the parts of examples, such as tokens; it must not ask for their data.

    Example:

        >>> import influencekit as ik
        >>> ik.Claim.EXACT in ik.make("estimator", "loo").claims
        True
    """

    EXACT = "exact"
    FIRST_ORDER = "first-order"
    LINEAR = "linear"
    LOCAL = "local"
    WINDOWED = "windowed"
    ADDITIVE = "additive"
    AVERAGED = "averaged"
    PARTS = "parts"


class Contributions(NamedTuple):
    """What the slots of consecutive steps add to the effects on queries: C, as `Estimator.contributions`
    yields it.

    `values` [step, column, slot] of the steps in `steps`; column k is of the evaluation number of[k] and the
    query number query[k]. Sign: removal minus full. Steps after an evaluation, and padded slots, add 0.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> part = next(ik.make("estimator", "dit").contributions(run, ik.make("query", "test-loss"), [2]))
        >>> part.steps, part.of, part.query, part.values.shape
        (slice(0, 2, None), [0], [0], torch.Size([2, 1, 64]))
    """

    steps: slice
    of: list[int]
    query: list[int]
    values: Tensor


class Query(ABC):
    """A number of the model, or several, whose change is asked for.

    Leave-one-out uses the values, first-order methods their gradient, so they cannot disagree.

    Class attribute `better`: which way of the values is the better one, "lower" for a loss, "higher" for a
    margin, None (the default) where neither is. It decides which examples are called harmful: those without
    which the values would be better. Without it, removal "raises" or "lowers" the query and harms nobody. A
    class whose options decide may make it a property.

    Example:

        >>> import influencekit as ik
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class SquaredNorm(ik.Query):
        ...     def labels(self, workload):
        ...         return ["squared norm"]
        ...     def evaluate(self, workload, theta):
        ...         return (theta @ theta)[None]
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> ik.estimate(run, SquaredNorm()).influence.shape
        (1, 1, 24)
    """

    better: ClassVar[Better | None] = None

    __post_init__ = check_options  # of subclasses that are dataclasses: their options are what they say

    @abstractmethod
    def labels(self, workload: Workload) -> Sequence[Hashable]:
        """One label for every value, all different; bad options of the query are reported here."""

    @abstractmethod
    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        """The values [query] at parameters theta [param]: pure, differentiable, vmap-able."""

    def at(self, workload: Workload, theta: Tensor) -> Callable[[Tensor], Tensor]:
        """The query as a function of parameters alone; `theta` [param] is a state of the recorded run.

        Override it for a query that is defined by the recorded run, such as the change along a direction
        computed at `theta`. The returned function is then read at parameters of other runs, too.
        """
        return partial(self.evaluate, workload)

    def gradient(self, workload: Workload, theta: Tensor) -> Tensor:
        """The gradients [query, param] of `at(workload, theta)` at theta."""
        return rows_of_jacobian(self.at(workload, theta), theta)


class Estimator(ABC):
    """A method that gives every training example a score for every query and window.

    Example:

        >>> import influencekit as ik
        >>> import torch
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Chance(ik.Estimator):
        ...     @property
        ...     def claims(self):
        ...         return frozenset({ik.Claim.WINDOWED})
        ...     def scores(self, trajectory, query, windows):
        ...         n = len(query.labels(trajectory.workload))
        ...         generator = torch.Generator().manual_seed(0)
        ...         return torch.rand(n, len(windows), trajectory.workload.n_train, generator=generator)
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> ik.estimate(run, estimator=Chance()).influence.shape
        (1, 1, 24)
    """

    __post_init__ = check_options  # of subclasses that are dataclasses: their options are what they say

    @property
    @abstractmethod
    def claims(self) -> frozenset[Claim]:
        """What this estimator, with these options, says of itself."""

    @abstractmethod
    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        """Effects [query, window, train]: value of the query without the example minus with it.

        `estimate` calls it with checked windows. NaN means that the user asked to leave the example out
        (`loo:examples=32`). For a number that cannot be computed, raise `InputError`.
        """

    def scores_and_errors(
        self, trajectory: Trajectory, query: Query, windows: Sequence[Window]
    ) -> tuple[Tensor, Tensor | None]:
        """`scores`, and their standard errors, which those of means over runs have; `estimate` calls it."""
        return self.scores(trajectory, query, windows), None

    def contributions(
        self, trajectory: Trajectory, query: Query, states: Sequence[int]
    ) -> Iterator[Contributions]:
        """What every occurrence from step 0 on adds to q's effect at each of `states`, for `contributions`.

        Whoever claims ADDITIVE overrides it.
        """
        raise NotImplementedError(f"{type(self).__name__}.contributions")

    def intercept(
        self, trajectory: Trajectory, query: Query, windows: Sequence[Window], scores: Tensor
    ) -> Tensor | None:
        """What is added to a sum of `scores` before it is the effect of leaving a set out: [query, window].

            q without the set - q  ~  intercept + sum of the scores over the set

        None = nothing, for scores that are a derivative at the run itself. `estimate` calls it with what
        `scores` has just returned, and carries it as `intercept`; whoever sums scores adds it.
        """
        return None

    def caution(self, trajectory: Trajectory) -> str:
        """One line that results must carry beside the run's own, such as what the scores are not for."""
        return ""

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        """What the result should say of the computation (curvature, damping, ...); goes into its attrs."""
        return {}


class Recorder(ABC):
    """Which states of a run are stored; what lies between is replayed, bit for bit on the CPU.

    Class attributes: `lossless`, whether stored states come back with the bits they were given (else
    `quantize` says what becomes of them); `open_ended`, whether a run of unknown length can be recorded.

    Example:

        >>> import influencekit as ik
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Ends(ik.Recorder):
        ...     def stored_states(self, start, stop):
        ...         return [start, stop]
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=4"), Ends())
        >>> run.stored_states
        [0, 4]
    """

    lossless: ClassVar[bool] = True
    open_ended: ClassVar[bool] = True

    __post_init__ = check_options  # of subclasses that are dataclasses: their options are what they say

    @abstractmethod
    def stored_states(self, start: int, stop: int) -> Sequence[int]:
        """The states to store of those numbered start ... stop (both included), ascending from `start`."""

    @property
    def max_states(self) -> int | None:
        """How many states a sweep may hold, those included that are stored and that it has not come to yet.

        None: those in memory as far as memory allows, and any number of stored ones.
        """
        return None

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """What is stored of the values [param] of a state, shape and dtype unchanged; twice changes nothing.

        The first and the last state of a run are stored exactly, whatever the recorder.
        """
        return values


class Evaluation(ABC):
    """One way to say what scores are worth: mostly by retraining, always of several estimators side by side.

    Subclasses are frozen dataclasses; their fields are the options, all with defaults. `evaluate` calls
    `check`, `refuses` and `run`; results of several seeds are joined along `seed`. What is shown of a result
    depends on the result alone, so that a saved one can be shown again.

    Class attribute `folder_options`: the options that decide which models `run` retrains. `run` may store
    these models in its argument `folder`, whose name has these options. With no `folder_options`, `folder` is
    None.

    Example:

        >>> import influencekit as ik
        >>> import numpy as np
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Largest(ik.Evaluation):
        ...     '''Largest score: how large is the score of the example that matters most?'''
        ...     def run(self, trajectory, query, scores, estimators, windows, folder=None):
        ...         size = np.abs(scores[["influence"]]).max("train")
        ...         return size.rename(influence="largest")
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> (found,) = ik.evaluate(run, Largest(), estimators=["dit", "if"]).values()
        >>> list(Largest().table(found).rows.index)
        ['dit', 'if']
    """

    folder_options: ClassVar[tuple[str, ...]] = ()

    __post_init__ = check_options  # of subclasses that are dataclasses: their options are what they say

    def check(self, workload: Workload, estimators: Mapping[str, Estimator]) -> None:
        """Find mistakes in the options before anything is trained.

        `estimators` {label: estimator} is empty if `evaluate` was given scores instead of estimators.
        Errors: `InputError` for options that do not fit the data, or estimators of which it can take none.
        """
        refused = {name: why for name, method in estimators.items() if (why := self.refuses(method))}
        if refused and len(refused) == len(estimators):
            name, why = next(iter(refused.items()))
            raise InputError(f"{type(self).__name__}: {name} {why}; nothing is left")

    def refuses(self, estimator: Estimator) -> str:
        """Why this estimator is left out, in words such as "does not claim first order"; "" = it is not."""
        return ""

    @abstractmethod
    def run(
        self,
        trajectory: Trajectory,
        query: Query,
        scores: xr.Dataset,
        estimators: Mapping[str, Estimator],
        windows: Sequence[Window],
        folder: Path | None = None,
    ) -> xr.Dataset:
        """The result for one run: variables with the dimension `estimator` of `scores`, labelled.

        `scores` has `influence` [estimator, query, window, train] of this run, no number missing, with the
        run's own labels, and `intercept` [estimator, query, window], which is added to a sum of them (0 for
        most); `estimators` are those that made them, by label, for whoever must score another run. Everything
        random is drawn from a seed among the options and the workload's seed.
        """

    def figures(self, result: xr.Dataset) -> dict[str, Any]:
        """The plain numbers of a result [seed, ...]: `{"estimators": {NAME: {figure: {"mean", "std"}}}}`.

        Mean and deviation (divided by n) are over seeds, of the mean over queries and windows. By default
        every numeric variable with the dimension `estimator` is a figure, sorted by name; one with a
        dimension of its own is a figure for each label ("precision k=2"), up to 12, or left out; if all have
        more labels, the mean over them. Override it to choose the figures, or to add some of no estimator.
        """
        return {"estimators": of_estimators(result)}

    def table(self, result: xr.Dataset) -> Table:
        """The figures as a table: a row for every estimator, deviations where there are several seeds."""
        several = several_seeds(result)
        found = self.figures(result)["estimators"]
        rows = {n: [format_statistic(value, several) for value in row.values()] for n, row in found.items()}
        title = first_line(type(self)) or type(self).__name__
        return Table.of(title, list(next(iter(found.values()))), rows)

    def plot(self, result: xr.Dataset) -> Figure | None:
        """A new figure, or None where there is nothing to draw."""
        return None
