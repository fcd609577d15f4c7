"""The ceiling in a comparison: how well leave-one-out agrees with itself, beside every estimate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from influencekit._address import local
from influencekit._arguments import moved_fraction, whole_number
from influencekit._effects.repeated import check_moves
from influencekit._repeatability import attainable
from influencekit._training.workload import Workload
from influencekit._trajectory.fingerprint import digest
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.ceiling import ceiling_of, defined_agreement
from influencekit._verbs.non_finite import zero_words
from influencekit._verbs.reseeded import Reseeded
from influencekit._verbs.results import about
from influencekit.errors import InputError
from influencekit.estimators.expected_loo import ExpectedLOO
from influencekit.estimators.loo import LOO
from influencekit.interfaces import Estimator, Query
from influencekit.metrics import METRICS, Top
from influencekit.registry import label
from influencekit.windows import Window

__all__ = ["Repeats", "of_ceiling", "repeats_of"]

Moves = float | Literal["seeds"]
_APART = 1000  # between the seeds of a comparison and those that repeat it


@dataclass(frozen=True)
class Repeats:
    """How the retraining that is the reference is repeated: `runs` runs with the recorded one, from moved
    starts or with other seeds."""

    moved: Moves
    runs: int
    reference: LOO | ExpectedLOO
    store: Path | None

    def measure(
        self, trajectory: Trajectory, query: Query, windows: Sequence[Window], seed: int,
        make: Callable[[int], Workload],
    ) -> xr.Dataset:  # fmt: skip
        """What `ceiling` gives of one seed's run. `make` trains the same with another seed."""
        if self.moved == "seeds":
            others: list[Any] = [Reseeded(make, (seed + _APART * r) % 2**63) for r in range(1, self.runs)]
        else:
            others = check_moves("compare", self.runs, self.moved)
        single = self.reference
        asked = digest([label(query), [str(w) for w in windows], single.examples, single.seed])[:8]
        name = f"ceiling-{self._how}-{asked}"  # another fraction is kept beside this one
        folder = None if self.store is None else self.store / f"seed-{seed}" / name
        return ceiling_of(
            trajectory, query, others, windows, strategy=single.strategy, examples=single.examples,
            seed=single.seed, store=folder,
        )  # fmt: skip

    def scores(
        self,
        measured: xr.Dataset,
        trajectory: Trajectory,
        query: Query,
        windows: Sequence[Window],
        method: Estimator,
    ) -> tuple[xr.Dataset, float] | None:
        """What `estimate` would give of `method`, and its seconds, where `measured` has it already."""
        if not isinstance(method, LOO | ExpectedLOO):
            return None
        if (method.examples, method.seed) != (self.reference.examples, self.reference.seed):
            return None
        effects = measured.effects
        if isinstance(method, LOO):
            found, spent = effects.isel(run=0, drop=True), float(measured.seconds[0])
        elif (method.moved, method.runs) == (self.moved, self.runs):
            found, spent = measured["mean"].astype(effects.dtype), float(measured.seconds.sum(skipna=False))
        else:
            return None
        attrs = about(trajectory, query, method)
        said = zero_words(trajectory, query, windows, torch.from_numpy(found.values))
        caution = "; ".join(each for each in (trajectory.caution, said) if each)
        attrs |= {"caution": caution} if caution else {}
        return xr.Dataset({"influence": found}, attrs=attrs), spent

    def variables(self, result: xr.Dataset, measured: Sequence[xr.Dataset], top: Top) -> dict[str, Any]:
        """What a comparison has of its ceiling: see `compare`. `measured` has one result a seed."""
        effects = torch.stack([torch.from_numpy(m.effects.values) for m in measured], 1)
        known = np.isfinite(result.influence.values).reshape(-1, effects.shape[-1]).all(0)
        again, limit = self._against(effects[..., torch.from_numpy(known)], top)
        again = again.movedim(-1, 0).movedim(1, 2)  # [metric, seed, repeat, query, window]
        mean_only = isinstance(self.reference, ExpectedLOO)
        place = ("seed", "query", "window")
        used = slice(0 if mean_only else 1, None)
        over = {name: np.stack([m[name].values for m in measured]) for name in (*_MEASURES, *_OF_RUNS)}
        return {
            "loo_again": (("metric", "seed", "repeat", "query", "window"), again.numpy()),
            "ceiling": (("metric", *place), limit.numpy()),
            **{name: (place, over[name]) for name in _MEASURES},
            **{f"again_{name}": (("seed", "repeat"), over[name][:, used]) for name in _OF_RUNS},
        }

    def _against(self, effects: Tensor, top: Top) -> tuple[Tensor, Tensor]:
        """The agreement of one more run with the reference [repeat, seed, query, window, metric], and what
        the expected effect would reach [metric, seed, query, window].

        Shapes: effects [run, seed, query, window, train].
        """
        effects, runs = effects.double().contiguous(), len(effects)
        if isinstance(self.reference, ExpectedLOO):
            again, of = defined_agreement(effects, (effects.sum(0) - effects) / (runs - 1), top), runs
        else:
            again, of = defined_agreement(effects[1:], effects[:1].expand_as(effects[1:]), top), 1
        pairs = [defined_agreement(effects[r], effects[s], top) for r in range(runs) for s in range(r)]
        between = torch.stack(pairs).mean(0)  # NaN where one run says nothing, as in `ceiling`
        limit = [attainable(name, between[..., k], of) for k, name in enumerate(METRICS)]
        if top == "abs":  # of which no normal pair is a model
            limit[list(METRICS).index("jaccard")] = torch.full_like(limit[0], torch.nan)
        return again, torch.stack(limit)

    @property
    def attrs(self) -> dict[str, str | int]:
        """What a result says of how its ceiling was measured."""
        return {"ceiling_moved": self._how, "ceiling_runs": self.runs, "ceiling_note": self._note()}

    @property
    def _how(self) -> str:
        """How the other runs differ: the fraction by which they are moved, or "seeds"."""
        return self.moved if self.moved == "seeds" else f"{self.moved:g}"

    def _note(self) -> str:
        others = self.runs - 1
        runs = f"{others} runs" if others > 1 else "another run"
        how = (
            "with other starts and batch orders on the same examples"
            if self.moved == "seeds"
            else f"whose start is moved by {self.moved:g} of its size"
        )
        if isinstance(self.reference, ExpectedLOO):
            return (
                f"The ceiling is what the expected effect itself would reach against the mean of {self.runs} "
                f"runs, the recorded one and {runs} {how}; loo again is one of them against the mean of the "
                "others."
            )
        return (
            "The ceiling is what the expected effect itself would reach against one run; loo again is "
            f"leave-one-out of {runs} {how}, against that of this run."
        )


