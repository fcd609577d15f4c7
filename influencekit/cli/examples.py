"""What a workload's examples are called and look like: their classes in words, their pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from influencekit._training.workload import Workload

__all__ = ["classes", "pictures"]


def classes(workload: Workload) -> list[str] | None:
    """The class of every training example, by its name in `info` (class_0, class_1, ...) if it has one.

    None where the target is not one number an example.
    """
    import torch

    values: list[float] = []
    for rows in torch.arange(workload.n_train, device=workload.device).split(256):
        target = workload.target(workload.examples(rows))
        if not isinstance(target, torch.Tensor) or target.numel() != len(rows):
            return None
        values += target.detach().cpu().reshape(-1).tolist()
    whole = all(float(v).is_integer() for v in values)
    if not whole:
        return [f"{v:g}" for v in values]
    return [str(workload.info.get(f"class_{int(v)}", int(v))) for v in values]


def pictures(workload: Workload) -> np.ndarray | None:
    """The training examples as pictures [train, row, column] or [train, row, column, 3], if they are such."""
    from influencekit._training.batch import tensors_of

    x: Any = tensors_of(workload.train)[0].detach().cpu()
    if x.dim() == 4 and x.shape[1] == 3:
        x = x.movedim(1, -1)
    elif x.dim() == 4 and x.shape[1] == 1:
        x = x[:, 0]
    elif x.dim() != 3:
        return None
    if not x.is_floating_point() or min(x.shape[1:3]) < 4:
        return None
    return x.float().numpy()
