"""Embeddings of every occurrence as a labelled store, and what can be asked of it."""

from bisect import bisect_right
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from influencekit import DivergedError, InputError, Query, Trajectory, Workload
from influencekit.extend import Layout, NewStore
from influencekit.registry import resolve
from influencekit_dvemb.files import attributes, feature_layers, new_array, opened
from influencekit_dvemb.projection import Layer, Projection
from influencekit_dvemb.recursion import Later, Segment, cuts
from influencekit_dvemb.recursion import segments as in_segments
from influencekit_dvemb.sources import Replayed, Source, Stored

__all__ = ["embed", "neighbours", "scores", "totals"]

_ROWS = 256 << 20  # bytes of embeddings that are read at once


def embed(
    source: Trajectory | xr.Dataset | str | Path,
    store: str | Path,
    *,
    dim: int | None = 1024,
    seed: int = 0,
    checkpoints: Sequence[int] = (),
    segments: int | None = None,
) -> xr.Dataset:
    """The data value embedding of every occurrence, to the end of the run, written to `store`.

        e_t(z) = (lr_t / b) [prod_{k > t} (I - lr_k H_k)] g(theta_t, z),    H_k = (1/b) sum_i g_i g_i^T

    `source` is a recorded run, or what a `Collector` stored (then `dim` and `seed` are those it collected
    with). `embedding` [step, slot, feature] is 0 where padded; `batch` [step, slot] is the example's position
    in `train`, -1 where padded. `checkpoints` are states besides the end at which `scores` can be asked: for
    them the embeddings to the next checkpoint (`local`), and what lies between two of them, I - M (`transfer`
    [stretch, feature, other] holds M, layer by layer), are written as well. `segments` is how many are
    computed side by side, as in `DVEmb`. The store appears whole or not at all.
    Cost: see `DVEmb`; disk: steps x slots x features numbers, twice with checkpoints,
    and features squared for each of them.
    Errors: a path that exists, another optimizer than plain SGD.
    """
    gradients = (
        Replayed(source, dim, seed) if isinstance(source, Trajectory) else Stored(opened(source, "gradient"))
    )
    if isinstance(source, Trajectory) and (source.first, source.last) != (0, source.steps):
        raise InputError(
            "embed needs a run recorded from step 0 to its end; this recording holds the states "
            f"{source.first} to {source.last} of {source.steps} steps"
        )
    steps = gradients.steps
    if wrong := [t for t in checkpoints if not 0 < t <= steps]:
        raise InputError(f"embed: checkpoints must be states from 1 to {steps}, got {wrong[0]}")
    stops = sorted({*checkpoints, steps})
    spans = cuts(0, steps, gradients.width, segments, stops)
    new = NewStore(store)
    try:
        _fill(new, gradients, spans, stops if len(stops) > 1 else [])
        about = _inherited(gradients) if isinstance(gradients, Stored) else _about(source, gradients, stops)
        if len(stops) > 1:
            about = about.assign_coords(stop=("stretch", stops))
        new.commit(about)
    finally:
        new.discard()
    return xr.open_zarr(new.path, chunks=None)


def scores(
    embeddings: xr.Dataset | str | Path,
    query: Query | str | Tensor | np.ndarray = "test-loss",
    workload: Workload | None = None,
    at: Sequence[int] | None = None,
) -> xr.Dataset:
    """What every occurrence adds to the effect on a query: embeddings times the query's projected gradients.

    `contribution` [query, evaluation, step, slot] is labelled as `ik.contributions` labels it, so
    `ik.sum_over_windows` makes scores of it. `query` is a query of `workload`, or its gradients
    [query, param] as an array, for which no workload is needed. `at`: the states to evaluate at, the end of
    the run by default; others must be checkpoints of the embeddings.
    Sign: removal minus full. Cost: one matrix product (other states: one more a checkpoint), no model but for
    the query's gradient.
    """
    found = opened(embeddings, "embedding")
    steps = found.sizes["step"]
    states = [steps] if at is None else sorted({int(t) for t in at})
    stops = [] if "local" not in found else found.stop.values.tolist()
    if wrong := [t for t in states if t != steps and t not in stops]:
        known = ", ".join(map(str, stops)) or f"{steps}, the end; make them with checkpoints=[...] for others"
        raise InputError(f"these embeddings cannot be evaluated at state {wrong[0]}; they can at {known}")
    projection, layout = projection_of(found)
    names, gradients = _gradients(found, query, workload, states, layout)
    values = np.zeros((len(names), len(states), steps, found.sizes["slot"]), found.embedding.dtype)
    for k, t in enumerate(states):
        a = projection.of_flat(layout, gradients[k])
        if t == steps:
            _product(found.embedding, 0, steps, a, values[:, k])
        else:
            _through_segments(found, projection, t, a, values[:, k])
    if not np.isfinite(values).all():
        raise DivergedError("these embeddings have gaps or are not finite: make them again")
    return xr.Dataset(
        {"contribution": (("query", "evaluation", "step", "slot"), values), "batch": found.batch.load()},
        coords={
            "query": names,
            "evaluation": states,
            **{k: found[k].load() for k in ("step", "epoch", "train")},
        },
        attrs={k: v for k, v in found.attrs.items() if k not in ("layers", "parameters")},
    )


