"""What `curate` keeps in a folder: effects of sets, and retrained scores, of a run and its moved copies."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from influencekit._effects.repeated import Moved
from influencekit._trajectory.fingerprint import digest
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.kept_pieces import KeptPieces, run_head
from influencekit.queries import TestLosses

__all__ = ["KeptRun", "kept_pieces"]


def kept_pieces(path: Path, run: Trajectory) -> KeptPieces:
    """The folder of a run whose test set are the trusted examples: other choosers, folds, k and seeds find
    what is there. Errors: those of `KeptPieces`."""
    known = run_head(run, TestLosses())
    head = {
        "workload": run.workload.name,
        "trusted": known.pop("test set"),
        **known,
        "average": None if run.ending is None else str(run.ending.average),
    }
    return KeptPieces(path, "curated.json", "influencekit_curated", head)


class KeptRun(NamedTuple):
    """The pieces of one of the runs, the recorded one (None) or a moved one; how many are `trusted`."""

    pieces: KeptPieces
    move: Moved | None
    trusted: int

    def sets(self, trained: int) -> dict[bytes, np.ndarray]:
        """{mask [train] as bytes: the change [trusted] of leaving the set out}."""
        found = dict[bytes, np.ndarray]()
        forms: dict[str, tuple[int, ...]] = {"removed": (-1, trained), "change": (-1, self.trusted)}
        for name in self.pieces.names():
            if name.startswith(f"{self._name}-sets-"):
                piece = self.pieces.read(name, forms)
                assert piece is not None  # it is listed
                masks, change = piece["removed"].values, piece["change"].values
                found |= {mask.tobytes(): row for mask, row in zip(masks, change, strict=True)}
        return found

    def keep_sets(self, masks: np.ndarray, change: np.ndarray) -> None:
        """Keep the change [set, trusted] of leaving out the sets masks [set, train]."""
        rows = {"removed": (("set", "train"), masks), "change": (("set", "trusted"), change)}
        self.pieces.write(f"{self._name}-sets-{digest([masks])}", xr.Dataset(rows))

    def scores(self, which: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Scores [fold, train] and intercepts [fold] that were kept as `which`."""
        forms: dict[str, tuple[int, ...]] = {"influence": (-1, -1), "intercept": (-1,)}
        piece = self.pieces.read(f"{self._name}-{which}", forms)
        return None if piece is None else (piece["influence"].values, piece["intercept"].values)

    def keep_scores(self, which: str, influence: np.ndarray, intercept: np.ndarray) -> None:
        """Keep scores [fold, train] and intercepts [fold] as `which`."""
        rows = {"influence": (("fold", "train"), influence), "intercept": (("fold",), intercept)}
        self.pieces.write(f"{self._name}-{which}", xr.Dataset(rows))

    @property
    def _name(self) -> str:
        return "recorded" if self.move is None else f"moved-{self.move.seed}-{self.move.fraction:g}"
