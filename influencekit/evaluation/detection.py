"""Wrong labels: plant them, and see whether scores find them."""

import math
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from scipy import stats
from torch import Tensor

from influencekit._arguments import check_seed, real_number, short
from influencekit._direction import better_in
from influencekit._effects.labels import labels_of, pieces_of
from influencekit._training.batch import NewEntries, tensors_of
from influencekit._training.workload import Workload
from influencekit.errors import InputError

__all__ = ["detection", "flipped", "flips", "labelled"]


def flipped(workload: Workload, fraction: float = 0.1, seed: int = 0) -> tuple[Workload, np.ndarray]:
    """The workload with this fraction of its training labels flipped, and which: a mask [train].

    floor(fraction n) examples drawn without replacement, as the paper's 5, 10, 15, 20 % of 256 = 12, 25, 38,
    51. Two classes (whole numbers, booleans, or floats 0 and 1) change places; of more, each label becomes
    another one that occurs, all equally likely. Labels that the loss ignores, such as -100, are none: n does
    not count them, and none is flipped or becomes one. Nothing else changes: test and validation sets keep
    their labels, and the batches their order. `info` of the result holds `flipped`, their number, and no
    `spec`.

    Errors: labels that are no classes (other floats, several for one example, data without targets), fewer
    than two classes, a fraction that flips none or is above 1.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.evaluation import flipped
        >>> wrong, mask = flipped(ik.make("workload", "mnist-1v7-lr:n_train=24"), 0.25)
        >>> int(mask.sum()), wrong.n_train
        (6, 24)
    """
    if not isinstance(workload, Workload):
        raise InputError(f"flipped: expected a Workload, got {short(workload)}")
    if not isinstance(workload.train, Tensor | tuple | list | dict):
        raise InputError("flipped: a taped run is trained already; flip the labels of its data before taping")
    changed, mask = flips(workload, fraction, seed)
    info = {k: v for k, v in workload.info.items() if k != "spec"}  # no longer the problem of that name
    train = changed.within(workload.train, torch.arange(workload.n_train))
    return replace(workload, train=train, info={**info, "flipped": int(mask.sum())}), mask


def flips(workload: Workload, fraction: float, seed: int) -> tuple[NewEntries, np.ndarray]:
    """Other labels for this fraction of the training examples, and which: a mask [train]. As `flipped`, of a
    taped run as well. Cost: of a taped run every example is fetched."""
    fraction, seed = real_number("fraction", fraction), check_seed("seed", seed) % 2**64
    place, target = _labels(workload)
    there = labelled(workload)
    n = len(there)
    count = math.floor(fraction * n + 1e-9)  # 0.29 * 100 is 28.999...
    if not 0 < fraction <= 1 or count < 1:
        raise InputError(f"fraction must flip at least one of {n} labels and at most all, got {fraction}")
    generator = np.random.default_rng(seed)
    some = np.sort(generator.permutation(n)[:count])
    classes, own = torch.unique(target[torch.from_numpy(there).to(target.device)], return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"to flip labels there must be two classes, and all {n} are {classes[0].item():g}")
    chosen = there[some]
    rows = torch.from_numpy(chosen).to(target.device)
    further = torch.from_numpy(generator.integers(1, len(classes), count)).to(target.device)
    places = (own.reshape(n)[torch.from_numpy(some).to(own.device)] + further) % len(classes)
    mask = np.zeros(workload.n_train, dtype=bool)
    mask[chosen] = True
    return NewEntries(rows, {place: classes[places].reshape(target[rows].shape)}), mask


def labelled(workload: Workload) -> np.ndarray:
    """Positions of the examples whose target the loss does not ignore (as -100), ascending."""
    labels = labels_of(workload)
    if labels.ignored is None:
        return np.arange(workload.n_train)
    return np.flatnonzero(labels.known.cpu().numpy())