_MEASURES = ("icc", "ceiling_one", "ceiling_mean")
_OF_RUNS = ("accuracy", "seconds")


def repeats_of(
    ceiling: Moves | None, runs: int, reference: Estimator, workload: Any, store: str | Path | None
) -> Repeats | None:
    """What `compare` was asked to repeat. Errors: a reference that is no retraining, or the mean of other
    runs; fewer than 2 runs, a fraction of 0; other seeds for a recorded run."""
    if ceiling is None:
        return None
    runs = whole_number("compare: runs", runs, 2)
    if ceiling != "seeds":
        ceiling = moved_fraction("compare: ceiling", ceiling)
    if not isinstance(reference, LOO | ExpectedLOO):
        raise InputError(
            f"compare: a ceiling says how well retraining agrees with itself, and the reference "
            f"{label(reference)} is none; take loo or expected-loo as the reference"
        )
    if ceiling == "seeds" and isinstance(workload, Trajectory):
        raise InputError(
            "compare: ceiling='seeds' trains with other seeds, and a recorded run has one; take a fraction "
            "by which its start is moved, such as 0.001"
        )
    if isinstance(reference, ExpectedLOO) and (reference.moved, reference.runs) != (ceiling, runs):
        raise InputError(
            f"compare: {label(reference)} is the mean of {reference.runs} runs moved by {reference.moved:g}, "
            f"and the ceiling was asked of {runs} with {ceiling}; ask for both alike"
        )
    return Repeats(ceiling, runs, reference, None if store is None else local(store))


def of_ceiling(result: xr.Dataset) -> xr.DataArray:
    """estimate / ceiling [estimator, metric, seed] of a comparison: of the means over queries and windows.

    Above 1 where an estimate agrees better with the reference than its ceiling says. NaN for the reference
    itself, and where the ceiling is not above 0.
    """
    both = result.agreement.notnull() & result.ceiling.notnull()
    estimate, most = (x.where(both).mean(("query", "window")) for x in (result.agreement, result.ceiling))
    found = estimate / most.where(most > 0)
    found = found.where(found.estimator != result.attrs["reference"])
    return found.transpose("estimator", "metric", "seed")
