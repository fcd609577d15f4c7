"""Query loss difference: how much worse the query becomes without the most helpful examples than without as
many random ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from influencekit._arguments import check_seed, whole_number
from influencekit._direction import Better, Which, better_of, ends, most, written
from influencekit._effects.retrain import Strategy
from influencekit._labelled import dataset_of
from influencekit._statistics import statistic
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InputError
from influencekit.evaluation.bootstrap import check_interval
from influencekit.evaluation.qld_parts import LeftOut, examples_left_out, parts_left_out
from influencekit.evaluation.retraining import draw_seed, set_effects
from influencekit.interfaces import Claim, Estimator, Evaluation, Query, Table
from influencekit.plot.style import line_look, new_figure
from influencekit.progress import track
from influencekit.queries import TestLoss, TestLosses
from influencekit.windows import Window

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["QLD"]

_NAMES = ("qld", "rise", "control", "bootstrap", "control_bootstrap")


@dataclass(frozen=True)
class QLD(Evaluation):
    """Query loss difference: how much worse is the query without the top examples than without random ones?

        QLD = rise(without the most helpful) - mean over draws of rise(without as many random examples)

    `rise` is q retrained minus q in the direction that is worse: as it is for a loss, negated for a margin
    (`Query.better`). Where neither way is better, those are left out whose removal should raise the query.
    Large is good, 0 = no better than chance, below 0 = the examples that matter were not found.

    Of every estimator the most helpful `fraction` of the examples, rounded to k whole ones (one at least),
    for every query its own; fractions that come to the same k are one, the nearest to k. Of more than
    `queries` queries so many are drawn. The random sets are the same for all, `draws` of each size,
    drawn with `seed`, others for every seed of a workload.

    `parts`: left out are parts of examples, such as tokens, where the loss tells them apart (`ik.Parts`), and
    for comparison about as many parts in whole examples, by their score a part; each beside random ones of
    its kind. Everything has a dimension `unit`: "part", "example". The fraction is one of all parts.

    Result: `rise` and `qld` [estimator, query, window, fraction], `control` [draw, query, window, fraction],
    the rise without random examples; `k`, how many examples were left out for a fraction. `bootstrap`
    [resample, estimator, window, fraction] and `control_bootstrap` are resamples of the mean of `qld` and
    `control` over queries: of the draws and, independently, of the test examples (of `test-loss`) or the
    queries. `figures` and `table` have their interval at `level`. It is for this trained model: seeds of the
    workload show what training adds.

    Cost: a retraining for each estimator, query and fraction, and draws for each fraction, divided by what
    batching gains. With a folder the retrained models are kept, those of each choice by themselves. Errors: a
    fraction outside of 0 to 1, or that rounds to all examples. Source: bergson's documentation (EleutherAI),
    2026.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.evaluation import QLD
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> (found,) = ik.evaluate(run, QLD(fraction=(0.1, 0.2), draws=5), estimators=["dit", "if"]).values()
        >>> found.qld.dims, found.k.values.tolist()
        (('estimator', 'query', 'window', 'fraction'), [2, 5])
    """

    folder_options: ClassVar[tuple[str, ...]] = ("fraction", "seed")

    fraction: tuple[float, ...] = (0.01, 0.05, 0.1)
    draws: int = 20
    queries: int = 16
    seed: int = 0
    resamples: int = 1000
    level: float = 0.95
    parts: bool = False
    strategy: Strategy = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("draws", self.draws, 2)
        whole_number("queries", self.queries, 1)
        check_seed("seed", self.seed)
        check_interval(self.resamples, self.level)

    def check(self, workload: Workload, estimators: Mapping[str, Estimator]) -> None:
        super().check(workload, estimators)
        self._sizes(workload.n_train)

    def refuses(self, estimator: Estimator) -> str:
        there = not self.parts or Claim.PARTS in estimator.claims
        return "" if there else "does not tell parts of an example apart"

    def run(
        self, trajectory: Trajectory, query: Query, scores: xr.Dataset, estimators: Mapping[str, Estimator],
        windows: Sequence[Window], folder: Path | None = None,
    ) -> xr.Dataset:  # fmt: skip
        if not self.parts:
            out = examples_left_out(trajectory, scores)
            return self._measured(trajectory, query, scores, windows, folder, out)
        found = parts_left_out(trajectory, query, scores, estimators, windows)
        places = [None if folder is None else folder / unit for unit in found]
        pairs = zip(found.values(), places, strict=True)
        each = [self._measured(trajectory, query, scores, windows, place, out) for out, place in pairs]
        return xr.concat(
            each, pd.Index(list(found), name="unit"), data_vars="all", coords="minimal", compat="override",
            combine_attrs="override",
        )  # fmt: skip

    def _measured(
        self, trajectory: Trajectory, query: Query, scores: xr.Dataset, windows: Sequence[Window],
        folder: Path | None, out: LeftOut,
    ) -> xr.Dataset:  # fmt: skip
        n, seed, better = out.total, draw_seed(trajectory, self.seed), better_of(query)
        sizes, (word, side) = self._sizes(n), _helpful(better)
        ks, fractions = list(sizes), list(sizes.values())
        some = np.sort(np.random.default_rng(seed).permutation(scores.sizes["query"])[: self.queries])
        # the mean test loss is that of its examples: each is a draw from where they came
        one = isinstance(query, TestLoss)
        watched: Query = TestLosses() if one else query
        random = out.random(ks * self.draws, (*seed, 1))
        influence = out.influence[:, some]
        shape = len(influence), len(some), len(windows), len(ks)
        rise, control = np.zeros(shape), np.zeros((self.draws, *shape[1:]))
        again = np.zeros((self.resamples, len(influence), *shape[2:]))
        control_again = np.zeros((self.resamples, *shape[2:]))
        for w, window in enumerate(track(windows, "windows", len(windows))):

            def worse(masks: np.ndarray, name: str, window: Window = window) -> np.ndarray:
                """[value, set]: how much worse the watched values are without each set."""
                at = f"{window.start}-{window.stop}-{window.removal}"
                kept = None if folder is None else folder / at / name
                drawn = {"fraction": fractions, "seed": list(seed), "sets": name}
                found = set_effects(out.run, watched, masks, [window], self.strategy, kept, drawn)
                return side * found[:, 0]

            by_chance = worse(random, "random").reshape(-1, self.draws, len(ks))
            by_chance = by_chance if one else by_chance[some]  # [unit, draw, k]
            units = _counts(len(by_chance), self.resamples, (*seed, 2))
            draws = _counts(self.draws, self.resamples, (*seed, 3))
            control[:, :, w] = by_chance.mean(0)[:, None] if one else by_chance.swapaxes(0, 1)
            control_again[:, w] = np.einsum("rd,rdk->rk", draws, np.tensordot(units, by_chance, 1))
            for e, row in enumerate(influence[:, :, w]):
                masks = np.stack([out.chosen(each, k, side) for each in row for k in ks])
                sets, which = np.unique(masks, axis=0, return_inverse=True)
                own = worse(sets, f"chosen-{_digest(sets)}")[:, which.reshape(-1)]
                own = own.reshape(len(own), len(some), len(ks))
                own = own[:, 0] if one else own[some, np.arange(len(some))]  # [unit, k]
                rise[e, :, w] = own.mean(0) if one else own
                again[:, e, w] = units @ own - control_again[:, w]
        dims = ("estimator", "query", "window", "fraction")
        return xr.Dataset(
            {
                "rise": (dims, rise),
                "qld": (dims, rise - control.mean(0)),
                "control": (("draw", *dims[1:]), control),
                "bootstrap": (("resample", "estimator", *dims[2:]), again),
                "control_bootstrap": (("resample", *dims[2:]), control_again),
            },
            coords={
                **scores.isel(query=some).drop_vars("train").coords,
                "fraction": fractions,
                "k": ("fraction", ks),
            },
            attrs={
                "draws": self.draws, "seed": self.seed, "resamples": self.resamples, "level": self.level,
                "removed": word, "examples": n, **written(better),
            },
        )  # fmt: skip

    def figures(self, result: xr.Dataset) -> dict[str, Any]:
        """By fraction, with `k`, how many examples that is: `qld` and `rise` of each estimator, and
        `control`, the rise without random examples, each with `low` and `high`: the interval of its mean over
        queries, windows and seeds."""
        result = _own(result)
        if "unit" in result.dims:
            units = {u: self.figures(result.sel(unit=u)) for u in result.unit.values.tolist()}
            first = next(iter(units.values()))
            rows = {f"{n}, by {u}": row for u, f in units.items() for n, row in f["estimators"].items()}
            return {**first, "estimators": rows, "control": {u: f["control"] for u, f in units.items()}}
        found = {}
        for name in result.estimator.values.tolist():
            one = result.sel(estimator=name)
            found[name] = {"qld": _interval(one.qld, one.bootstrap, result.attrs["level"])}
            found[name]["rise"] = [statistic(_by_seed(one.rise)[:, j]) for j in range(one.sizes["fraction"])]
        control = _interval(result.control.mean("draw"), result.control_bootstrap, result.attrs["level"])
        fractions = result.fraction.values.tolist()
        return {
            "fraction": fractions,
            "k": result.k.values.tolist(),
            "estimators": found,
            "control": {"rise": control},
        }

    def table(self, result: xr.Dataset) -> Table:
        found = self.figures(result)
        rows = {name: [_format(value) for value in row["qld"]] for name, row in found["estimators"].items()}
        controls = found["control"] if "unit" in result.dims else {"": found["control"]}
        for unit, control in controls.items():
            rows[f"(rise without random {unit}s)" if unit else "(rise without random)"] = [
                _format(value) for value in control["rise"]
            ]
        attrs = result.attrs
        title = (
            f"Query loss difference: how much worse without the top examples ({most(attrs['removed'])}) than "
            f"without random ones, {100 * attrs['level']:g} % bootstrap interval, {attrs['draws']} draws"
        )
        return Table.of(title, [f"top {k} of {attrs['examples']}" for k in found["k"]], rows)

    def plot(self, result: xr.Dataset) -> Figure:
        """How much worse the query becomes, by the part of the examples that is left out: a line an
        estimator, the mean over seeds, queries and windows; grey: random examples, the mean and its
        interval."""
        if "unit" in result.dims:
            result = result.sel(unit="part")
        found, names = self.figures(result), _own(result).estimator.values.tolist()
        x = [100 * k / result.attrs["examples"] for k in found["k"]]
        figure = new_figure(5.0, 4.0)
        ax = figure.subplots()
        for j, name in enumerate(names):
            means = [value["mean"] for value in found["estimators"][name]["rise"]]
            ax.plot(x, means, label=name, marker="o", markersize=3, **line_look(j, len(names)))
        control = found["control"]["rise"]
        ax.plot(x, [value["mean"] for value in control], color="0.5", linewidth=1, label="random")
        low, high = ([value[end] for value in control] for end in ("low", "high"))
        ax.fill_between(x, low, high, color="0.5", alpha=0.2, linewidth=0)
        ax.axhline(0, color="0.85", linewidth=0.8, zorder=0)
        ax.set(xlabel="left out, % of the examples", ylabel="the query becomes worse by", title="retrained")
        ax.legend(frameon=False)
        return figure

    def _sizes(self, n: int) -> dict[int, float]:
        """{how many of n examples: the fraction that asks for so many}, as they were written; of several that
        come to the same, the nearest. Errors: none or all of the examples, or the same fraction twice."""
        if not self.fraction or len({*self.fraction}) != len(self.fraction) or not all(
            0 < f < 1 for f in self.fraction
        ):  # fmt: skip
            raise InputError(
                "qld: fraction must be different numbers above 0 and below 1, got "
                f"{'+'.join(f'{f:g}' for f in self.fraction) or 'none'}"
            )
        found = dict[int, float]()
        for f in self.fraction:
            k = max(1, round(f * n))
            if k >= n:
                raise InputError(
                    f"qld: fraction {f:g} of {n} examples rounds to all {n} of them; take a smaller one, so "
                    "that some stay"
                )
            found[k] = min(found.get(k, f), f, key=lambda each: abs(each * n - k))
        return found


def _own(result: Any) -> xr.Dataset:
    """The result itself, [seed, ...]. Errors: not that of this evaluation."""
    dims = ("estimator", "fraction", "resample")
    result = dataset_of(
        "qld", "a result of qld", result, _NAMES, ("draws", "examples", "level", "removed"), dims
    )
    return result if "seed" in result.dims else result.expand_dims("seed")


def _helpful(better: Better | None) -> tuple[Which, int]:
    """The end without which the query should be worse, and the sign of such effects; None: it is raised."""
    return next((word, side) for word, side in ends(better) if word in ("helpful", "raises"))


def _counts(n: int, resamples: int, seed: tuple[int, ...]) -> np.ndarray:
    """Weights [resample, n] of a mean over n things, drawn again with replacement."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) / n


def _by_seed(values: xr.DataArray) -> np.ndarray:
    """[seed, fraction]: the mean over queries and windows."""
    rest = [d for d in values.dims if d not in ("seed", "fraction")]
    return values.mean(rest).transpose("seed", "fraction").values


def _interval(values: xr.DataArray, again: xr.DataArray, level: float) -> list[dict[str, float]]:
    """Mean and deviation over seeds by fraction, with the quantiles of the resamples of this mean."""
    each = _by_seed(values)
    resampled = again.mean([d for d in again.dims if d not in ("resample", "fraction")])
    ends = resampled.transpose("resample", "fraction").quantile(
        [(1 - level) / 2, (1 + level) / 2], "resample"
    )
    return [
        {**statistic(each[:, j]), "low": float(low), "high": float(high)}
        for j, (low, high) in enumerate(ends.values.T)
    ]


def _format(value: dict[str, float]) -> str:
    if math.isnan(value["mean"]):
        return "-"
    return f"{value['mean']:+.2e} [{value['low']:+.1e}, {value['high']:+.1e}]"


def _digest(sets: np.ndarray) -> str:
    return hashlib.sha256(np.packbits(sets).tobytes() + repr(sets.shape).encode()).hexdigest()[:12]
