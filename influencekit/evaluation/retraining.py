"""The run retrained without each of many sets of examples, kept in a folder if one is named."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from influencekit._address import local
from influencekit._effects.retrain import (
    Models,
    Strategy,
    Weighting,
    capacity,
    check_finite,
    query_at,
    retrained,
    spans,
    strategy_of,
)  # fmt: skip
from influencekit._effects.sliced import run_key, session_for
from influencekit._executors.slices import Slice
from influencekit._training.buffers import flat
from influencekit._trajectory.fingerprint import digest
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import DivergedError, InputError
from influencekit.evaluation.cache import Folder
from influencekit.interfaces import Query
from influencekit.progress import track
from influencekit.windows import Window

__all__ = ["draw_seed", "random_sets", "set_effects", "sizes"]

_PIECE = 64  # sets that are retrained, and kept, at once; 4 where models are trained one after the other


def draw_seed(trajectory: Trajectory, seed: int) -> tuple[int, int]:
    """What a random choice for this run is seeded with: every seed of a workload has choices of its own."""
    return seed % 2**64, trajectory.workload.seed % 2**64  # NumPy takes none below 0


def random_sets(n: int, sizes: Sequence[int], seed: tuple[int, ...]) -> np.ndarray:
    """Random sets of these sizes of n examples, as masks [set, train]; the first ones do not depend on how
    many there are."""
    generator = np.random.default_rng(seed)
    masks = np.zeros((len(sizes), n), dtype=bool)
    for mask, size in zip(masks, sizes, strict=True):
        mask[generator.permutation(n)[:size]] = True
    return masks


def sizes(n: int, k: tuple[int, ...] | None) -> tuple[int, ...]:
    """How many of n examples to leave out: as asked for, or 1, 4, 16, ... up to a quarter of them."""
    if k is None:
        return tuple(4**e for e in range(20) if 4**e <= max(1, n // 4))
    if not k or len(set(k)) != len(k) or not all(0 < each < n for each in k):
        raise InputError(
            f"k must be different whole numbers from 1 to {n - 1}, so that some of {n} examples stay; got "
            f"{'+'.join(map(str, k)) or 'none'}"
        )
    return tuple(sorted(k))


def set_effects(
    trajectory: Trajectory,
    query: Query,
    left_out: np.ndarray,
    windows: Sequence[Window],
    strategy: Strategy = "auto",
    store: str | Path | None = None,
    drawn: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Effects [query, window, set] of leaving out every set of `left_out` [set, train] together.

    Retrained on the recorded batches, under each window's own removal; minus the recorded run. With `store`,
    a folder, the retrained parameters are kept there, a piece at a time, and taken from there where they are:
    a call that was killed continues, another query or estimator costs no retraining, and more sets are added
    to those that are there. `drawn` says how the sets were drawn, and is compared.

    Errors: as `cache.Folder`; a retraining that leaves the finite numbers.
    """
    workload, steps = trajectory.workload, trajectory.steps
    states: dict[tuple[int, int, int], None] = {}  # (absent from, absent to, state)
    for absent, members in spans(windows, steps).items():
        for t in sorted({t for k in members for t in windows[k].evaluations(steps)}):
            states[(*absent, t)] = None
    recorded = {t: trajectory.evaluated(t) for _, _, t in states}
    own = _own(trajectory, list(states))
    change_of = query_at(trajectory, query, list(recorded))
    out = np.zeros((len(query.labels(workload)), len(windows), len(left_out)))
    pieces = _pieces(trajectory, left_out, list(states), own, strategy, store, drawn or {})
    with closing(pieces):  # an error releases the folder
        for rows, theta in pieces:
            changes = {}
            for place, (key, t) in enumerate((key, key[2]) for key in states):
                each, state = theta[:, place].to(own[t]), recorded[t]
                size = len(state.theta)
                models = Models([*rows], t, each[:, :size], state.theta, each[:, size:], state.buffers)
                changes[key] = change_of(models).double().cpu().numpy()
            for absent, members in spans(windows, steps).items():
                for k in members:
                    signs = windows[k].evaluations(steps).items()
                    out[:, k, rows] = sum(sign * changes[(*absent, t)] for t, sign in signs)
    if not np.isfinite(out).all():
        raise DivergedError("the query is NaN or infinite in a retrained run; lower the learning rate")
    return out


