"""The four influence patterns: early influencers, late bloomers, stable and highly fluctuating ones."""

from typing import Literal

import numpy as np
import xarray as xr
from scipy import special, stats

from influencekit.errors import InputError
from influencekit.extend import better_in

__all__ = ["PATTERNS", "patterns"]

PATTERNS = ("early", "late", "stable", "fluctuating")
Correction = Literal["none", "benjamini-hochberg"]


def patterns(
    influence: xr.DataArray,
    *,
    significance: float = 0.05,
    correction: Correction = "none",
    change: float = 1.0,
    fluctuating: float = 2.0,
    adaptive: bool = True,
    magnitude: bool = False,
    ddof: int = 0,
) -> xr.Dataset:
    """The pattern of every example's influence over time.

    `influence` [window, train], one window an epoch, as `estimate(..., windows="each-epoch")` gives it;
    further dimensions are mapped over. With z the influence standardised within each window,

        z[e, j] = (x[e, j] - mean_j x[e]) / std_j x[e]          z[e, j] = intercept + slope[j] e + error

    example j has a trend where its slope is significant (two-sided t-test of linear regression on the number
    e of the window) and its line moves by `change` or more from the first window to the last. It is `early`
    if the trend is downwards, `late` if it is upwards; without a trend it is `fluctuating` where
    deviation[j] = std_e z[e, j] is above a limit, else `stable`. A window in which all examples have the same
    influence has z = 0; an example with constant z has slope 0 and p-value 1.

    The result: `pattern`, `slope` (per window), `p_value`, `deviation` [train]; `standardised`
    [window, train]; `centroid` [kind, window], the mean of z over the examples of a pattern, NaN where it has
    none; `share` [kind], the fraction of the examples; `limit`, the deviation above which an example
    fluctuates. And `pattern_by_p` [train], `share_by_p` [kind]: the same by the paper's rule alone,
    significance without `change`.

    The paper (arXiv 2502.10793, V-B and F-B) gives these steps and none of their numbers:

    - `significance`, `correction`: "statistically significant" is read as p < .05 of each example by itself;
      "benjamini-hochberg" holds the fraction of false trends below `significance` instead.
    - `change`: 1, one standard deviation of an epoch over the whole run. It is our addition: neighbouring
      epochs are alike, which the t-test does not know, so that by p alone (`change=0`) more than half of the
      examples of the paper's MNIST problems trend, where it prints 65 to 98 % Stable for all its problems.
    - `fluctuating`, `adaptive`: "adaptive" and "standard deviation" are the words. Read as: the limit is the
      mean deviation of the examples without a trend plus `fluctuating` (2) times the standard deviation of
      these deviations. With adaptive=False the limit is `fluctuating` itself.
    - `magnitude`: the paper's regression is on signed values, so an example whose negative effect fades (for
      a loss, a harmful one) has a rising line and is `late`. True takes slope and p-value of |z|, and so asks
      whether influence of either sign fades or grows; everything else stays signed.
    - `ddof`: 0 as in its StandardScaler, for z and for deviations.

    Cost: O(window x train). Errors: fewer than three windows or two examples, values that are not finite.
    """
    _check(influence, significance, correction, change, fluctuating)
    x = influence.transpose(..., "window", "train").values.astype(np.float64)
    z = _standardised(x, ddof)
    slope, p = _trend(np.abs(z) if magnitude else z)
    if correction == "benjamini-hochberg":
        p = stats.false_discovery_control(p, axis=-1)
    deviation = z.std(-2, ddof=ddof)

    def classes(trend: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The number of each example's pattern, given who has a trend, and the limit of fluctuation."""
        limit = np.full(deviation.shape[:-1], float(fluctuating))
        if adaptive:
            limit = _limit(deviation, ~trend, fluctuating, ddof)
        # of examples whose deviations differ by rounding alone, none fluctuates more than the others
        much = deviation > limit[..., None] * (1 + 1e-9) + 1e-12
        return np.select([trend & (slope < 0), trend & (slope > 0), ~much], [0, 1, 2], 3), limit

    code, limit = classes((p < significance) & (np.abs(slope) * (x.shape[-2] - 1) >= change))
    by_p = classes(p < significance)[0]
    member = code[..., None, :] == np.arange(len(PATTERNS))[:, None]  # [..., pattern, train]
    count = member.sum(-1)
    total = member @ z.swapaxes(-1, -2)
    centroid = np.full(total.shape, np.nan)
    np.divide(total, count[..., None], out=centroid, where=count[..., None] > 0)
    more = tuple(d for d in influence.dims if d not in ("window", "train"))
    return xr.Dataset(
        {
            "pattern": ((*more, "train"), np.array(PATTERNS)[code]),
            "standardised": ((*more, "window", "train"), z),
            "slope": ((*more, "train"), slope),
            "p_value": ((*more, "train"), p),
            "deviation": ((*more, "train"), deviation),
            "limit": (more, limit),
            "centroid": ((*more, "kind", "window"), centroid),
            "share": ((*more, "kind"), _fractions(code)),
            "pattern_by_p": ((*more, "train"), np.array(PATTERNS)[by_p]),
            "share_by_p": ((*more, "kind"), _fractions(by_p)),
        },
        coords={**influence.coords, "kind": list(PATTERNS)},
        attrs={
            "significance": significance,
            "correction": correction,
            "change": change,
            "fluctuating": fluctuating,
            "adaptive": int(adaptive),  # netCDF knows no booleans
            "magnitude": int(magnitude),
            "ddof": ddof,
            "better": better_in(influence.attrs) or "none",
        },
    )


def _fractions(code: np.ndarray) -> np.ndarray:
    """The fraction [..., pattern] of the examples [..., train] that are of each pattern."""
    return (code[..., None, :] == np.arange(len(PATTERNS))[:, None]).mean(-1)


def _check(
    influence: xr.DataArray, significance: float, correction: str, change: float, fluctuating: float
) -> None:
    if not isinstance(influence, xr.DataArray) or not {"window", "train"} <= set(influence.dims):
        got = dict(influence.sizes) if isinstance(influence, xr.DataArray) else type(influence).__name__
        raise InputError(
            f"patterns: expected influence [window, train], got {got}; "
            'give it estimate(run, windows="each-epoch").influence'
        )
    windows, n = influence.sizes["window"], influence.sizes["train"]
    if windows < 3 or n < 2:
        raise InputError(
            f"patterns needs at least 3 windows and 2 examples, got {windows} and {n}; use each-epoch windows"
        )
    if not np.isfinite(influence.values).all():
        raise InputError(
            "patterns: the influence holds NaN or infinity; drop examples that were not scored with "
            'influence.dropna("train")'
        )
    if not 0 < significance < 1:
        raise InputError(f"significance must be between 0 and 1, got {significance}")
    if change < 0 or fluctuating < 0:
        raise InputError(f"change and fluctuating must be at least 0, got {change} and {fluctuating}")
    if correction not in ("none", "benjamini-hochberg"):
        raise InputError(f"no correction named {correction!r}; choose none or benjamini-hochberg")


def _standardised(x: np.ndarray, ddof: int) -> np.ndarray:
    """Each window's values with mean 0 and deviation 1 over the examples; 0 where they are all the same."""
    largest = np.abs(x).max(-1, keepdims=True)
    x = x / np.where(largest == 0, 1, largest)  # so that squares of 1e-200 live
    x = x - x.mean(-1, keepdims=True)
    deviation = x.std(-1, ddof=ddof, keepdims=True)
    same = deviation <= 1e-14  # of what was at most 1: rounding of the mean
    return np.where(same, 0, x / np.where(same, 1, deviation))


def _limit(deviation: np.ndarray, among: np.ndarray, times: float, ddof: int) -> np.ndarray:
    """Mean plus so many standard deviations of these examples' deviations; NaN where there are none."""
    count = np.where(among.any(-1), among.sum(-1), np.nan)
    mean = np.where(among, deviation, 0).sum(-1) / count
    squares = np.where(among, (deviation - mean[..., None]) ** 2, 0).sum(-1)
    return mean + times * np.sqrt(squares / np.maximum(count - ddof, 1))


def _trend(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope of z [..., window, train] on the number of the window, and the p-value of slope 0."""
    windows = z.shape[-2]
    e = np.arange(windows) - (windows - 1) / 2
    centred = z - z.mean(-2, keepdims=True)
    slope = e @ centred / (e @ e)
    explained = slope**2 * (e @ e)
    total = (centred**2).sum(-2)
    flat = total <= 1e-24 * windows  # a constant, as far as rounding lets it be one
    r2 = np.clip(explained / np.where(flat, 1, total), 0, 1)
    freedom = windows - 2
    # P(|t| > sqrt(freedom r2 / (1 - r2))) for Student's t, without the division by 1 - r2 = 0
    p = special.betainc(freedom / 2, 0.5, 1 - r2)
    return np.where(flat, 0, slope), np.where(flat, 1, p)