def detection(scores: xr.DataArray, corrupted: np.ndarray | xr.DataArray) -> xr.Dataset:
    """How well scores find corrupted examples, the most negative score being the most suspicious.

    Scores of a query of which higher is better (a margin; their attr `better`, which `estimate` and `compare`
    set, says so) are turned round first, so that the most suspicious is the most harmful there, too. "Most
    negative" below is meant so.

    `scores` [..., train]; `corrupted` a mask [train], or labelled, with some of the scores' dimensions (such
    as [seed, train]). With m corrupted among n, over the leading dimensions of `scores`:

    - `found`: how many of the m are among the m most negative; as a fraction of m it is precision and recall.
    - `auc`: the probability that a corrupted example has a lower score than a clean one, equal scores
      counting half (Mann-Whitney); chance is .5.
    - `average_precision`: sum over distinct scores of precision times the step in recall; chance is m / n.
    - `precision`, `recall` [.., k]: among the k most negative, k = 1 ... n.

    Where scores are equal, no order of them is better than another: `found` and the curves are the mean over
    all orders, so they can be fractions and do not depend on the order of the examples. Equal to
    scikit-learn's roc_auc_score and average_precision_score of -scores. Cost O(n log n) a row.

    Errors: scores that are NaN (drop them), a mask of another shape or other examples, none or all corrupted.

    Example:

        >>> import numpy as np
        >>> import xarray as xr
        >>> from influencekit.evaluation import detection
        >>> found = detection(xr.DataArray([-3.0, 1.0, -2.0, 2.0], dims="train"), np.array([1, 0, 0, 1]) > 0)
        >>> float(found.found), float(found.auc)
        (1.0, 0.5)
    """
    if not isinstance(scores, xr.DataArray) or "train" not in scores.dims:
        got = scores.dims if isinstance(scores, xr.DataArray) else type(scores).__name__
        raise InputError(f"detection: expected scores [.., train], got {got}")
    if scores.dtype.kind not in "fiu":
        raise InputError(f"detection: expected scores that are numbers, got {scores.dtype}")
    x = scores.transpose(..., "train")
    mask = _mask(x, corrupted)
    values = x.values.astype(np.float64) * (-1 if better_in(scores.attrs) == "higher" else 1)
    if np.isnan(values).any():
        raise InputError(
            "detection: scores hold NaN; drop the examples that were not scored, from scores and mask alike"
        )
    n, m = values.shape[-1], mask.sum(-1)
    if (m == 0).any() or (m == n).any():
        raise InputError(
            f"detection: some examples must be corrupted and some not; {int(m.min())} of {n} are"
        )
    ranks = stats.rankdata(values, axis=-1)  # equal scores share their mean rank
    auc = 1 - (np.where(mask, ranks, 0).sum(-1) - m * (m + 1) / 2) / (m * (n - m))
    order = values.argsort(-1, kind="stable")
    lowest, here = (np.take_along_axis(v, order, -1) for v in (values, mask))
    hits, after, end = _hits(lowest, here)
    k = np.arange(1, n + 1)
    found = np.take_along_axis(hits, (m - 1)[..., None], axis=-1)[..., 0]
    more = x.dims[:-1]
    coords = {name: c for name, c in x.coords.items() if "train" not in c.dims}
    return xr.Dataset(
        {
            "found": (more, found),
            "auc": (more, auc),
            "average_precision": (more, (here * after / (end + 1)).sum(-1) / m),
            "precision": ((*more, "k"), hits / k),
            "recall": ((*more, "k"), hits / m[..., None]),
            "corrupted": (more, m),
        },
        coords={**coords, "k": k},
        attrs={"examples": n},
    )


def _hits(lowest: np.ndarray, here: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every place k of ascending scores [.., k]: three things that no order of equal scores changes.

    The expected number of corrupted ones up to k; their number up to the end of the run of equal scores that
    k stands in; that end.
    """
    n = lowest.shape[-1]
    place = np.arange(n)
    change = lowest[..., 1:] != lowest[..., :-1]
    edge = np.ones((*lowest.shape[:-1], 1), dtype=bool)
    first, last = np.concatenate([edge, change], -1), np.concatenate([change, edge], -1)
    start = np.maximum.accumulate(np.where(first, place, 0), axis=-1)
    end = np.minimum.accumulate(np.where(last, place, n)[..., ::-1], axis=-1)[..., ::-1]
    total = here.cumsum(-1)
    after = np.take_along_axis(total, end, -1)
    before = np.take_along_axis(total - here, start, -1)
    return before + (after - before) * (place - start + 1) / (end - start + 1), after, end


def _mask(scores: xr.DataArray, corrupted: np.ndarray | xr.DataArray) -> np.ndarray:
    """The mask in the scores' shape [.., train]."""
    if not isinstance(corrupted, xr.DataArray):
        try:
            corrupted = np.asarray(corrupted)
        except Exception:  # a Dataset, an object of the user's own
            raise InputError(f"detection: expected a mask of booleans, got {short(corrupted)}") from None
        if corrupted.shape != (scores.sizes["train"],):
            raise InputError(
                f"detection: expected a mask of {scores.sizes['train']} examples, got shape "
                f"{list(corrupted.shape)}"
            )
        corrupted = xr.DataArray(corrupted, dims="train")
    if corrupted.dtype != bool:
        raise InputError(f"detection: corrupted must be a mask of booleans, got {corrupted.dtype}")
    if "train" not in corrupted.dims or not set(corrupted.dims) <= set(scores.dims):
        raise InputError(f"detection: the mask {corrupted.dims} does not fit the scores {scores.dims}")
    try:
        both = xr.align(scores, corrupted, join="exact")
        return both[1].broadcast_like(both[0]).transpose(*scores.dims).values
    except ValueError as error:
        raise InputError(f"detection: scores and mask are not of the same examples: {error}") from None


def _labels(workload: Workload) -> tuple[int, Tensor]:
    """Where the target stands among the tensors of a batch, and all training targets, one class each."""
    targets, place = list[Tensor](), -1
    for _, batch in pieces_of(workload):
        target = workload.target(batch)
        places = [k for k, x in enumerate(tensors_of(batch)) if x is target]
        if isinstance(batch, Tensor) or not places:
            raise InputError("these training data are their own targets; there are no labels to flip")
        if target.shape not in ((len(target),), (len(target), 1)):
            shape = [workload.n_train, *target.shape[1:]]
            raise InputError(f"flipped: expected one label an example, got targets of shape {shape}")
        place = places[0]
        targets.append(target)
    target = torch.cat(targets)
    if target.is_complex() or (target.is_floating_point() and not ((target == 0) | (target == 1)).all()):
        raise InputError(
            "flipped: the training targets are not classes; expected whole numbers, or 0.0 and 1.0"
        )
    return place, target