def _pieces(
    trajectory: Trajectory,
    left_out: np.ndarray,
    states: list[tuple[int, int, int]],
    own: Mapping[int, Tensor],
    strategy: Strategy,
    store: str | Path | None,
    drawn: Mapping[str, Any],
) -> Generator[tuple[range, Tensor], None, None]:
    """(numbers of sets, their parameters [set, state, param]), from the folder or retrained now."""
    together = strategy_of(trajectory, strategy) == "batch"
    size = capacity(trajectory, _PIECE) if together else 4
    if store is None:
        whole = [range(first, min(first + size, len(left_out))) for first in range(0, len(left_out), size)]
        yield from _trained(trajectory, left_out, whole, states, own, strategy)
        return
    recorded = torch.stack([own[t] for _, _, t in states]).cpu().numpy()
    with Folder.open(local(store), trajectory, states, recorded, left_out, drawn) as folder:
        todo = folder.todo(size)
        for rows in folder.done:
            yield rows, torch.from_numpy(folder.read(rows))
        for rows, theta in _trained(trajectory, left_out, todo, states, own, strategy):
            folder.write(rows, theta.cpu().numpy())
            yield rows, theta


def _trained(
    trajectory: Trajectory, left_out: np.ndarray, todo: Sequence[range], states: list[tuple[int, int, int]],
    own: Mapping[int, Tensor], strategy: Strategy,
) -> Iterator[tuple[range, Tensor]]:  # fmt: skip
    """(numbers of sets, their parameters [set, state, param]): trained here, or each on an executor."""
    if (session := session_for(trajectory)) is None:
        for rows in track(todo, "sets left out", len(todo)):
            yield rows, _retrained(trajectory, left_out[rows], states, own, strategy)
        return
    strategy = strategy_of(trajectory, strategy)  # type: ignore[assignment]  # batch or loop
    asked = {"what": "sets", **run_key(trajectory), "states": states, "strategy": strategy}
    slices = [
        Slice({**asked, "left out": digest([left_out[rows]])}, _slice, (left_out[rows], states, strategy))
        for rows in todo
    ]
    with closing(session.of(trajectory, "sets left out", slices)) as each:
        for number, found in each:
            yield todo[number], torch.from_numpy(found.theta.values)


def _slice(
    trajectory: Trajectory, left_out: np.ndarray, states: list[tuple[int, int, int]], strategy: Strategy
) -> xr.Dataset:
    """The parameters of some sets, in a worker."""
    theta = _retrained(trajectory, left_out, states, _own(trajectory, states), strategy)
    return xr.Dataset({"theta": (("set", "state", "param"), theta.cpu().numpy())})


def _own(trajectory: Trajectory, states: Sequence[tuple[int, int, int]]) -> dict[int, Tensor]:
    """{state: the recorded run's parameters, and buffers behind them}."""
    recorded = {t: trajectory.evaluated(t) for _, _, t in states}
    return {t: _packed(state.theta, flat(state.buffers, state.theta)) for t, state in recorded.items()}


def _retrained(
    trajectory: Trajectory,
    left_out: np.ndarray,
    states: list[tuple[int, int, int]],
    own: Mapping[int, Tensor],
    strategy: Strategy,
) -> Tensor:
    """Parameters, and buffers behind them, [set, state, param + buffer] without each of these sets."""
    weightings = [Weighting(torch.from_numpy(mask.nonzero()[0])) for mask in left_out]
    recorded = torch.stack([own[t] for _, _, t in states])
    theta = recorded.expand(len(weightings), *recorded.shape).clone()
    for absent in dict.fromkeys(key[:2] for key in states):
        when = [t for *span, t in states if tuple(span) == absent]
        for models in retrained(trajectory, weightings, absent, when, strategy):
            place = states.index((*absent, models.state))
            theta[models.members, place] = _packed(models.theta, models.buffers).detach()
    check_finite(theta.movedim(0, -1), weightings, trajectory.workload)
    return theta


def _packed(theta: Tensor, buffers: Tensor | None) -> Tensor:
    """Parameters and the buffers that training changes, one behind the other."""
    return theta if buffers is None else torch.cat([theta, buffers], -1)
