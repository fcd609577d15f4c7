"""A folder of retrained models: pieces that xarray opens, each whole or not there, of one run alone."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from influencekit import __version__
from influencekit._files import hold, save_zarr, whole
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.results import examples
from influencekit.errors import StoreError

__all__ = ["SCHEMA", "Folder"]

SCHEMA = 1

_HEAD = "retrained.json"
_PIECE = re.compile(r"sets-(\d+)-(\d+)\.zarr")


class Folder:
    """Models retrained without sets of examples.

    `retrained.json` says of which run they are and how the sets were drawn. A piece `sets-A-B.zarr` has
    `theta` [set, state, param], `left_out` [set, train] of the sets A to B - 1, `recorded` [state, param] of
    the run itself, and the coordinates of a state: the steps of absence and the step it stands before. A
    piece is there whole or not at all. `done`: the numbers of the sets that are there.
    """

    def __init__(
        self, path: Path, left_out: np.ndarray, recorded: np.ndarray, coords: dict[str, Any]
    ) -> None:
        self.path, self._left_out, self._recorded, self._coords = path, left_out, recorded, coords
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
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not (path / _HEAD).exists():
                if any(p.suffix != ".partial" for p in path.iterdir()):
                    raise StoreError(f"{path} is not a folder of retrained models; name a new one")
                with whole(path / _HEAD) as beside:
                    beside.write_text(json.dumps(head, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error
        _compare(path, head)
        absent, stop, at = (list(column) for column in zip(*states, strict=True))
        coords = {
            "train": [str(i) for i in examples(trajectory.workload)],
            "absent_start": ("state", absent),
            "absent_stop": ("state", stop),
            "step": ("state", at),
        }
        return cls(path, left_out, recorded, coords)

    def __enter__(self) -> "Folder":
        self._release = hold(self.path)
        for rest in self.path.glob("*.partial"):
            shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
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
                save_zarr(piece, beside)
        except OSError as error:
            raise StoreError(
                f"{goal} cannot be written: {error.strerror or error}; what was kept before stays"
            ) from error

    def read(self, rows: range) -> np.ndarray:
        """Parameters [set, state, param] of sets that are there. Errors: a damaged or foreign piece."""
        owner = next(r for r in self._files if r.start <= rows.start and rows.stop <= r.stop)
        file = self._files[owner]
        try:
            piece = xr.open_zarr(file, consolidated=False, chunks=None).load()
            theta, left_out, recorded = (piece[n].values for n in ("theta", "left_out", "recorded"))
            whole = piece.attrs["digest"] == _digest(theta) and piece["set"].values.tolist() == list(owner)
        except Exception as error:  # every codec has its own exceptions
            raise StoreError(f"{file} is damaged; delete it, and its sets are retrained") from error
        if not whole:
            raise StoreError(f"{file} is damaged; delete it, and its sets are retrained")
        some = slice(rows.start - owner.start, rows.stop - owner.start)
        if not np.array_equal(left_out[some], self._left_out[rows]):
            raise StoreError(f"{file} leaves out other examples than are asked for; name a new folder")
        scale = np.abs(self._recorded).max()
        if recorded.shape != self._recorded.shape or np.abs(recorded - self._recorded).max() > 1e-3 * scale:
            raise StoreError(
                f"{file} was retrained from another run: its parameters are not those of this one; name a "
                "new folder"
            )
        return theta[some]

    def _found(self) -> dict[range, Path]:
        names = ((_PIECE.fullmatch(file.name), file) for file in sorted(self.path.iterdir()))
        return {range(int(name[1]), int(name[2])): file for name, file in names if name}


def _compare(path: Path, mine: dict[str, Any]) -> None:
    """Refuse a folder of another run, or of sets drawn otherwise, naming what differs."""
    try:
        head = json.loads((path / _HEAD).read_text(encoding="utf-8"))
        theirs = {
            "format": head["influencekit_sets"],
            **head["run"],
            "states": head["states"],
            **head["sets"],
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path / _HEAD} is damaged; delete {path}, and the sets are retrained") from error
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


def _digest(theta: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(theta).view(np.uint8).data).hexdigest()[:16]
