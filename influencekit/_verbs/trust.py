"""Whether first-order scores of a run can be believed: a cheap figure from a few exact retrainings.

Two measures. `retrain` compares the scores of some examples with leaving each of them out, in values and in
ranks. Influence has heavy tails: a few examples decide what Pearson's correlation over all is, and a random
draw holds none of them. So those of the largest scores are left out as well, and weigh as the few they are:

    w        = 1 for the largest, (how many others there are) / (how many of them were drawn) for the others
    pearson  = Pearson's correlation with weights w, which estimates that of all examples
    spearman = Spearman's correlation over the random draw
    trust    = the smaller of the two
    scale    = sum w estimate retrained / sum w estimate^2, the slope of retrained on estimate

`smooth` asks whether training answers to the weight w of a few examples S in proportion, as first order
takes for granted: with f the losses of the test examples,

    first = f(w_S = 1/2) - f(1),   second = f(w_S = 0) - f(w_S = 1/2),   trust = cosine(first, second)
    scale = (1 + <first, second> / <first, first>) / 2, what the whole step does over twice the first half

which is the empirical metasmoothness of Engstrom et al. (arXiv 2503.13751, Definition 2) towards removing S,
with outputs for parameters and a cosine for the weighted agreement of signs.
"""

from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from influencekit._arguments import check_seed, checked, whole_number
from influencekit._bars import with_progress
from influencekit._effects.retrain import Strategy, Weighting, check_finite, retrained, spans, strategy_of
from influencekit._training.batch import tensors_of
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import averaged_as
from influencekit._verbs.remove import scored
from influencekit._verbs.results import Windows, require_run
from influencekit.errors import DivergedError, InputError
from influencekit.estimators.loo import retraining_effects
from influencekit.interfaces import Average, Estimator, Query
from influencekit.metrics import spearman
from influencekit.windows import Removal, Window

__all__ = ["LIMITS", "advice", "trust"]

Method = Literal["auto", "retrain", "smooth"]

# Below them the ranks of all examples agree with retraining to less than .9, as a rule: benchmarks/trust.py
LIMITS = {"retrain": 0.9, "smooth": 0.9}
SCALES = (0.5, 2.0)  # outside of it scores may still rank, but they are no amounts
_BATCHED = 1_000_000  # parameters beyond which retraining many models at once gains nothing
_SPANS = 3  # of windows that share no retraining, so many are looked at
_OUTPUTS = 256  # training examples whose losses stand in where there is no test set
_SMOOTHLY = "how proportionately training answers when a few examples lose their weight"
_FEW = 4  # examples whose weight is halved and then taken away
_CORNERS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid)


@with_progress
@checked
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
    average: Average | str | Any = None,
) -> xr.Dataset:
    """The figure `trust`, at most 1, of an estimator's scores of a run; 1 = exact retraining agrees.

    `retrain`: the scores beside retraining without each of so many random `examples`, and without each of
    half as many that have the largest scores. `pearson` estimates Pearson's correlation over all examples,
    `spearman` is Spearman's over the random ones (the module says how), and `trust` is the smaller of the two
    in each query and window; each of the three is the mean over queries and windows, and `agreement` [metric,
    query, window] has the parts. It judges any estimator. Cost: that many trainings, in one batch where
    batching is faster.

    `smooth`: the module's cosine over the test examples (without a test set, over 256 training examples),
    for four random training examples and the longest window. It judges the run: whether any first-order
    score can be right. Cost: two trainings.

    `scale`, of both: what retraining shows, in multiples of what first order says. A correlation does not
    see it, and neither does `trust`; a scale below 1/2 or above 2 is a warning of its own.

    `auto` is `retrain` where models are retrained in batches and have at most a million parameters, else
    `smooth`. Attrs: `method`, `how` in words, `limit` (below it most rankings agree with retraining to less
    than .9), `trainings`, and `warning`: what to do about a figure below the limit or a scale that is off,
    empty if there is neither. The figure is NaN where nothing can be said, such as when a retraining
    diverges; the warning says why. `average`: as of `estimate`. Errors: an unknown `method`, fewer than 3
    examples, and what `estimate` refuses.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> found = ik.trust(run, examples=8)
        >>> found.method, found.trust.item() > found.limit
        ('retrain', True)
    """
    require_run(trajectory)
    if method not in ("auto", "retrain", "smooth"):
        raise InputError(f"no method of trust named {method!r}; choose one of auto, retrain, smooth")
    whole_number("examples", examples, 3)
    check_seed("seed", seed)
    trajectory = averaged_as(trajectory, average, estimator)
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
        found, trainings, reason = xr.Dataset({"trust": np.nan, "scale": np.nan}), 0, str(error)
    limit, warning = LIMITS[method], _warning(trajectory.workload, found, LIMITS[method], reason)
    return found.assign_attrs(method=method, limit=limit, trainings=trainings, warning=warning)


