"""What a result's examples are called and look like: ids by seed, as files have them, and their pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import xarray as xr

    from influencekit._training.workload import Workload
    from influencekit._trajectory.trajectory import Trajectory

__all__ = ["PICTURES", "by_seed", "described", "pictures"]

PICTURES = 8  # of each end


def described(result: xr.Dataset, info: Mapping[str, Any], store: str | None = None) -> xr.Dataset:
    """A result [..., seed, ..., train] as files have it.

    With the ids as text in `example` [seed, train], what the workload says of itself in attrs `info_...`, and
    the store of a run that no workload rebuilds.
    """
    import numpy as np

    if "example" not in result.coords:
        ids = [str(i) for i in result.train.values.tolist()]
        result = result.assign_coords(example=(("seed", "train"), np.array([ids] * result.sizes["seed"])))
    attrs = {f"info_{k}": v for k, v in info.items() if k != "classes"}
    if store is not None and "spec" not in info:
        attrs["store"] = store
    return result.assign_attrs(attrs)


def by_seed(scores: xr.Dataset, trajectory: Trajectory, store: str) -> xr.Dataset:
    """The scores of a run with the dims of a comparison, which has estimator and seed, too: one of each."""
    info = trajectory.workload.info
    seed = int(info.get("draw_seed", 0))  # a run recorded in Python has none
    result = scores.expand_dims(estimator=[scores.attrs["estimator"]], seed=[seed])
    if "label" in scores.coords:
        result = result.assign_coords(label=(("seed", "train"), scores.label.values[None]))
    return described(result, info, store).assign_attrs(seed=seed)


def pictures(workload: Workload, rows: Any) -> np.ndarray | None:
    """The training examples at these positions as pictures [row, column] or [row, column, 3], if they are
    such."""
    import torch

    from influencekit._training.batch import tensors_of

    batch = workload.examples(torch.as_tensor(rows, device=workload.device))
    x: Any = tensors_of(batch)[0].detach().cpu()
    if x.dim() == 4 and x.shape[1] == 3:
        x = x.movedim(1, -1)
    elif x.dim() == 4 and x.shape[1] == 1:
        x = x[:, 0]
    elif x.dim() != 3:
        return None
    if not x.is_floating_point() or min(x.shape[1:3]) < 4:
        return None
    return x.float().numpy()
