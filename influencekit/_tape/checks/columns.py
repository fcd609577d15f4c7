"""The tables of a taped run as they were read: every number in its range, before steps are made of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from influencekit.errors import StoreError

__all__ = ["COLUMNS", "check_columns"]

COLUMNS = ("batch", "part", "coefficient", "lr", "epoch", "fetch_rng", "forward_rng")
_EPOCHS = 1_000_000  # that may pass without a step


def check_columns(columns: Mapping[str, np.ndarray], counts: Mapping[str, int], where: str) -> None:
    """Refuse rows of `COLUMNS` that no tape writes. counts: how many there are of what a column numbers.

    Errors: `StoreError` that names the array and the step.
    """
    batch, part, epoch = columns["batch"], columns["part"], columns["epoch"]
    used = batch >= 0
    last = np.maximum.accumulate(np.where(used, part, -1), 1)  # of the slots so far that hold an example
    wrong = {
        "batch": ~used.any(1),
        "part": ((part != last) & used).any(1)
        | (np.diff(last, axis=1, prepend=-1) > 1).any(1)
        | (part.max(1) != last[:, -1])
        | (last[:, -1] >= columns["fetch_rng"].shape[1]),
        "epoch": (epoch < 0) | (np.diff(epoch, prepend=0) < 0) | (epoch > len(epoch) + _EPOCHS),
        "lr": ~np.isfinite(columns["lr"]).all(1),
        "coefficient": ~np.isfinite(columns["coefficient"]).all(1),
    }
    for name, count in counts.items():
        outside = ((columns[name] < -1) | (columns[name] >= count)).any(1)
        wrong[name] = wrong.get(name, outside) | outside
    for name, steps in wrong.items():
        if steps.any():
            raise StoreError(
                f"{where}: the array {name!r} holds at step {int(steps.argmax())} what no tape writes; "
                "record again"
            )