def totals(embeddings: xr.Dataset | str | Path) -> xr.DataArray:
    """Embeddings of whole examples [train, feature]: sums over their occurrences, in float64."""
    found = opened(embeddings, "embedding")
    summed = np.zeros((found.sizes["train"], found.sizes["feature"]))
    for low, high in _pieces(found.embedding):
        rows = found.batch[low:high].values
        np.add.at(summed, rows[rows >= 0], found.embedding[low:high].values[rows >= 0])
    return xr.DataArray(
        summed, {"train": found.train, "layer": found.layer}, ("train", "feature"), "embedding"
    )


def neighbours(embeddings: xr.Dataset | str | Path, example: Hashable, count: int = 10) -> xr.DataArray:
    """The examples whose embeddings point most nearly where that of `example` (its id) points.

    `cosine` [train] of the `count` nearest, the nearest first, of summed embeddings (`totals`): +1 means that
    both examples moved the final parameters in the same direction, so that each would do what the other did.
    """
    summed = totals(embeddings)
    ids = summed.train.values.tolist()
    if example not in ids:
        raise InputError(f"no example has the id {example!r}; ids are such as {ids[0]!r}")
    if not 1 <= count < len(ids):
        raise InputError(f"count must be from 1 to {len(ids) - 1}, got {count}")
    e = summed.values
    norms = np.linalg.norm(e, axis=1)
    own = ids.index(example)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.nan_to_num(e @ e[own] / (norms * norms[own]))  # of an example that no batch holds: 0
    order = [k for k in np.argsort(-cosine, kind="stable") if k != own][:count]
    return xr.DataArray(cosine[order], {"train": [ids[k] for k in order]}, ("train",), "cosine")


def projection_of(found: xr.Dataset) -> tuple[Projection, Layout]:
    """The projection a store was made with, and the parameters' layout."""
    like = torch.zeros(0, dtype=getattr(torch, str(found.theta.dtype)))
    layers = [Layer(**each) for each in found.attrs["layers"]]
    names, shapes = zip(*found.attrs["parameters"], strict=True)
    return Projection(layers, int(found.attrs["projection_seed"]), like), Layout(
        names, tuple(map(tuple, shapes))
    )


def _gradients(
    found: xr.Dataset, query: Query | str | Tensor | np.ndarray, workload: Workload | None,
    states: list[int], layout: Layout,
) -> tuple[list[Any], list[Tensor]]:  # fmt: skip
    """Labels, and gradients [query, param] at each state."""
    dtype = getattr(torch, str(found.theta.dtype))
    if not isinstance(query, Query | str):
        given = torch.as_tensor(query).detach().cpu().to(dtype)
        if given.dim() != 2 or given.shape[1] != layout.size or len(states) != 1:
            raise InputError(
                f"scores: expected gradients [query, {layout.size}] at one state, got {list(given.shape)} "
                f"and {len(states)} states"
            )
        return list(range(len(given))), [given]
    if workload is None:
        raise InputError("scores: a query is evaluated on a workload; pass it, or the query's gradients")
    query = resolve("query", query)
    known = found.evaluation.values.tolist()
    if wrong := [t for t in states if t not in known]:
        raise InputError(
            f"scores: the parameters of state {wrong[0]} are not stored; pass the query's gradients"
        )
    thetas = [torch.from_numpy(found.theta.sel(evaluation=t).values).to(workload.theta0) for t in states]
    if len(thetas[0]) != workload.n_params:
        raise InputError(
            f"these embeddings are of a model with {len(thetas[0])} parameters, the workload's has "
            f"{workload.n_params}"
        )
    return list(query.labels(workload)), [
        query.gradient(workload, x).detach().cpu().to(dtype) for x in thetas
    ]


