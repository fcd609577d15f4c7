"""A folder of retrained models: pieces that xarray opens, each whole or not there, of one run alone."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from influencekit import __version__
from influencekit._files import claim, save_zarr, whole
from influencekit._sealed import check_store, read_sealed, sealed
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.results import examples
from influencekit.errors import StoreError

__all__ = ["SCHEMA", "Folder"]

SCHEMA = 1

_HEAD = "retrained.json"
_NAMES = {"influencekit_sets", "influencekit_version", "workload", "run", "states", "sets"}
_SMALL = 1e-3
_PIECE = re.compile(r"sets-([0-9]{6,12})-([0-9]{6,12})\.zarr")


class Folder:
    """Models retrained without sets of examples.

    `retrained.json` says of which run they are and how the sets were drawn. A piece `sets-A-B.zarr` has
    `theta` [set, state, param], `left_out` [set, train] of the sets A to B - 1, `recorded` [state, param] of
    the run itself, and the coordinates of a state: the steps of absence and the step it stands before. A
    piece is there whole or not at all. `done`: the numbers of the sets that are there.

    `retrained.json` has a digest of its own. The metadata of a piece have those of its files, of
    themselves, and of the run, states and draws of the folder that it belongs to. Pieces of 0.1 to 0.3 have
    a digest of their parameters alone; the rest of what a figure depends on is compared with the run that is
    asked for.
    """

    def __init__(
        self, path: Path, left_out: np.ndarray, recorded: np.ndarray, coords: dict[str, Any], bound: str
    ) -> None:
        self.path, self._left_out, self._recorded, self._coords = path, left_out, recorded, coords
        self._bound = bound
        self._files = self._found()
        self.done: list[range] = []
        covered = 0
        for rows in sorted(self._files, key=lambda r: r.start):
            # an earlier call may have been for more sets, or have ended elsewhere
            part = range(max(covered, rows.start), min(rows.stop, len(left_out)))
            if len(part):
                self.done.append(part)
                covered = part.stop
        self._release: Callable[[], None] = lambda: None

    @classmethod
    def open(
        cls,
        path: Path,
        trajectory: Trajectory,
        states: list[tuple[int, int, int]],
        recorded: np.ndarray,
        left_out: np.ndarray,
        drawn: Mapping[str, Any],
    ) -> "Folder":
        """The folder at `path`, made if it is not there, for the sets `left_out` [set, train] of this run.

        `states`: (absent from, absent to, state); `recorded` [state, param]: those of the run. Errors: a
        folder of something else, of another run, of sets drawn otherwise; one that another process writes.
        """
        ending = trajectory.ending
        head = {
            "influencekit_sets": SCHEMA,
            "influencekit_version": __version__,
            "workload": trajectory.workload.name,
            "run": trajectory.attrs["fingerprint"],
            "states": [
                [*state, *([ending.average] if ending and state[2] == trajectory.steps else [])]
                for state in states
            ],
            "sets": dict(drawn),
        }
        absent, stop, at = (list(column) for column in zip(*states, strict=True))
        coords = {
            "train": [str(i) for i in examples(trajectory.workload)],
            "absent_start": ("state", absent),
            "absent_stop": ("state", stop),
            "step": ("state", at),
        }
        release, folder = claim(
            path, _HEAD, sealed(head, indent=1), "retrained models",
            lambda: cls(path, left_out, recorded, coords, _compare(path, head)),
        )  # fmt: skip
        folder._release = release
        return folder

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def todo(self, size: int) -> list[range]:
        """The numbers of the sets that are not there, in pieces of at most `size`."""
        have = {k for rows in self.done for k in rows}
        missing = [k for k in range(len(self._left_out)) if k not in have]
        pieces: list[range] = []
        for k in missing:
            if pieces and pieces[-1].stop == k and k % size:
                pieces[-1] = range(pieces[-1].start, k + 1)
            else:
                pieces.append(range(k, k + 1))
        return pieces

    def write(self, rows: range, theta: np.ndarray) -> None:
        """Keep the parameters [set, state, param] of these sets. Errors: a full disk; what was kept stays."""
        piece = xr.Dataset(
            {
                "theta": (("set", "state", "param"), theta),
                "recorded": (("state", "param"), self._recorded),
                "left_out": (("set", "train"), self._left_out[rows]),
            },
            coords={"set": list(rows), **self._coords},
            attrs={"digest": _digest(theta)},
        )
        goal = self.path / f"sets-{rows.start:06d}-{rows.stop:06d}.zarr"
        try:
            with whole(goal) as beside:
                save_zarr(piece, beside, whose=self._bound)
        except OSError as error:
            raise StoreError(
                f"{goal} cannot be written: {error.strerror or error}; what was kept before stays"
            ) from error

    def read(self, rows: range) -> np.ndarray:
        """Parameters [set, state, param] of sets that are there. Errors: a damaged or foreign piece."""
        owner = next(r for r in self._files if r.start <= rows.start and rows.stop <= r.stop)
        file = self._files[owner]
        try:
            theta, left_out, recorded = self._checked(file, owner)
        except Exception as error:  # every codec has its own exceptions
            why = f" ({error})" if isinstance(error, _Damage) else ""
            raise StoreError(f"{file} is damaged{why}; delete it, and its sets are retrained") from error
        some = slice(rows.start - owner.start, rows.stop - owner.start)
        if not np.array_equal(left_out[some], self._left_out[rows]):
            raise StoreError(f"{file} leaves out other examples than are asked for; name a new folder")
        changed = np.abs(theta - recorded).max()  # by leaving out; rounding elsewhere must be small beside it
        if not np.abs(recorded - self._recorded).max() <= _SMALL * changed:
            raise StoreError(
                f"{file} was retrained from another run: its parameters are not those of this one; name a "
                "new folder"
            )
        return theta[some]

    def _checked(self, file: Path, owner: range) -> list[np.ndarray]:
        """`theta`, `left_out`, `recorded` of a piece, of which nothing was changed. Errors: any."""
        try:
            check_store(file, self._bound)
        except (OSError, ValueError) as error:
            raise _Damage(getattr(error, "strerror", None) or error) from error
        piece = xr.open_zarr(file, consolidated=False, chunks=None)
        train, dtype, count = self._left_out.shape[1], self._recorded.dtype, owner.stop - owner.start
        forms: dict[str, tuple[tuple[int, ...], Any]] = {
            "theta": ((count, *self._recorded.shape), dtype), "left_out": ((count, train), bool),
            "recorded": (self._recorded.shape, dtype), "set": ((count,), np.int64),
        }  # fmt: skip
        for name, form in forms.items():
            there = piece[name]
            long = any(c > s for c, s in zip(there.encoding["chunks"], there.shape, strict=True))
            if (there.shape, there.dtype) != form or long:
                raise _Damage(f"{name} has not the shape, type or chunks of this run's")
        theta, left_out, recorded, numbers = (piece[name].values for name in forms)
        if piece.attrs["digest"] != _digest(theta) or not np.array_equal(
            numbers, np.arange(count) + owner.start
        ):
            raise _Damage("its parameters are not those that were written, or of other sets")
        if not np.isfinite(theta).all():
            raise _Damage("its parameters are NaN or infinite")
        return [theta, left_out, recorded]

    def _found(self) -> dict[range, Path]:
        names = ((_PIECE.fullmatch(file.name), file) for file in sorted(self.path.iterdir()))
        return {range(int(name[1]), int(name[2])): file for name, file in names if name}


class _Damage(Exception):
    """What is wrong with a piece, in words."""


def _compare(path: Path, mine: dict[str, Any]) -> str:
    """A digest of the run, states and draws that the folder is of.

    Errors: a folder of another run, or of sets drawn otherwise, naming what differs.
    """
    try:
        head, _ = read_sealed(path / _HEAD, indent=1)
        if head.keys() != _NAMES:
            raise ValueError("it has other entries")
        theirs = {
            "format": head["influencekit_sets"],
            **head["run"],
            "states": head["states"],
            **head["sets"],
        }
    except (OSError, ValueError, TypeError) as error:
        why = getattr(error, "strerror", None) or error
        raise StoreError(
            f"{path / _HEAD} is damaged ({why}); delete {path}, and the sets are retrained"
        ) from error
    own = {
        "format": mine["influencekit_sets"],
        **json.loads(json.dumps(mine["run"])),
        "states": mine["states"],
        **mine["sets"],
    }
    wrong = [name for name in own if theirs.get(name) != own[name]]
    if wrong:
        name = wrong[0]
        long = max(len(str(own[name])), len(str(theirs.get(name)))) > 60
        shown = "" if long else f" (there {theirs.get(name)}, here {own[name]})"
        raise StoreError(
            f"{path} holds retrainings of another run, or of other sets: {', '.join(wrong)} differ{shown}; "
            "name a new folder"
        )
    whose = {name: head[name] for name in ("run", "states", "sets")}
    return hashlib.sha256(json.dumps(whose).encode()).hexdigest()


def _digest(theta: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(theta).view(np.uint8).data).hexdigest()[:16]
