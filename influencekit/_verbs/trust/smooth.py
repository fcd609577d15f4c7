"""The figure `smooth`: does training answer in proportion when a few examples lose their weight?"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from influencekit._effects.retrain import Strategy, Weighting, check_finite, query_at, retrained
from influencekit._training.batch import Batch, tensors_of
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.results import window_coords
from influencekit._verbs.trust.spans import Span, draw, visited
from influencekit.errors import DivergedError
from influencekit.interfaces import Query
from influencekit.windows import Window

__all__ = ["by_smoothness"]

_FEW = 4  # examples whose weight is halved and then taken away
_OUTPUTS = 256  # training examples whose losses stand in where there is no test set


def by_smoothness(
    trajectory: Trajectory, query: Query, scores: xr.Dataset, windows: Sequence[Window],
    spans: Sequence[Span], generator: torch.Generator, strategy: Strategy,
) -> tuple[xr.Dataset, str]:  # fmt: skip
    """Cosine [window] of the changes of the test losses that halving and then removing a few examples makes,
    and why some are NaN; beside it what the scores of these few say of the query, and what it did."""
    values = scores.influence.transpose("query", "window", "train").values.astype(np.float64)
    n = trajectory.workload.n_train
    order, count = torch.randperm(n, generator=generator), len(windows)
    trust, scale = np.full((2, count), np.nan)
    few_of = np.zeros((count, n), dtype=bool)
    estimate, truth = np.full((2, values.shape[0], count), np.nan)
    reason = "nothing changed"
    visits = np.zeros(count, dtype=np.int64)
    for span in spans:
        few = draw(there := visited(trajectory, span.absent), order, _FEW)
        visits[span.members] = int(there.sum())
        found, asked = _changes(
            trajectory, query, few, [windows[k] for k in span.members], span, order, strategy
        )
        for k, losses, change in zip(span.members, found, asked, strict=True):
            few_of[k, few.numpy()] = True
            try:
                check_finite(losses, [Weighting(few, 0.5), Weighting(few, 0.0)])
            except DivergedError as error:
                reason = str(error)
                continue
            half, rest = losses[:, 0], losses[:, 1] - losses[:, 0]
            trust[k], scale[k] = _cosine(half, rest), np.nan
            if half.any():
                scale[k] = (1 + float(half @ rest) / float(half @ half)) / 2
            estimate[:, k] = values[:, k, few.numpy()].sum(-1)
            truth[:, k] = change.numpy()
    found_set = xr.Dataset(
        {
            "trust": ("window", trust),
            "scale": ("window", scale),
            "count": ("window", visits),
            "random": (("window", "train"), few_of),
            "estimate": (("query", "window"), estimate),
            "retrained": (("query", "window"), truth),
        },
        coords={"query": scores["query"], "train": scores["train"], **window_coords(windows)},
        attrs={
            "how": "how proportionately training answers when a few examples lose their weight",
            "trainings": 2 * len(spans),
            "runs": 2 * sum(span.runs for span in spans),
        },
    )
    return found_set.isel(train=few_of.any(0)), reason


def _changes(
    trajectory: Trajectory, query: Query, few: Tensor, windows: Sequence[Window], span: Span, order: Tensor,
    strategy: Strategy,
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """Of each window, the changes of the losses [output, 2] and, without the few, of the query [query]."""
    signs = [window.evaluations(trajectory.steps) for window in windows]
    when = sorted(set().union(*signs))
    outputs = _outputs(trajectory, few, order)
    size, n_query = len(tensors_of(outputs)[0]), len(query.labels(trajectory.workload))
    losses = [torch.zeros(size, 2, dtype=torch.float64) for _ in windows]
    asked = [torch.zeros(n_query, dtype=torch.float64) for _ in windows]
    values_of = query_at(trajectory, query, when)
    runs = [Weighting(few, 0.5), Weighting(few, 0.0)]
    for models in retrained(trajectory, runs, span.absent, when, strategy):
        workload = trajectory.workload_at(models.state)
        with torch.no_grad():
            found = models.changes(partial(workload.losses, batch=outputs)).double().cpu()
        of_query = values_of(models).double().cpu()
        for k, each in enumerate(signs):
            if sign := each.get(models.state):
                losses[k][:, models.members] += sign * found
                if 1 in models.members:
                    asked[k] += sign * of_query[:, models.members.index(1)]
    return losses, asked


def _outputs(trajectory: Trajectory, few: Tensor, order: Tensor) -> Batch:
    """The examples whose losses are looked at: the test set, or else training examples, but not the few."""
    workload = trajectory.workload
    if workload.test is not None:
        return workload.test
    others = torch.ones(workload.n_train, dtype=torch.bool).index_fill_(0, few, False)
    return workload.examples(draw(others, order, _OUTPUTS).to(workload.device))


def _cosine(x: Tensor, y: Tensor) -> float:
    size = float(x.norm() * y.norm())
    return float(x @ y) / size if size else np.nan
