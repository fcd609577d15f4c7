"""What to say to somebody who has a trained model, and no recorded run of its training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

__all__ = ["only_weights"]

_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".safetensors"}


def only_weights(what: Any) -> str | None:
    """What can be had from trained weights alone, if that is what somebody gave (a model, its state, a file
    of weights or a folder of such files); else None."""
    if isinstance(what, nn.Module):
        name = f"a {type(what).__name__} is a trained model"
    elif isinstance(what, Mapping) and what and all(isinstance(x, Tensor) for x in what.values()):
        name = "a dict of tensors is the state of a model"
    elif isinstance(what, str | Path) and _holds_weights(Path(what)):
        name = f"{what} is a checkpoint"
    else:
        return None
    return (
        f"{name}, not a recorded run: how it was trained is not in it, so dit and loo have nothing to go on. "
        "`if`, and with influencekit-baselines grad-dot and TracIn, need weights alone: load them into the "
        "model, and record one pass over the data with ik.SGD(lr=0.0); docs/choosing.md, Only a trained model"
    )


def _holds_weights(path: Path) -> bool:
    if path.suffix in _SUFFIXES and path.is_file():
        return True
    if not path.is_dir() or (path / "zarr.json").exists():
        return False
    inside = list(path.glob("*")) + list(path.glob("checkpoint-*/*"))
    return any(each.suffix in _SUFFIXES for each in inside)
