"""What a recording takes on disk, from one of its first steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from influencekit._trajectory.store import open_group, read

__all__ = ["OnDisk", "folder_bytes", "on_disk"]


class OnDisk(NamedTuple):
    """Bytes of a store: of its `first` state, of each further one, of a step, and of what does not grow."""

    first: float
    state: float
    step: float
    fixed: float

    def bytes(self, states: int, steps: int) -> int:
        return round(self.first + (states - 1) * self.state + steps * self.step + self.fixed)


def on_disk(path: Path) -> OnDisk:
    """The sizes of a store's parts, compressed as they are.

    A state of its own chunk is measured by itself: the first one's optimizer vectors are all 0. Smaller ones
    share a chunk, and count for their part of it.
    """
    group = open_group(path)
    states, steps = read(group, "kept").shape[0], int(group.attrs["committed"])  # type: ignore[arg-type]
    first = state = step = 0.0
    for name, array in group.arrays():
        along, chunks = array.metadata.dimension_names[0], _chunks(path / name)  # type: ignore[union-attr,index]
        if along == "kept" and array.chunks[0] == 1 and len(chunks) > 1:
            first, state = first + chunks[0], state + float(np.mean(chunks[1:]))
        elif along == "kept":
            first, state = (x + sum(chunks) / states for x in (first, state))
        elif along == "step" and name not in _FIXED:
            step += sum(chunks) / max(1, steps)
    growing = first + state * (states - 1) + step * steps
    return OnDisk(first, state, step, folder_bytes(path) - growing)


_FIXED = ("batch", "lr", "epoch", "step")  # that `record` writes for the whole run in advance


def folder_bytes(path: Path) -> int:
    """Of all files in it."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _chunks(folder: Path) -> Sequence[int]:
    """Bytes of the chunks along the first dim, in order; those side by side are one."""
    found: dict[int, int] = {}
    for file in (folder / "c").rglob("*"):
        if file.is_file():
            number = int(file.relative_to(folder / "c").parts[0])
            found[number] = found.get(number, 0) + file.stat().st_size
    return [found[number] for number in sorted(found)] or [0]
