"""A recorded run trained again from starts a little aside: what leave-one-out is repeated over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from influencekit._arguments import moved_fraction, whole_number
from influencekit._trajectory.fingerprint import digest
from influencekit._trajectory.rerun import moved, rerun
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import DivergedError
from influencekit.progress import track

__all__ = ["Moved", "check_moves", "repeated"]


@dataclass(frozen=True)
class Moved:
    """The run from initial parameters that are moved by a fraction of each tensor's RMS (`rerun.moved`)."""

    fraction: float
    seed: int

    def __str__(self) -> str:
        return f"moved {self.seed}"

    def start(self, trajectory: Trajectory) -> str:
        """A digest of where it starts. Cost: no training."""
        return digest([moved(trajectory, self.fraction, self.seed).theta])

    def again(self, trajectory: Trajectory) -> Trajectory:
        """The other run. Cost: one training run. Errors: it diverges."""
        try:
            return rerun(trajectory, start=moved(trajectory, self.fraction, self.seed))
        except DivergedError as error:
            raise DivergedError(
                f"the run that starts {self.fraction:g} aside, seed {self.seed}: {error}"
            ) from error


def check_moves(who: str, runs: object, fraction: object) -> list[Moved]:
    """The moved runs beside the recorded one, `runs` with it. Errors: fewer than 2, a fraction that is 0 or
    above 1."""
    runs = whole_number(f"{who}: runs", runs, 2)
    fraction = moved_fraction(f"{who}: moved", fraction)
    return [Moved(fraction, seed) for seed in range(1, runs)]


def repeated(trajectory: Trajectory, moves: list[Moved]) -> Iterator[Trajectory]:
    """The recorded run itself, then the others, one after the other: each is let go of before the next."""
    for k in track(range(len(moves) + 1), "runs", len(moves) + 1):
        yield moves[k - 1].again(trajectory) if k else trajectory