def _pieces(array: xr.DataArray) -> list[tuple[int, int]]:
    steps, each = len(array), max(1, _ROWS // max(1, array[0].nbytes))
    return [(low, min(low + each, steps)) for low in range(0, steps, each)]


def _product(array: xr.DataArray, start: int, stop: int, a: Tensor, out: np.ndarray) -> None:
    """out[query, step, slot] = <a, e> of the steps start ... stop - 1, piece by piece."""
    for low, high in _pieces(array[start:stop]):
        e = torch.from_numpy(array[start + low : start + high].values)
        out[:, start + low : start + high] = (e @ a.T).movedim(-1, 0).numpy()


def _through_segments(found: xr.Dataset, projection: Projection, t: int, a: Tensor, out: np.ndarray) -> None:
    """The same at a checkpoint, by the segments before it: the adjoint goes back by a (I - M)."""
    stops = found.stop.values.tolist()
    starts = [0, *stops[:-1]]
    for k in range(stops.index(t), -1, -1):
        _product(found.local, starts[k], stops[k], a, out)
        M, parts, first = torch.from_numpy(found.transfer[k].values), [], 0
        for part in a.split(projection.sizes, -1):
            n = part.shape[-1]
            parts.append(part - part @ M[first : first + n, :n])
            first += n
        a = torch.cat(parts, -1)


def _fill(new: NewStore, source: Source, spans: Sequence[tuple[int, int]], stops: list[int]) -> None:
    """Write the embeddings, a segment after the other, the last first; at `stops` also those of stretches."""
    sizes, dtype = source.projection.sizes, str(source.lr.dtype).removeprefix("torch.")
    dims, shape = ("step", "slot", "feature"), (source.steps, source.width, sum(sizes))
    final = new_array(new, "embedding", shape, dims, dtype)
    later, here = [Later() for _ in sizes], list[Later]()
    if stops:
        local = new_array(new, "local", shape, dims, dtype)
        matrices = (len(stops), sum(sizes), max(sizes))
        transfer = new_array(new, "transfer", matrices, ("stretch", "feature", "other"), dtype)
    for segment in in_segments(source, spans):
        final[segment.steps] = _rows(_carried(later, segment), source.width)
        if not stops:
            continue
        if segment.steps.stop in stops:
            here = [Later() for _ in sizes]
        local[segment.steps] = _rows(_carried(here, segment), source.width)
        if segment.steps.start in (0, *stops):
            transfer[bisect_right(stops, segment.steps.start)] = _matrices(here, sizes)


def _carried(later: list[Later], segment: Segment) -> list[Tensor]:
    """The segment's embeddings of every layer beyond what came later, which then holds the segment, too."""
    found = []
    for way, E, G in zip(later, segment.embeddings, segment.gradients, strict=True):
        found.append(way.carried(E))
        way.extend(found[-1], G)
    return found


def _rows(parts: Sequence[Tensor], width: int) -> np.ndarray:
    """[step, slot, feature] of all layers."""
    e = torch.cat(list(parts), -1)
    if not e.isfinite().all():
        raise DivergedError(
            "the embeddings of this run grew beyond floating point, as they do where training is unstable; "
            "lower the learning rate, or train in float64"
        )
    return e.view(-1, width, e.shape[-1]).cpu().numpy()


def _matrices(later: list[Later], sizes: list[int]) -> np.ndarray:
    """M of every layer, one below the other: [feature, other], 0 beyond a layer's own width."""
    found = np.zeros((sum(sizes), max(sizes)))
    first = 0
    for way, n in zip(later, sizes, strict=True):
        found[first : first + n, :n] = way.matrix().cpu().numpy()
        first += n
    return found


def _about(run: Any, source: Source, stops: list[int]) -> xr.Dataset:
    """Everything but the embeddings, of a recorded run."""
    ids = list(run.workload.train_ids or range(run.workload.n_train))
    return _described(
        source, run.plan.indices.cpu().numpy(), run.plan.epoch.cpu().numpy(), ids, stops,
        np.stack([run.state(t).theta.cpu().numpy() for t in stops]), run.workload.layout,
    )  # fmt: skip


def _inherited(source: Stored) -> xr.Dataset:
    """Everything but the embeddings, of collected gradients."""
    found = source.found
    names, shapes = zip(*found.attrs["parameters"], strict=True)
    return _described(
        source, found.batch.values, found.epoch.values, found.train.values.tolist(), [source.steps],
        found.theta.values, Layout(names, tuple(map(tuple, shapes))),
    )  # fmt: skip


def _described(
    source: Source, batch: np.ndarray, epoch: np.ndarray, ids: list[Any], stops: list[int],
    theta: np.ndarray, layout: Layout,
) -> xr.Dataset:  # fmt: skip
    example = np.asarray(ids)[np.maximum(batch, 0)]
    return xr.Dataset(
        {"batch": (("step", "slot"), batch), "theta": (("evaluation", "param"), theta)},
        coords={
            "step": np.arange(source.steps),
            "epoch": ("step", epoch),
            "lr": ("step", source.lr.double().cpu().numpy()),
            "example": (("step", "slot"), example),
            "train": ids,
            "evaluation": stops,
            "layer": ("feature", feature_layers(source.projection)),
        },
        attrs=attributes(source.projection, layout),
    )
