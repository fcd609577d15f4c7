"""Whether first-order scores of a run can be believed: a cheap figure from a few exact retrainings.

Two measures. `retrain` compares the scores of some random examples with leaving each of them out. `smooth`
asks whether training answers to the weight w of a few examples S in proportion, as first order takes for
granted: with f the losses of the test examples,

    first = f(w_S = 1/2) - f(1),   second = f(w_S = 0) - f(w_S = 1/2),   trust = cosine(first, second)

which is the empirical metasmoothness of Engstrom et al. (arXiv 2503.13751, Definition 2) towards removing S,
with outputs for parameters and a cosine for the weighted agreement of signs.
"""

from functools import partial
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from influencekit.errors import DivergedError, InputError
from influencekit.interfaces import Estimator, Query
from influencekit.metrics import pearson, spearman
from influencekit.optimizers import Adam
from influencekit.pipeline import Windows
from influencekit.retrain import Strategy, Weighting, retrained, spans, strategy_of, window_effects
from influencekit.screen import scored
from influencekit.trajectory import Trajectory
from influencekit.windows import Removal, Window
from influencekit.workload import Workload, tensors_of

__all__ = ["LIMITS", "advice", "trust"]

Method = Literal["auto", "retrain", "smooth"]

# Below them the ranks of all examples agree with retraining to less than .9, as a rule: benchmarks/trust.py
LIMITS = {"retrain": 0.9, "smooth": 0.9}
_BATCHED = 1_000_000  # parameters beyond which retraining many models at once gains nothing
_SPANS = 3  # of windows that share no retraining, so many are looked at
_OUTPUTS = 256  # training examples whose losses stand in where there is no test set
_FEW = 4  # examples whose weight is halved and then taken away
_CORNERS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid)


def trust(
    trajectory: Trajectory,
    query: Query | str = "test-loss",
    estimator: Estimator | str | xr.Dataset = "dit",
    method: Method = "auto",
    examples: int = 16,
    seed: int = 0,
    windows: Windows = None,
    removal: Removal = "global",
    strategy: Strategy = "auto",
) -> xr.Dataset:
    """The figure `trust`, at most 1, of an estimator's scores of a run; 1 = exact retraining agrees.

    `retrain`: the mean of Pearson's and Spearman's correlation of the scores with retraining without each of
    so many random `examples` [query, window, train], over queries and windows. It judges any estimator.
    Cost: that many trainings, in one batch where batching is faster.

    `smooth`: the module's cosine over the test examples (without a test set, over 256 training examples),
    for four random training examples and the longest window. It judges the run: whether any first-order
    score can be right. Cost: two trainings.

    `auto` is `retrain` where models are retrained in batches and have at most a million parameters, else
    `smooth`. Attrs: `method`, `limit` (below it most rankings agree with retraining to less than .9),
    `trainings`, and `warning`: what to do about a figure below the limit, empty if it is not. The figure is
    NaN where nothing can be said, such as when a retraining diverges; the warning says why.
    """
    if method not in ("auto", "retrain", "smooth"):
        raise InputError(f"no method of trust named {method!r}; choose one of auto, retrain, smooth")
    if examples < 3:
        raise InputError(f"examples must be at least 3, got {examples}")
    query, scores, chosen = scored(trajectory, query, estimator, windows, removal)
    if method == "auto":
        small = trajectory.workload.n_params <= _BATCHED and strategy_of(trajectory, strategy) == "batch"
        method = "retrain" if small else "smooth"
    generator = torch.Generator().manual_seed(seed)
    try:
        if method == "retrain":
            found, trainings = _retrain(trajectory, query, scores, chosen, examples, generator, strategy)
        else:
            found, trainings = _smooth(trajectory, scores, chosen, generator, strategy), 2
        reason = "too few examples were scored to say"
    except DivergedError as error:
        found, trainings, reason = xr.Dataset({"trust": np.nan}), 0, str(error)
    value, limit = found.trust.item(), LIMITS[method]
    warning = ""
    if np.isnan(value):
        warning = f"nothing can be said of trust: {reason}"
    elif value < limit:
        warning = (
            f"trust {value:.2f} is below {limit:g}: leaving examples out does not do what their scores say. "
            "Believe no more of the ranking than you verify by retraining. Training would be smoother with "
            f"{advice(trajectory.workload)}"
        )
    return found.assign_attrs(method=method, limit=limit, trainings=trainings, warning=warning)