def _warning(workload: Workload, found: xr.Dataset, limit: float, reason: str) -> str:
    """What to beware of, and what to do about it; empty if there is nothing."""
    value, scale = found.trust.item(), found.scale.item()
    if np.isnan(value):
        return f"nothing can be said of trust: {reason}"
    off = ""
    if not SCALES[0] <= scale <= SCALES[1]:
        off = f"retraining shows {scale:.2g} times what the scores say: take none of them for an amount"
    if value >= limit:
        return off
    return (
        f"trust {value:.2f} is below {limit:g}: leaving examples out does not do what their scores say. "
        "Believe no more of the ranking than you verify by retraining. "
        + (f"{off[0].upper()}{off[1:]}. " if off else "")
        + f"Training would be smoother with {advice(workload)}"
    )


def advice(workload: Workload) -> str:
    """What makes training answer more smoothly, for this workload, best first: benchmarks/trust.py."""
    ideas = []
    corners = {type(m).__name__ for m in workload.model.modules() if isinstance(m, _CORNERS)}
    if corners:
        ideas.append(f"a smooth activation, such as GELU, in place of {' and '.join(sorted(corners))}")
    rules = list(workload.optimizer.members())
    eps = [x for rule in rules if isinstance(x := vars(rule).get("eps"), float)]
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
    """Agreement [metric, query, window] with leaving out single examples; how many trainings that took."""
    apart = list(spans(windows, trajectory.steps).items())
    looked = np.unique(np.linspace(0, len(apart) - 1, _SPANS).round().astype(int))
    members = sorted(k for s in looked for k in apart[s][1])
    windows, scores = [windows[k] for k in members], scores.isel(window=members)
    values = torch.tensor(scores.influence.transpose("query", "window", "train").values, dtype=torch.float64)
    held = torch.stack([_visited(trajectory, window.absent()) for window in windows])
    known = held.any(0) & values.isfinite().all(0).all(0)
    drawn = _drawn(known, examples, generator)
    if len(drawn) < 3:
        return xr.Dataset({"trust": np.nan, "scale": np.nan}), 0
    largest = _largest(values, known, examples // 2)
    positions = torch.cat([drawn, largest]).unique()
    random, top = (torch.isin(positions, some) for some in (drawn, largest))
    left_out = [Weighting(p[None]) for p in positions]
    truth = retraining_effects(trajectory, query, left_out, windows, strategy).double().cpu()
    agreement = torch.full((2, *truth.shape[:2]), torch.nan, dtype=torch.float64)
    weights = torch.zeros(held.shape[0], len(positions), dtype=torch.float64)
    for k, here in enumerate(held[:, positions]):  # 0 and 0, of an example that is not there, is no agreement
        among = random & here
        if among.sum() >= 3:
            rest = int((held[k] & known).sum() - (top & here).sum())  # what those drawn stand for
            weights[k] = (top & here).double() + (among & ~top) * rest / max(1, int((among & ~top).sum()))
            chosen = values[:, k, positions]
            agreement[0, :, k] = _weighted_pearson(chosen, truth[:, k], weights[k])
            agreement[1, :, k] = spearman(chosen[:, among].contiguous(), truth[:, k, among].contiguous())
    smaller = agreement.amin(0)  # NaN where either is
    chosen = values[:, :, positions]
    scale = (weights * chosen * truth).sum() / (weights * chosen.square()).sum()
    found = scores.influence.isel(train=positions.numpy())
    return xr.Dataset(
        {
            "trust": _mean(smaller),
            "pearson": _mean(agreement[0]),
            "spearman": _mean(agreement[1]),
            "scale": float(scale),
            "estimate": (("query", "window", "train"), chosen.numpy()),
            "retrained": (("query", "window", "train"), truth.numpy()),
            "agreement": (("metric", "query", "window"), agreement.numpy()),
            "weight": (("window", "train"), weights.numpy()),
            "random": (("train",), random.numpy()),
        },
        coords={**found.coords, "metric": ["pearson", "spearman"]},
        attrs={
            "how": f"agreement with retraining without each of {len(drawn)} random examples and of the "
            f"{len(largest)} with the largest scores"
        },
    ), len(positions) * len(looked)


def _mean(figures: Tensor) -> float:
    defined = figures[~figures.isnan()]
    return float(defined.mean()) if len(defined) else np.nan


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
    here = weights > 0
    constant = torch.stack([(v[:, here] == v[:, here][:, :1]).all(-1) for v in (x, y)]).any(0)
    x, y, weights = x[:, here], y[:, here], weights[here] / weights.sum()
    x, y = (v - (weights * v).sum(-1, keepdim=True) for v in (x, y))
    x, y = (v / v.abs().amax(-1, keepdim=True) * weights.sqrt() for v in (x, y))
    r = ((x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))).clamp(-1, 1)
    return r.masked_fill(constant, torch.nan)


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
    changes = torch.zeros(count, len(runs), dtype=torch.float64)
    for models in retrained(trajectory, runs, absent, [end], strategy):
        with torch.no_grad():
            found = models.changes(partial(workload.losses, batch=outputs))
        changes[:, models.members] = found.double().cpu()
    check_finite(changes, [runs[1]] * 2)
    half, gone = changes.T
    ids = scores.train.isel(train=few.numpy())
    rest = gone - half
    scale = (1 + float(half @ rest) / float(half @ half)) / 2 if half.any() else np.nan
    return xr.Dataset(
        {"trust": _cosine(half, rest), "scale": scale}, coords={"train": ids.values}, attrs={"how": _SMOOTHLY}
    )


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
