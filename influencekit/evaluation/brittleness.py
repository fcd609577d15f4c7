"""Brittleness: what the removal of the k most helpful, or most harmful, examples really does."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from influencekit._arguments import check_seed, whole_number
from influencekit._direction import better_of, ends, most, written
from influencekit._effects.retrain import Strategy, Weighting, changes, check_finite
from influencekit._effects.selection import crossfitted, extremes, shrunk
from influencekit._labelled import dataset_of
from influencekit._statistics import Statistic, format_percent, over_seeds, several_seeds
from influencekit._training.batch import select
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.moved_runs import check_runs, moved_scores
from influencekit._verbs.results import intercept_of
from influencekit.evaluation.retraining import draw_seed, random_sets, sizes
from influencekit.evaluation.scoring import require_estimators
from influencekit.interfaces import Estimator, Evaluation, Query, Table
from influencekit.plot.style import line_look, mean_over, new_figure
from influencekit.progress import track
from influencekit.queries import Prediction, TestLosses
from influencekit.windows import Window

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Brittleness"]

_SUMS = {  # a sum of scores: what its rows in the table begin with
    "predicted": "sum of scores, ",
    "predicted_crossfit": "sum on other runs, ",
    "predicted_shrunk": "sum shrunk, ",
}


@dataclass(frozen=True)
class Brittleness(Evaluation):
    """Brittleness: what does the removal of the k most helpful, or most harmful, examples really do?

    For a loss the most helpful have the highest scores, for a margin the lowest (`Query.better`). Where
    neither way of the query is better, the coordinate `removed` is "raises" (without them it should be
    larger) and "lowers" in place of helpful and harmful.

    `effect` [estimator, removed, query, window, k]: q without them, retrained, minus q; `predicted`: the sum
    of their scores, and the intercept of scores for sets (`dit:centre=A`). Every query has its own k
    examples; of more than `queries` of them so many are drawn.
    The control: `control` [draw, query, window, k], k random examples, `draws` times. Of two estimators the
    one with the stronger effects (of a loss, larger ones of `helpful` and more negative ones of `harmful`)
    has found the examples that matter; no ground truth of single examples takes part.

    Where a query is about one test example (test-losses, prediction), also `flips` [estimator, removed,
    window, k] and `control_flips` [window, k]: the fraction of the queries whose example the model then
    classifies otherwise (one logit: above 0; several: the largest).

    With `runs` of 3 or more, `predicted` has company, as in `remove`: `predicted_crossfit`, the sum on runs
    whose start is `moved` and that did not choose, with its interval `predicted_low`, `predicted_high`, and
    `predicted_shrunk`. Cost: runs - 1 trainings, and the estimators on each.

    `k` is 1, 4, 16, ... up to a quarter of the examples unless you say. Cost: 2 k queries training runs an
    estimator (equal sets once), k draws for the control, divided by what batching gains. Source: Ilyas et
    al. 2022, section 4.2; Park et al. 2023.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.evaluation import Brittleness
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> (found,) = ik.evaluate(run, Brittleness(k=(1, 4))).values()
        >>> found.effect.dims, found.removed.values.tolist()
        (('estimator', 'removed', 'query', 'window', 'k'), ['helpful', 'harmful'])
    """

    k: tuple[int, ...] | None = None
    draws: int = 8
    queries: int = 16
    seed: int = 0
    strategy: Strategy = "auto"
    runs: int | None = None
    moved: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        check_runs(self.runs, self.moved)
        whole_number("draws", self.draws, 1)
        whole_number("queries", self.queries, 1)
        check_seed("seed", self.seed)

    def check(self, workload: Workload, estimators: Mapping[str, Estimator]) -> None:
        sizes(workload.n_train, self.k)
        if self.runs:
            require_estimators(estimators)

    def run(
        self, trajectory: Trajectory, query: Query, scores: xr.Dataset, estimators: Mapping[str, Estimator],
        windows: Sequence[Window], folder: Path | None = None,
    ) -> xr.Dataset:  # fmt: skip
        workload, draws, seed = trajectory.workload, self.draws, draw_seed(trajectory, self.seed)
        ks = sizes(workload.n_train, self.k)
        better = better_of(query)
        removed = ends(better)[::-1]  # helpful, harmful
        labels, generator = list(query.labels(workload)), np.random.default_rng(seed)
        some = np.sort(generator.permutation(len(labels))[: self.queries])
        watched = _Watched(query, tuple(some.tolist()), _examples(query, some))
        random = random_sets(workload.n_train, list(ks) * draws, (*seed, 1))
        influence = scores.influence.values[:, some].astype(np.float64)
        intercept = intercept_of(scores).values[:, some].astype(np.float64)
        shape = (len(influence), len(removed), len(some), len(windows), len(ks))
        found, predicted = np.zeros(shape), np.zeros(shape)
        control = np.zeros((draws, len(some), len(windows), len(ks)))
        flips = np.zeros((len(some), *shape[:2], *shape[3:])), np.zeros((len(some), draws, *shape[3:]))
        for w, window in enumerate(track(windows, "windows", len(windows))):
            ordered = influence[:, :, w].argsort(-1, kind="stable")
            masks = np.zeros((*shape[:3], len(ks), workload.n_train), dtype=bool)
            for j, size in enumerate(ks):
                for r, (_, sign) in enumerate(removed):
                    np.put_along_axis(masks[:, r, :, j], ordered[..., ::-sign][..., :size], True, axis=-1)
            sums = (masks * influence[:, None, :, w, None]).sum(-1)
            predicted[..., w, :] = sums + intercept[:, None, :, w, None]
            sets, place = np.unique(
                np.concatenate([masks.reshape(-1, workload.n_train), random]), axis=0, return_inverse=True
            )
            change, flip = _effects(trajectory, watched, sets, window, self.strategy)
            place = place.reshape(-1)
            own, rest = (
                place[: -len(random)].reshape(masks.shape[:-1]),
                place[-len(random) :].reshape(draws, -1),
            )
            for q in range(len(some)):
                found[:, :, q, w] = change[q, own[:, :, q]]
                control[:, q, w] = change[q, rest]
                if watched.examples:
                    flips[0][q, ..., w, :], flips[1][q, ..., w, :] = flip[q, own[:, :, q]], flip[q, rest]
        dims = ("estimator", "removed", "query", "window", "k")
        said: dict[str, Any] = {
            "effect": (dims, found),
            "predicted": (dims, predicted),
            "control": (("draw", "query", "window", "k"), control),
        }
        if self.runs:
            others = moved_scores(trajectory, query, estimators, windows, self.runs, self.moved)
            here = scores.influence.values, intercept_of(scores).values
            every, start = (
                np.concatenate([a[None], b])[:, :, some] for a, b in zip(here, others, strict=True)
            )
            said |= {n: (dims, values) for n, values in _sums_on_others(every, start, ks, removed).items()}
        if watched.examples:
            said["flips"] = ("estimator", "removed", "window", "k"), flips[0].mean(0)
            said["control_flips"] = ("window", "k"), flips[1].mean((0, 1))
        return xr.Dataset(
            said,
            coords={
                **scores.isel(query=some).drop_vars("train").coords,
                "removed": [word for word, _ in removed],
                "k": list(ks),
            },
            attrs={
                "draws": draws,
                "seed": self.seed,
                "queries": len(some),
                **written(better),
                **({"runs": self.runs, "moved": self.moved} if self.runs else {}),
            },
        )

    def figures(self, result: xr.Dataset) -> dict[str, Any]:
        """By k: the effect of either end, and the flips, of each estimator; `control`: of random examples."""
        result = _own(result)
        flips, found = "flips" in result, dict[str, Any]()
        for name in result.estimator.values.tolist():
            one, row = result.sel(estimator=name), dict[str, Any]()
            for removed in one.removed.values.tolist():
                row[removed] = over_seeds(one.effect.sel(removed=removed))
                if flips:
                    row[f"{removed}_flips"] = over_seeds(one.flips.sel(removed=removed))
                for of in _SUMS if "runs" in result.attrs else ():
                    row[f"{removed}_{of}"] = over_seeds(one[of].sel(removed=removed))
            found[name] = row
        control = {"effect": over_seeds(result.control)}
        if flips:
            control["flips"] = over_seeds(result.control_flips)
        return {"k": result.k.values.tolist(), "estimators": found, "control": control}

    def table(self, result: xr.Dataset) -> Table:
        found, several = self.figures(result), several_seeds(result)
        kinds: list[tuple[str, str, str, Callable[[Statistic, bool], str]]] = [
            ("", "", "effect", _format_effect), ("flipped, ", "_flips", "flips", format_percent)
        ]  # fmt: skip
        rows: dict[tuple[str, str], list[Any]] = {}
        for of, word in _SUMS.items() if "runs" in result.attrs else ():
            for removed in result.removed.values.tolist():
                for name, row in found["estimators"].items():
                    cells = [_format_effect(value, several) for value in row[f"{removed}_{of}"]]
                    rows[word + most(removed), name] = cells
        for word, end, key, text in kinds[: len(found["control"])]:
            for removed in result.removed.values.tolist():
                for name, row in found["estimators"].items():
                    rows[word + most(removed), name] = [text(value, several) for value in row[removed + end]]
            control = [text(value, several) for value in found["control"][key]]
            rows[word + "random", f"mean of {result.attrs['draws']}"] = control
        title = "Brittleness: the effect on the query of retraining without k examples"
        return Table.of(title, [f"k = {k}" for k in found["k"]], rows, ["removed", "chosen by"])

    def plot(self, result: xr.Dataset) -> Figure:
        """The retrained effect on the query of removing the k at either end of the ranking, by k.

        The panels are titled by the coordinate `removed`. A line an estimator, the mean over seeds, queries
        and windows; grey: random examples, the mean and the range of the draws. Where there are flipped
        predictions, further panels show their fraction. k is on a logarithmic axis.
        """
        names, k = _own(result).estimator.values.tolist(), result.k.values
        ends = [str(word) for word in result.removed.values]
        flips = [word for word in ends if word != "harmful"] if "flips" in result else []
        figure = new_figure(4.2 * (2 + len(flips)) + 0.4, 4.0)
        axes = list(figure.subplots(1, 2 + len(flips), squeeze=False).ravel())
        control = mean_over(result.control, ("draw", "k"))
        for ax, removed in zip(axes, ends, strict=False):
            for j, name in enumerate(names):
                curve = mean_over(result.effect.sel(estimator=name, removed=removed), ("k",))
                ax.plot(k, curve, label=name, **line_look(j, len(names)))
            ax.plot(k, control.mean(0), color="0.5", linewidth=1, label="random")
            ax.fill_between(k, control.min(0), control.max(0), color="0.5", alpha=0.2, linewidth=0)
            ax.axhline(0, color="0.85", linewidth=0.8, zorder=0)
            ax.set(title=_without(removed), xlabel="k", ylabel="effect on the query, retrained")
            ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
        for ax, removed in zip(axes[2:], flips, strict=True):
            for j, name in enumerate(names):
                curve = mean_over(result.flips.sel(estimator=name, removed=removed), ("k",))
                ax.plot(k, 100 * curve, **line_look(j, len(names)))
            ax.plot(k, 100 * mean_over(result.control_flips, ("k",)), color="0.5", linewidth=1)
            ax.set(title=_without(removed), xlabel="k", ylabel="predictions flipped, %")
            ax.set_ylim(bottom=0)
        for ax in axes:
            ax.set_xscale("log")
            ax.set_xticks(k, [str(each) for each in k])
            ax.minorticks_off()
        axes[0].legend(frameon=False)
        return figure


def _own(result: Any) -> xr.Dataset:
    """The result itself. Errors: not that of this evaluation."""
    names, dims = ("effect", "control", "removed", "k", "estimator"), ("estimator", "removed", "k", "draw")
    return dataset_of("brittleness", "a result of brittleness", result, names, ("draws",), dims)


def _sums_on_others(
    scores: np.ndarray, intercept: np.ndarray, ks: Sequence[int], removed: Sequence[tuple[str, int]]
) -> dict[str, np.ndarray]:
    """Sums [estimator, removed, query, window, k] of scores [run, estimator, query, window, train] and their
    intercept [run, estimator, query, window]: on runs other than the one that chose, and shrunk."""
    names = ("predicted_crossfit", "predicted_low", "predicted_high", "predicted_shrunk")
    shape = (scores.shape[1], len(removed), *scores.shape[2:4], len(ks))
    found = {name: np.zeros(shape) for name in names}
    for r, (_, side) in enumerate(removed):
        for j, k in enumerate(ks):
            masks = extremes(scores, k, side).astype(np.float64)
            on_others = crossfitted(np.einsum("aeqwt,beqwt->abeqw", masks, scores) + intercept)
            values = (*on_others[:3], shrunk(scores, masks[0]) + intercept.mean(0))
            for name, value in zip(names, values, strict=True):
                found[name][:, r, ..., j] = value
    return found


def _without(removed: str) -> str:
    title = most(removed)
    return f"without the k {title}" if title.startswith("most") else f"without k whose {title}"


def _format_effect(value: Statistic, deviation: bool) -> str:
    """Three figures and the sign; `-` where there is none."""
    if math.isnan(value["mean"]):
        return "-"
    return f"{value['mean']:+.2e}" + (f" ± {value['std']:.0e}" if deviation else "")


@dataclass(frozen=True, eq=False)
class _Watched(Query):
    """Some values of a query, and after them the class that the model gives to some test examples."""

    query: Query
    some: tuple[int, ...]
    examples: tuple[int, ...]

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        return range(len(self.some) + len(self.examples))

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        return self.at(workload, theta)(theta)

    def at(self, workload: Workload, theta: Tensor) -> Any:
        asked = self.query.at(workload, theta)

        def values(x: Tensor) -> Tensor:
            own = asked(x)
            own = own[torch.tensor(self.some, device=own.device)]
            if not self.examples:
                return own
            batch = select(workload.test, torch.tensor(self.examples, device=own.device))
            outputs = workload.outputs(x, batch).reshape(len(self.examples), -1)
            chosen = outputs.argmax(-1) if outputs.shape[1] > 1 else outputs[:, 0] > 0
            return torch.cat([own, chosen.to(own)])

        return values


def _examples(query: Query, some: np.ndarray) -> tuple[int, ...]:
    """The test example that each of these values of the query is about; none where there is no such thing."""
    if isinstance(query, TestLosses):
        return tuple(some.tolist())
    return (query.example,) if isinstance(query, Prediction) else ()


def _effects(
    trajectory: Trajectory, watched: _Watched, sets: np.ndarray, window: Window, strategy: Strategy
) -> tuple[np.ndarray, np.ndarray]:
    """The window's effect [query, set] of leaving out each set [set, train], and which classes it changes."""
    weightings = [Weighting(torch.from_numpy(mask.nonzero()[0])) for mask in sets]
    effect = torch.zeros(len(watched.some), len(sets), dtype=torch.float64)
    flips = torch.zeros(len(watched.examples), len(sets), dtype=torch.bool)
    last = max(window.evaluations(trajectory.steps))
    for models, values, signs in changes(trajectory, watched, weightings, [window], strategy):
        own, classes = values.double().cpu().split([len(effect), len(flips)])
        effect[:, models.members] += signs[0] * own
        if models.state == last:
            flips[:, models.members] = classes != 0
    check_finite(effect, weightings)
    return effect.numpy(), flips.numpy()
