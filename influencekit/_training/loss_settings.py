"""The settings of a loss that is a module, such as `label_smoothing`: what it was given beside parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

__all__ = ["Settings", "settings_of"]

Settings = dict[str, Any]

_OWN = vars(nn.Module()).keys()  # what every module has
_MOST = 1 << 12  # entries of what is compared


def settings_of(loss: Any) -> Settings:
    """The plain attributes of a module and of those within it, by name: numbers, text, tensors that are no
    buffers, lists and tuples of them. Of anything else, such as a function, nothing can be seen."""
    found: Settings = {}
    for path, module in loss.named_modules() if isinstance(loss, nn.Module) else ():
        mine = {name: value for name, value in vars(module).items() if name not in _OWN}
        if "training" in getattr(getattr(type(module).forward, "__code__", None), "co_names", ()):
            mine["training"] = module.training  # else `eval()` means nothing to it
        for name, value in mine.items():
            if (plain := _plain(value)) is not None:
                found[f"{path}.{name}" if path else name] = plain
    return found


def _plain(value: Any) -> Any:
    """What can be compared by its text, None for what is not compared."""
    if value is None or isinstance(value, bool | int | float | complex | str | np.generic):
        return repr(value)
    if isinstance(value, list | tuple) and len(value) <= _MOST:
        parts = [_plain(each) for each in value]
        return None if None in parts else f"({', '.join(parts)})"
    if isinstance(value, Tensor | np.ndarray) and np.prod(value.shape) <= _MOST:
        try:
            return repr(value.tolist())
        except Exception:  # a tensor that a trace has left there
            return None
    return None
