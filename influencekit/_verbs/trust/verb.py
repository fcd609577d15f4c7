"""Whether first-order scores of a run can be believed: a figure for each window from few exact retrainings.

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

from typing import Any, Literal

import numpy as np
import torch
import xarray as xr

from influencekit._arguments import check_seed, checked, whole_number
from influencekit._bars import with_progress
from influencekit._effects.retrain import Strategy, strategy_of
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import asked, averaged_as
from influencekit._verbs.non_finite import zero_words
from influencekit._verbs.results import Windows, require_run, run_of, window_coords, windows_among
from influencekit._verbs.scored import scored
from influencekit._verbs.trust.checks import as_variables, checks, estimator_of
from influencekit._verbs.trust.horizons import believed, gap, horizons, reach
from influencekit._verbs.trust.retrain import by_retraining
from influencekit._verbs.trust.smooth import by_smoothness
from influencekit._verbs.trust.spans import looked_at
from influencekit._verbs.trust.words import below
from influencekit.errors import DivergedError, InputError
from influencekit.interfaces import Average, Estimator, Query
from influencekit.registry import label, resolve
from influencekit.windows import Removal, Window

__all__ = ["EXAMPLES", "LIMITS", "method_for", "trust"]

Method = Literal["auto", "retrain", "smooth"]

# Below them the ranks of all examples agree with retraining to less than .9, as a rule: benchmarks/trust.py
LIMITS = {"retrain": 0.9, "smooth": 0.9}
EXAMPLES = 16  # that are left out, and half as many with the largest scores
_BATCHED = 1_000_000  # parameters beyond which retraining many models at once gains nothing


@with_progress
@checked
def trust(
    trajectory: Trajectory,
    query: Query | str = "test-loss",
    estimator: Estimator | str | xr.Dataset = "dit",
    method: Method = "auto",
    examples: int = EXAMPLES,
    seed: int = 0,
    windows: Windows = None,
    removal: Removal = "global",
    strategy: Strategy = "auto",
    average: Average | str | Any = None,
) -> xr.Dataset:
    """The figure `trust` [window], at most 1, of an estimator's scores of a run; 1 = retraining agrees.

    `retrain`: the scores beside retraining without each of so many random `examples`, and without each of
    half as many that have the largest scores. `pearson` [window] estimates Pearson's correlation over all
    examples, `spearman` is Spearman's over the random ones (the module says how), and `trust` is the smaller
    of the two in each query; each of the three is the mean over queries, and `agreement` [metric, query,
    window] has the parts. `count` [window]: how many random examples have a score or an effect in the window,
    which is what `spearman` rests on. It judges any estimator. Cost: that many trainings and one, in one
    batch where batching is faster, for each span of absence: all windows of global removal are one span.

    `smooth`: the module's cosine over the test examples (without a test set, over 256 training examples),
    for four random training examples. It judges the run: whether any first-order score can be right. `count`
    [window]: how many examples the batches hold of which these four are drawn. Cost: two trainings for each
    span.

    `windows` are those of `estimate`, or "horizons": absence from the start and evaluation after 1, 2, 4, ...
    epochs; absence in the last 1, 2, 4, ... epochs; absence in one epoch, 0, 1, 2, 4, ... epochs before the
    end (of a run of fewer than four epochs, eighths of it). Attr `believed` says in words which windows, and
    how many steps between absence and evaluation, reach the limit; a figure of fewer than 12 examples
    (`count`) has no say where others of its kind have more. Coordinates `reach` (steps of absence) and `gap`
    (steps between absence and evaluation). Spans are looked at until they amount to 8 whole runs
    for each example; those left out, evenly spread, are NaN. Attrs `trainings` and `runs`, what they amount
    to in whole runs, say what was spent.

    `scale` [window]: what retraining shows, in multiples of what first order says. A correlation does not
    see it, and neither does `trust`. It is the first of the `check`s [check]: `check_value`, from `check_low`
    to `check_high`, else `check_warning`. The others: `finite`, the fraction of scores that are finite;
    `signal`, the size of effects over that of rounding, which tells of a loss or logits that are scaled too
    small; `learnt`, by what fraction the training loss fell; `precision`, how far a dozen steps of the sweep
    are from float64 (TF32, float16); `sum` (of `smooth`), how wrong the scores' own sum is of those few.

    `overall`: the mean of `trust` over windows. `auto` is `retrain` where models are retrained in batches and
    have at most a million parameters, else `smooth`. Attrs: `run`, `query`,
    `estimator` and `average`, as of `estimate`; `method`, `how` in words, `limit` (below it most
    rankings agree with retraining to less than .9), and `warning`: all that is to beware of, empty if there
    is nothing; `caution`, where the scores have one. A figure is NaN where nothing can be said, such as when
    a retraining diverges; the warning says why. `average`: as of `estimate`. Errors: an unknown `method`,
    fewer than 3 examples, and what `estimate` refuses.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=4"))
        >>> found = ik.trust(run, examples=8)
        >>> found.method, found.trust.item() > found.limit
        ('retrain', True)
        >>> ik.trust(run, examples=8, windows="horizons").believed
        'absence from the start up to step 4; absence in the last 4 steps; up to 3 steps between absence ...'
    """
    require_run(trajectory)
    if method not in ("auto", "retrain", "smooth"):
        raise InputError(f"no method of trust named {method!r}; choose one of auto, retrain, smooth")
    whole_number("examples", examples, 3)
    check_seed("seed", seed)
    trajectory = averaged_as(trajectory, average, estimator)
    if isinstance(windows, str) and windows == "horizons":
        windows = horizons(trajectory.plan.epoch.tolist())
    query, scores, chosen = _scored(trajectory, query, estimator, windows, removal)
    if "intercept" in scores:
        raise InputError(
            "trust asks what leaving out single examples does, and these scores are for sets; ask about sets "
            'by evaluate(run, "lds")'
        )
    method = method_for(trajectory, strategy) if method == "auto" else method
    generator = torch.Generator().manual_seed(seed)
    spans = looked_at(chosen, trajectory.steps, trajectory.last_read)
    if method == "retrain":
        given = trajectory, query, scores, chosen, spans, examples, generator, strategy
        found, reason = by_retraining(*given)
    else:
        found, reason = by_smoothness(trajectory, query, scores, chosen, spans, generator, strategy)
    own = estimator_of(scores) if isinstance(estimator, xr.Dataset) else resolve("estimator", estimator)
    every, limit, values = checks(trajectory, query, scores, own, found, chosen), LIMITS[method], found.trust
    said = [each.warning for each in every if each.warning]
    low = below(trajectory.workload, values.values, limit)
    if values.isnull().all():
        zero = zero_words(trajectory, query, chosen, torch.as_tensor(scores.influence.values))
        low = f"nothing can be said of trust: {zero or reason}"
    said = [low, *(s[0].upper() + s[1:] for s in said)] if low else said
    steps = trajectory.steps
    return found.assign(overall=values.mean(), **as_variables(every)).assign_coords(
        check=[each.name for each in every],
        reach=("window", [reach(window) for window in chosen]),
        gap=("window", [gap(window, steps) for window in chosen]),
    ).assign_attrs(
        method=method, limit=limit, warning=". ".join(said), query=label(query),
        estimator=str(scores.attrs.get("estimator")), run=run_of(trajectory, query), **asked(trajectory),
        **{name: text for name, text in scores.attrs.items() if name == "caution"},
        believed=believed(chosen, values.values, limit, steps, found["count"].values.tolist()),
    )  # fmt: skip


def method_for(trajectory: Trajectory, strategy: Strategy) -> Literal["retrain", "smooth"]:
    """What `auto` is."""
    small = trajectory.workload.n_params <= _BATCHED and strategy_of(trajectory, strategy) == "batch"
    return "retrain" if small else "smooth"


def _scored(
    trajectory: Trajectory, query: Query | str, estimator: Any, windows: Windows, removal: Removal
) -> tuple[Query, xr.Dataset, list[Window]]:
    """As `scored`, with NaN in windows that overflow floating point, where others do not."""
    try:
        return scored(trajectory, query, estimator, windows, removal)
    except DivergedError:
        chosen = windows_among(trajectory.plan.epoch.tolist(), windows, removal)
        if len(chosen) == 1:
            raise
        each: list[xr.Dataset | None] = []
        for window in chosen:
            try:
                query, one, _ = scored(trajectory, query, estimator, [window], removal)
            except DivergedError:
                one = None
            each.append(one)
        known = next((one for one in each if one is not None), None)
        if known is None:
            raise
        parts = [xr.full_like(known.influence, np.nan) if x is None else x.influence for x in each]
        influence = xr.concat([p.reset_coords(drop=True) for p in parts], "window")
        return (
            query,
            known.drop_dims("window").assign(influence=influence).assign_coords(window_coords(chosen)),
            chosen,
        )  # type: ignore[return-value]