def advice(workload: Workload) -> str:
    """What makes training answer more smoothly, for this workload, best first: benchmarks/trust.py."""
    ideas = []
    corners = {type(m).__name__ for m in workload.model.modules() if isinstance(m, _CORNERS)}
    if corners:
        ideas.append(f"a smooth activation, such as GELU, in place of {' and '.join(sorted(corners))}")
    rules = list(workload.optimizer.members())
    eps = [rule.eps for rule in rules if isinstance(rule, Adam)]
    if eps and min(eps) < 1e-2:
        ideas.append(f"a larger eps of {type(rules[0]).__name__}, such as 0.01 (now {min(eps):g})")
    width = workload.plan.indices.shape[1]
    if width < workload.n_train:
        ideas.append(f"larger batches (now {width})")
    ideas.append(f"a smaller learning rate (now {max(rule.lr for rule in rules):g})")
    return ", ".join(ideas[:-1]) + f" or {ideas[-1]}" if len(ideas) > 1 else ideas[0]


def _retrain(
    trajectory: Trajectory,
    query: Query,
    scores: xr.Dataset,
    windows: list[Window],
    examples: int,
    generator: torch.Generator,
    strategy: Strategy,
) -> tuple[xr.Dataset, int]:
    """Agreement [metric, query, window] with leaving out random examples, and how many were."""
    apart = list(spans(windows, trajectory.steps).items())
    looked = np.unique(np.linspace(0, len(apart) - 1, _SPANS).round().astype(int))
    members = sorted(k for s in looked for k in apart[s][1])
    windows, scores = [windows[k] for k in members], scores.isel(window=members)
    held = torch.stack([_visited(trajectory, window.absent()) for window in windows])
    known = held.any(0) & torch.tensor(np.isfinite(scores.influence.values).all((0, 1)))
    positions = _drawn(known, examples, generator)
    if len(positions) < 3:
        return xr.Dataset({"trust": np.nan}), 0
    found = scores.influence.isel(train=positions.numpy())
    left_out = [Weighting(p[None]) for p in positions]
    truth = window_effects(trajectory, query, left_out, windows, strategy).cpu()
    values = torch.tensor(found.values)
    agreement = torch.full((2, *truth.shape[:2]), torch.nan, dtype=torch.float64)
    for k, here in enumerate(held[:, positions]):  # 0 and 0, of an example that is not there, is no agreement
        if here.sum() >= 3:
            pair = values[:, k, here].contiguous(), truth[:, k, here].contiguous()
            agreement[:, :, k] = torch.stack([pearson(*pair), spearman(*pair)])
    defined = agreement[~agreement.isnan()]
    return xr.Dataset(
        {
            "trust": float(defined.mean()) if len(defined) else np.nan,
            "estimate": (("query", "window", "train"), found.values),
            "retrained": (("query", "window", "train"), truth.numpy()),
            "agreement": (("metric", "query", "window"), agreement.numpy()),
        },
        coords={**found.coords, "metric": ["pearson", "spearman"]},
    ), len(positions) * len(looked)


def _smooth(
    trajectory: Trajectory,
    scores: xr.Dataset,
    windows: list[Window],
    generator: torch.Generator,
    strategy: Strategy,
) -> xr.Dataset:
    """Cosine of the changes of the test losses that halving and then removing a few examples makes."""
    steps = trajectory.steps
    window = max(windows, key=lambda w: w.stop - w.absent()[0])
    absent, end = window.absent(), max(window.evaluations(steps))
    workload = trajectory.workload_at(end)
    few = _drawn(_visited(trajectory, absent), _FEW, generator)
    runs = [Weighting(few, 0.5), Weighting(few, 0.0)]
    outputs = workload.test
    if outputs is None:
        others = torch.ones(workload.n_train, dtype=torch.bool).index_fill_(0, few, False)
        outputs = workload.examples(_drawn(others, _OUTPUTS, generator).to(workload.device))
    count = len(tensors_of(outputs)[0])
    half, gone = (torch.zeros(count, dtype=torch.float64) for _ in runs)
    for models in retrained(trajectory, runs, absent, [end], strategy):
        with torch.no_grad():
            changes = models.changes(partial(workload.losses, batch=outputs)).double().cpu()
        for member, change in zip(models.members, changes.T, strict=True):
            (half, gone)[member].copy_(change)
    if not (half.isfinite().all() and gone.isfinite().all()):
        raise DivergedError(
            f"retraining without {len(few)} examples gave NaN or infinity; lower the learning rate"
        )
    ids = scores.train.isel(train=few.numpy())
    return xr.Dataset({"trust": _cosine(half, gone - half)}, coords={"train": ids.values})


def _cosine(x: Tensor, y: Tensor) -> float:
    size = float(x.norm() * y.norm())
    return float(x @ y) / size if size else np.nan


def _visited(trajectory: Trajectory, span: tuple[int, int]) -> Tensor:
    """Which examples [train] the batches of these steps hold."""
    indices = trajectory.plan.indices[slice(*span)]
    here = torch.zeros(trajectory.workload.n_train, dtype=torch.bool)
    here[indices[indices >= 0]] = True
    return here


def _drawn(known: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """So many of the known positions at random, ascending."""
    among = known.nonzero().flatten()
    order = torch.randperm(len(among), generator=generator)[:count]
    return among[order].sort().values
