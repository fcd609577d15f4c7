"""The figure `retrain`: scores of a few examples beside exact retraining without each of them."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from influencekit._effects.retrain import Strategy, Weighting, changes, check_finite
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.results import window_coords
from influencekit._verbs.trust.spans import Span, draw, visited
from influencekit.errors import DivergedError
from influencekit.interfaces import Query
from influencekit.metrics import spearman
from influencekit.windows import Window

__all__ = ["by_retraining", "effects"]

_TOO_FEW = "too few examples were scored to say"
_ONE_NUMBER = "all scores are one number, or all effects of retraining are"
_TINY = 4  # last digits by which weights move for what rounding alone does


def by_retraining(
    trajectory: Trajectory, query: Query, scores: xr.Dataset, windows: Sequence[Window],
    spans: Sequence[Span], examples: int, generator: torch.Generator, strategy: Strategy,
) -> tuple[xr.Dataset, str]:  # fmt: skip
    """Agreement [metric, query, window] with leaving out single examples, and why some of it is NaN.

    Every span draws its own examples, of those that its batches hold. With their retrainings goes one more,
    with weights 1 +- a few last digits on all examples: `noise` [window], what rounding alone does.
    """
    values = torch.tensor(scores.influence.transpose("query", "window", "train").values, dtype=torch.float64)
    n_query, n_window, n = values.shape
    order = torch.randperm(n, generator=generator)
    last_digits = Weighting(torch.arange(n), 1 + _some_signs(trajectory, generator))
    unknown = partial(torch.full, fill_value=torch.nan, dtype=torch.float64)
    truth, agreement = unknown(values.shape), unknown((2, n_query, n_window))
    scale, noise = unknown((n_window,)), unknown((n_window,))
    speaking = torch.zeros(n_window, dtype=torch.int64)
    weights, random = (torch.zeros(n_window, n, dtype=dtype) for dtype in (torch.float64, torch.bool))
    reason, trainings, amount = _TOO_FEW, 0, 0.0
    counts = set[tuple[int, int]]()
    for span in spans:
        members = [k for k in span.members if values[:, k].isfinite().any()]
        if not members:
            continue
        there = torch.stack([visited(trajectory, windows[k].absent()) for k in members])
        known = there.any(0) & values[:, members].isfinite().all(0).all(0)
        drawn, largest = draw(known, order, examples), _largest(values[:, members], known, examples // 2)
        if len(drawn) < 3:
            continue
        positions = torch.cat([drawn, largest]).unique()
        runs = [*(Weighting(p[None]) for p in positions), last_digits]
        found, why = effects(trajectory, query, runs, [windows[k] for k in members], strategy)
        reason = why or (_ONE_NUMBER if reason == _TOO_FEW else reason)
        trainings, amount = trainings + len(runs), amount + len(runs) * span.runs
        counts.add((len(drawn), len(largest)))
        for k, here, effect in zip(members, there, found.unbind(1), strict=True):
            truth[:, k, positions], noise[k] = effect[:, :-1], effect[:, -1].square().mean().sqrt()
            random[k] = torch.zeros(n, dtype=torch.bool).index_fill_(0, drawn, True) & here
            speaks = (values[:, k].nan_to_num() != 0).any(0) | (truth[:, k].nan_to_num() != 0).any(0)
            speaking[k] = int((random[k] & speaks).sum())
            if random[k].sum() < 3 or not effect.isfinite().all():
                continue
            weights[k] = _stands_for(random[k], largest, here & known)
            agreement[:, :, k], scale[k] = _agreement(values[:, k], truth[:, k], weights[k], random[k])
    shown = truth.isfinite().any(0).any(0)
    coords = {n: scores[n] for n in ("query", "train", "label") if n in scores.coords}
    most = max(counts, default=(0, 0))
    result = xr.Dataset(
        {
            "trust": ("window", _mean(agreement.amin(0))),  # NaN where either is
            "pearson": ("window", _mean(agreement[0])),
            "spearman": ("window", _mean(agreement[1])),
            "scale": ("window", scale.numpy()),
            "noise": ("window", noise.numpy()),
            "count": ("window", speaking.numpy()),
            "estimate": (("query", "window", "train"), values.where(truth.isfinite(), torch.nan).numpy()),
            "retrained": (("query", "window", "train"), truth.numpy()),
            "agreement": (("metric", "query", "window"), agreement.numpy()),
            "weight": (("window", "train"), weights.numpy()),
            "random": (("window", "train"), random.numpy()),
        },
        coords={**coords, **window_coords(windows), "metric": ["pearson", "spearman"]},
        attrs={
            "how": f"agreement with retraining without each of {most[0]} random examples and of the "
            f"{most[1]} with the largest scores",
            "trainings": trainings,
            "runs": amount,
        },
    )
    return result.isel(train=shown.numpy()), reason


def _some_signs(trajectory: Trajectory, generator: torch.Generator) -> Tensor:
    """+- a few last digits of the run's precision, for every example."""
    theta = trajectory.workload.theta0
    signs = 2 * torch.randint(0, 2, (trajectory.workload.n_train,), generator=generator) - 1
    return _TINY * torch.finfo(theta.dtype).eps * signs.to(theta)


