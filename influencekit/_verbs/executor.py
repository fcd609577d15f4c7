"""`executor=` of verbs: their retraining is handed to it; and how a worker gets a recorded run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import xarray as xr

from influencekit._arguments import short
from influencekit._effects.sliced import run_key
from influencekit._executors import ambient
from influencekit._executors.session import Session, Workers
from influencekit._files import whole
from influencekit._training.workload import Workload
from influencekit._trajectory.ending import Ending
from influencekit._trajectory.fingerprint import digest
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.open import open
from influencekit._verbs.record import record
from influencekit.errors import InputError, StoreError

__all__ = ["with_executor"]

P = ParamSpec("P")
T = TypeVar("T")

_KEPT = 2  # runs that a worker keeps open, for the next slice
_opened: dict[Any, Trajectory] = {}


def with_executor(verb: Callable[P, T]) -> Callable[P, T]:
    """The verb, whose retraining is handed to `executor=`, and whose results then say who did it."""

    @wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        executor: Any = kwargs.pop("executor", None)
        if executor is None:
            return verb(*args, **kwargs)
        workers = executor if isinstance(executor, Workers) else Workers(executor)
        with Session(workers, _reach) as session, ambient.active(session):
            found = verb(*args, **kwargs)
            return _noted(found, session.notes())

    return run


def _noted(found: Any, notes: dict[str, str]) -> Any:
    if isinstance(found, dict):
        return {name: _noted(one, notes) for name, one in found.items()}
    if not isinstance(found, xr.Dataset) or not notes:
        return found
    said = "; ".join(filter(None, (found.attrs.get("caution"), notes.get("caution"))))
    return found.assign_attrs({**notes, **({"caution": said} if said else {})})


@dataclass(frozen=True)
class _Reached:
    """A run as a worker gets it: its store, what it was made of, and which run it must be."""

    store: str
    opens: Callable[[], Any] | None
    workload: Workload | None
    ending: Ending | None
    key: dict[str, Any]

    def opened(self) -> Trajectory:
        """The run; one that was opened for an earlier slice is taken again."""
        name = self.store, digest([self.key])
        if name not in _opened:
            found = self._open().with_ending(self.ending)
            if run_key(found) != self.key:
                raise InputError(
                    f"what a worker opens is another run than {self.store}, or has another test set: opens= "
                    "must make what it was made of"
                )
            _opened[name] = found
            for old in list(_opened)[:-_KEPT]:
                _opened.pop(old, None)
        return _opened[name]

    def _open(self) -> Trajectory:
        if not os.path.lexists(self.store):
            raise StoreError(
                f"a worker does not see the run {self.store}: it needs a folder that all workers see"
            )
        made = self.workload if self.opens is None else self.opens()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the one who asks was told
            if isinstance(made, dict):
                return open(self.store, **made)
            if isinstance(made, Workload):
                return open(self.store, made)
        raise InputError(
            "Workers: opens must give a Workload, or a dict of the arguments of influencekit.open, got "
            f"{short(made)}"
        )


def _reach(trajectory: Trajectory, workers: Workers, folder: Path) -> _Reached:
    if workers.opens is None and "tape" in trajectory.attrs:
        raise InputError(
            "executor: a worker needs the model, loss and data of this taped run; name a function that gives "
            "them: influencekit.Workers(executor, opens=...), --code FILE.py:NAME"
        )
    root = getattr(trajectory.group.store, "root", None)
    if root is None and "tape" in trajectory.attrs:
        raise InputError(
            "executor: this taped run is in memory or at an address, and workers need a folder: tape it into "
            "a store, or copy it here"
        )
    key = run_key(trajectory)
    store = _saved(trajectory, folder / f"run-{digest([key])}.zarr") if root is None else Path(root)
    workload = trajectory.workload if workers.opens is None else None
    return _Reached(str(store), workers.opens, workload, trajectory.ending, key)


def _saved(trajectory: Trajectory, store: Path) -> Path:
    """The store of a run in memory, which is trained again into a folder that all workers see."""
    if not os.path.lexists(store):
        attrs: Any = trajectory.attrs
        span = int(attrs["start"]), int(attrs["stop"])
        try:
            with whole(store) as beside:
                record(trajectory.workload, attrs["recorder"], beside, span, trajectory.step)
        except OSError as error:
            if not os.path.lexists(store):  # else another call was first
                raise StoreError(f"{store} cannot be written: {error.strerror or error}") from error
    return store
