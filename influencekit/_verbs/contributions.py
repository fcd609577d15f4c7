"""Contributions: what every occurrence of an example adds to the effect at every evaluation time."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from influencekit._address import local
from influencekit._arguments import checked, short, whole_number
from influencekit._bars import with_progress
from influencekit._files import NewStore
from influencekit._labelled import dataset_of
from influencekit._training.ranks import Ranks
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import averaged, check_average
from influencekit._verbs.by_part import finite, run_by_part
from influencekit._verbs.over_ranks import over_ranks
from influencekit._verbs.own_parts import labels_of
from influencekit._verbs.results import (
    Windows,
    about,
    example_coords,
    require_run,
    require_windows,
    window_coords,
    windows_among,
    windows_of,
)
from influencekit._verbs.shards import Shards, how_far
from influencekit.errors import InputError, StoreError
from influencekit.interfaces import Average, Claim, Contributions, Estimator, Query
from influencekit.registry import label, resolve
from influencekit.windows import Removal, Window

__all__ = ["contributions", "sum_over_windows"]

_DIMS = ("query", "evaluation", "step", "slot")

_CHUNK = 4 << 20  # bytes of a chunk on disk
_HELD = 256 << 20  # bytes of chunks that are gathered before they are written


@with_progress
@checked
def contributions(
    trajectory: Trajectory,
    query: Query | str = "test-loss",
    estimator: Estimator | str = "dit",
    at: str | Sequence[int] | None = None,
    store: str | Path | None = None,
    average: Average | str | Any = None,
    parts: bool = False,
    *,
    group: Any = None,
) -> xr.Dataset:
    """C: the portion of the effect at evaluation e that comes from slot j of step t, for every e, t and j.

        Q_j over a window = signed sums of C[e, t, slots that hold j]       (`sum_over_windows` takes them)

    `contribution` [query, evaluation, step, slot] is 0 for steps after the evaluation and where padded;
    `batch` [step, slot] is the example's position in `train`, -1 where padded. `evaluation` is the number of
    the state at which the query's effect is measured: the ends of epochs (unless you say) or of other windows
    (a text as for `estimate`), or the states listed in `at`. With `average` (as of `estimate`) there is one
    evaluation, the end of the run, which is that average. With `store`, a path, C is written there in
    chunks (zarr), whole or not at all, and comes back lazily; memory then does not grow with the number of
    steps.
    `parts`: C has a last dimension `part`, where the loss tells parts of an example apart (`ik.Parts`), and
    `there` [train, part] says which parts an example has; C of the others is 0.
    `group`: a process group of torch.distributed, all of whose ranks make this call. They compute the sweep
    of `dit` together, and each writes the chunks of its own slots into `store`, on a disk that all of them
    see. That store is there from the start; its attrs `status` and `done_from` [evaluation] say how far it
    came.
    Sign: removal minus full. Cost: one sweep, one adjoint column per query and evaluation.
    Errors: an estimator without contributions, a run not recorded from step 0, a path that exists.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> found = ik.contributions(run, at=[1, 2])
        >>> found.contribution.dims
        ('query', 'evaluation', 'step', 'slot')
    """
    require_run(trajectory)
    store = None if store is None else local(store)
    query, estimator = resolve("query", query), resolve("estimator", estimator)
    trajectory = averaged(trajectory, average)
    if Claim.ADDITIVE not in estimator.claims:
        raise InputError(f"{label(estimator)} does not tell occurrences apart; use dit")
    ends = trajectory.ending is not None and trajectory.ending.asked
    states = _states(trajectory, ("full" if ends else "each-epoch") if at is None else at)
    check_average(trajectory, estimator, [Window(0, t) for t in states])
    trajectory, ranks = over_ranks(trajectory, query, estimator, group, states, parts)
    found, asked = _described(trajectory, query, estimator, states), trajectory
    if ranks is not None:
        return _of_ranks(trajectory, query, estimator, states, found, store, ranks)
    dims: tuple[str, ...] = _DIMS
    if parts:
        asked, number = run_by_part(trajectory, estimator)
        found["there"], dims = (("train", "part"), (number >= 0).cpu().numpy()), (*_DIMS, "part")
    made = estimator.contributions(asked, query, states)
    made = finite(trajectory, made) if parts else made
    shape, dtype = tuple(found.sizes[d] for d in dims), trajectory.workload.theta0.cpu().numpy().dtype
    if store is None:
        values = np.zeros(shape, dtype)
        _fill(values, made, shape[2])
        return found.assign(contribution=(dims, values))
    long = _long(shape, math.prod(shape[3:]), dtype.itemsize)
    new = NewStore(store)
    try:
        array = new.array("contribution", shape, dims, dtype, (1, 1, long, *shape[3:]))
        _zeros(array, trajectory, states, long)
        _fill(array, made, long)
        new.commit(found)
    except OSError as error:
        raise StoreError(f"{store} cannot be written: {error.strerror or error}") from error
    finally:
        new.discard()
    return xr.open_zarr(store)


def _of_ranks(
    trajectory: Trajectory, query: Query, estimator: Estimator, states: list[int], found: xr.Dataset,
    store: Path | None, ranks: Ranks,
) -> xr.Dataset:  # fmt: skip
    """The same by several ranks, each of which writes its own chunks."""
    if store is None:
        raise InputError("contributions: what several ranks compute goes into a store; pass store=path")
    shape, dtype = tuple(found.sizes[d] for d in _DIMS), trajectory.workload.theta0.cpu().numpy().dtype
    divided = not trajectory.step.source.undivided
    wide = ranks.longest_block(shape[3]) if divided else shape[3]
    long = _long(shape, wide, dtype.itemsize)
    last = [trajectory.last_read(t) for t in states]
    shards = Shards(
        store, ranks, found, last, ranks.block(shape[3]) if divided else None,
        shape=shape, dims=_DIMS, dtype=dtype, chunks=(1, 1, long, wide),
    )  # fmt: skip
    try:
        if ranks.rank == 0:
            _zeros(shards.array, trajectory, states, long)
        parts = estimator.contributions(trajectory, query, states)
        _fill(shards.array, parts, long, shards.slots, partial(shards.flushed, wait=divided))
        shards.complete()
    except InputError:  # as a rule before anything was computed
        shards.discard_empty()
        raise
    except OSError as error:
        raise StoreError(f"{store} cannot be written: {error.strerror or error}") from error
    return xr.open_zarr(store)


def _long(shape: tuple[int, ...], slots: int, itemsize: int) -> int:
    """The number of steps in a chunk of so many slots."""
    row = slots * itemsize
    return max(1, min(shape[2], _CHUNK // row, _HELD // (shape[0] * shape[1] * row)))


def _zeros(array: Any, trajectory: Trajectory, states: list[int], long: int) -> None:
    """Chunks after each evaluation: what is NaN is a chunk that was lost."""
    for e, last in enumerate(map(trajectory.last_read, states)):
        array[:, e, -(-last // long) * long :] = 0


@checked
def sum_over_windows(found: xr.Dataset, windows: Windows = None, removal: Removal = "global") -> xr.Dataset:
    """Scores over any windows, as `estimate` gives them, by sums of contributions: no sweep, model or run.

        global [t1, t2):  sum_{t < t2} C[t2, t] - sum_{t < t1} C[t1, t]
        window:           sum_{t1 <= t < t2} C[t2, t]
        occurrence:       sum_{t1 <= t < t2} C[end of the run, t]

    `found` is what `contributions` gave, or a store of it, opened by xarray; `windows` as for `estimate`.
    Or it is what `estimate` gave for adjoining windows, of which larger ones, a list of `Window`s, are made
    (not under `window` removal: such windows do not add up, as each is evaluated at its own end).
    Sign: removal minus full, as of what is summed. Cost: reading the contributions once. Errors: a window
    that needs an evaluation, or a smaller window, which is not there; lost chunks
    or damaged ones.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> found = ik.contributions(run, at=[1, 2])
        >>> ik.sum_over_windows(found, [ik.Window(0, 2), ik.Window(1, 2)]).influence.shape
        (1, 2, 24)
    """
    dataset_of("sum_over_windows", "contributions(...), or what estimate(...) gave", found)
    if "contribution" not in found:
        return _joined(found, windows)
    dataset_of("sum_over_windows", "contributions(...)", found, ("epoch", "batch", "train", "evaluation"))
    epochs = _read(found.epoch).tolist()
    steps, known = len(epochs), found.evaluation.values.tolist()
    chosen = windows_among(epochs, windows, removal)
    needed = sorted({t for w in chosen for t in w.evaluations(steps)})
    for window in chosen:
        if absent := [t for t in window.evaluations(steps) if t not in known]:
            raise InputError(
                f"window {window} with {window.removal} removal needs the effect at state {absent[0]}; these "
                f"contributions have evaluations at {known[0]} ... {known[-1]}, {len(known)} in all: pass "
                f"contributions(..., at=[..., {absent[0]}])"
            )
    more = ["part"] if "part" in found.contribution.dims else []
    n_query, each = found.sizes["query"], [found.sizes[d] for d in ("train", *more)]
    influence = np.zeros((n_query, len(chosen), *each))
    for e in needed:
        mine = [(k, w) for k, w in enumerate(chosen) if e in w.evaluations(steps)]
        cuts = sorted({min(t, e) for _, w in mine for t in w.absent()})
        between = {cuts[0]: np.zeros((n_query, *each))}  # sums from the first cut on
        for low, high in zip(cuts, cuts[1:], strict=False):
            between[high] = between[low] + _summed(found, e, slice(low, high))
        for k, window in mine:
            start, stop = (min(t, e) for t in window.absent())
            influence[:, k] += window.evaluations(steps)[e] * (between[stop] - between[start])
    if not np.isfinite(influence).all():
        raise StoreError(f"these contributions have gaps: {how_far(found)}; compute them again")
    if more:
        influence[..., ~_read(found.there)] = np.nan
    return xr.Dataset(
        {"influence": (("query", "window", "train", *more), influence.astype(found.contribution.dtype))},
        coords={
            "query": found["query"],
            **{name: found[name] for name in ("train", "label") if name in found.coords},
            **window_coords(chosen),
        },
        attrs=found.attrs,
    )


def _joined(found: xr.Dataset, windows: Windows) -> xr.Dataset:
    """Windows as sums of the adjoining ones that they are made of."""
    if "influence" not in found or windows is None or isinstance(windows, str):
        raise InputError(
            "sum_over_windows: expected contributions(...), or what estimate(...) gave and a list of Windows"
        )
    known, windows = windows_of(found), require_windows(windows)
    place = {w: k for k, w in enumerate(known)}
    sums = []
    for window in windows:
        by_start = {w.start: w for w in known if w.removal == window.removal and w.stop <= window.stop}
        parts, t = [window] if window in place else [], window.start
        while not parts or parts[-1].stop < window.stop:
            if t not in by_start or window.removal == "window":
                raise InputError(
                    f"window {window} with {window.removal} removal is not a sum of the windows that these "
                    "scores have; take contributions(...), of which every window is a sum"
                )
            parts.append(by_start[t])
            t = parts[-1].stop
        sums.append(found.influence.isel(window=[place[w] for w in parts]).sum("window"))
    joined = xr.concat(sums, "window").transpose(*found.influence.dims)
    return (
        joined.assign_coords(window_coords(list(windows)))
        .to_dataset(name="influence")
        .assign_attrs(found.attrs)
    )


def _summed(found: xr.Dataset, evaluation: int, steps: slice) -> np.ndarray:
    """Sums [query, train], or by part, of what the steps contribute to an evaluation."""
    some = found.isel(step=steps)
    values = _read(some.contribution.sel(evaluation=evaluation))
    rows, n_train = _read(some.batch).ravel(), found.sizes["train"]
    columns = np.moveaxis(values.reshape(len(values), rows.size, *values.shape[3:]), 1, -1)  # slots last
    there = rows >= 0
    sums = [np.bincount(rows[there], c[there], minlength=n_train) for c in columns.reshape(-1, rows.size)]
    return np.moveaxis(np.stack(sums).reshape(*columns.shape[:-1], n_train), -1, 1)


def _read(array: xr.DataArray) -> np.ndarray:
    """The values, which may lie in a store. Errors: a chunk that is damaged."""
    try:
        return array.values
    except Exception as error:  # every codec has its own exceptions
        raise StoreError(
            f"sum_over_windows: {array.name} cannot be read, a chunk of it is damaged "
            f"({' '.join(str(error).split())}); compute the contributions again"
        ) from error


def _states(trajectory: Trajectory, at: str | Sequence[int]) -> list[int]:
    """The states to evaluate at, ascending."""
    if isinstance(at, str):
        chosen = windows_among(trajectory.plan.epoch.tolist(), at, "global")
        at = [t for w in chosen for t in (w.start, w.stop) if t]
    if not isinstance(at, Iterable) or isinstance(at, bytes | Mapping):
        raise InputError(f"contributions: at must be a list of states, or windows as text, got {short(at)}")
    states, first = sorted({whole_number("contributions: at", t) for t in at}), trajectory.first
    if first or not states or states[0] < 1 or states[-1] > trajectory.last:
        got = f"states {states[0]} to {states[-1]}" if states else "none"
        raise InputError(
            f"contributions: expected states to evaluate at, from 1 to {trajectory.last}, of a run recorded "
            f"from step 0; got {got} of one recorded from step {first}"
        )
    return states


def _described(trajectory: Trajectory, query: Query, estimator: Estimator, states: list[int]) -> xr.Dataset:
    """Everything but C itself."""
    plan = trajectory.plan
    return xr.Dataset(
        {"batch": (("step", "slot"), plan.indices.cpu().numpy())},
        coords={
            "query": labels_of(trajectory, query),
            "evaluation": states,
            "step": np.arange(plan.steps),
            "epoch": ("step", plan.epoch.cpu().numpy()),
            **example_coords(trajectory.workload),
        },
        attrs=about(trajectory, query, estimator),
    )


def _fill(
    array: Any, parts: Iterator[Contributions], long: int, slots: slice = slice(None),
    flushed: Callable[[list[tuple[int, int]], int], None] = lambda columns, begin: None,
) -> None:  # fmt: skip
    """Put C [query, evaluation, step, slot] into an array, `long` steps at once, the last steps first.

    Of several ranks only what is in `slots` is this one's. `flushed(columns, step)`: the columns (evaluation,
    query) were written from this step on.
    """
    gathered: np.ndarray | None = None
    for part in parts:
        values = part.values.transpose(0, 1).cpu().numpy()  # [column, step, slot]
        first, last = part.steps.start, part.steps.stop
        for begin in range((last - 1) // long * long, first // long * long - 1, -long):
            low, high = max(first, begin), min(last, begin + long)
            room = min(long, array.shape[2] - begin)
            if gathered is None:
                gathered = np.zeros((len(values), room, values.shape[2]), values.dtype)
            gathered[:, low - begin : high - begin] = values[:, low - first : high - first]
            if low == begin:
                columns = list(zip(part.of, part.query, strict=True))
                for k, (e, q) in enumerate(columns):
                    one = gathered[k][:, slots]  # of parts, [step, slot x part]
                    array[q, e, begin : begin + room, slots] = one.reshape(room, -1, *array.shape[4:])
                flushed(columns, begin)
                gathered = None