def _stands_for(random: Tensor, largest: Tensor, known: Tensor) -> Tensor:
    """How many examples each [train] stands for: 1 the largest, the others that were drawn for the rest."""
    top = torch.zeros_like(known).index_fill_(0, largest, True) & known
    others, rest = random & ~top, int(known.sum() - top.sum())
    return top.double() + others * rest / max(1, int(others.sum()))


def _agreement(x: Tensor, y: Tensor, weights: Tensor, random: Tensor) -> tuple[Tensor, float]:
    """Of scores and effects [query, train]: both correlations [metric, query], and the slope."""
    here = weights > 0
    pearson = _weighted_pearson(x[:, here], y[:, here], weights[here])
    ranks = spearman(x[:, random].contiguous(), y[:, random].contiguous())
    x, y, weights = x[:, here], y[:, here], weights[here]
    slope = float((weights * x * y).sum() / (weights * x.square()).sum())
    return torch.stack([pearson, ranks.to(pearson)]), slope


def effects(
    trajectory: Trajectory, query: Query, weightings: Sequence[Weighting], windows: Sequence[Window],
    strategy: Strategy,
) -> tuple[Tensor, str]:  # fmt: skip
    """Effects [query, window, weighting] in float64, and what is to be said where some are not finite."""
    n_query = len(query.labels(trajectory.workload))
    out = torch.zeros(n_query, len(windows), len(weightings), dtype=torch.float64)
    for change in changes(trajectory, query, weightings, windows, strategy):
        for window, sign in change.signs.items():
            out[:, window, change.models.members] += sign * change.values.double().cpu()
    try:
        check_finite(out, weightings)
    except DivergedError as error:
        return out, str(error)
    return out, ""


def _mean(figures: Tensor) -> np.ndarray:
    """Over queries [query, window], those that are NaN left out."""
    known = ~figures.isnan()
    return (figures.nan_to_num().sum(0) / known.sum(0)).numpy()


def _largest(values: Tensor, known: Tensor, count: int) -> Tensor:
    """Positions of the known examples with the largest scores [query, window, train], whatever their sign.

    Queries and windows count alike, however large their effects are.
    """
    values = values.masked_fill(~known, 0)
    scale = values.norm(dim=-1, keepdim=True)
    strength = (values / scale.masked_fill(scale == 0, 1)).square().sum((0, 1)).masked_fill(~known, -1)
    return strength.argsort(descending=True, stable=True)[: min(count, int(known.sum()))]


def _weighted_pearson(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Pearson's correlation of rows [query, example] whose examples stand for so many; NaN for a constant."""
    constant = torch.stack([(v == v[:, :1]).all(-1) for v in (x, y)]).any(0)
    weights = weights / weights.sum()
    x, y = (v - (weights * v).sum(-1, keepdim=True) for v in (x, y))
    x, y = (v / v.abs().amax(-1, keepdim=True) * weights.sqrt() for v in (x, y))
    r = ((x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))).clamp(-1, 1)
    return r.masked_fill(constant, torch.nan)
