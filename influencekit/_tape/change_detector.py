"""Detect changes of a model's tensors that its replay would not make."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ChangeDetector", "ConstantTensors", "bit_sum", "sampled"]

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SAMPLE = 512  # entries of a parameter that are watched; of a smaller one, all


class ChangeDetector:
    """Compares samples of tensors, to find whether anything but the optimizer has changed them.

    Cost: two small copies a step. It may miss an edit of few entries of a large tensor; a replay does not.
    """

    def __init__(self, tensors: Callable[[], Mapping[str, Tensor]]) -> None:
        self._tensors = tensors
        self._last: Tensor | None = None
        self._memory: list[int] = []  # where the tensors were
        self._cut: list[Tensor] = []  # what is watched of them

    def take(self) -> None:
        """Remember the tensors as they are."""
        self._last = self._sample()

    def changed(self) -> str | None:
        """The name of a tensor that has changed since `take`, if there is one."""
        if self._last is None or not len(self._last):
            return None
        now = self._sample()
        if torch.equal(now, self._last):
            return None
        lengths = [len(x) for x in self._cut]
        rows = zip(self._tensors(), now.split(lengths), self._last.split(lengths), strict=True)
        return next(name for name, a, b in rows if not torch.equal(a, b))

    def bit_sum(self) -> int:
        """The sum of the bits of all that is remembered."""
        return 0 if self._last is None else bit_sum(self._last)

    def finite(self) -> bool:
        """Whether what is remembered is finite, and so is its sum."""
        return self._last is None or math.isfinite(float(self._last.sum()))

    def bits(self) -> dict[str, int]:
        """The sum of the bits of what is remembered of each tensor."""
        if self._last is None or not len(self._last):
            return {}
        parts = self._last.split([len(x) for x in self._cut])
        return {name: bit_sum(x) for name, x in zip(self._tensors(), parts, strict=True)}

    def _sample(self) -> Tensor:
        tensors = self._tensors().values()
        if not tensors:
            return torch.zeros(0)
        memory = [x.data_ptr() for x in tensors]
        if memory != self._memory:
            flat = [x.detach().reshape(-1) for x in tensors]
            self._cut = [x[:: max(1, len(x) // _SAMPLE)] for x in flat]
            self._memory = memory if all(x.is_contiguous() for x in tensors) else []  # else copies
        return torch.cat(self._cut)


class ConstantTensors:
    """The tensors of a model that must stay as they are: parameters that the optimizer does not train, and
    buffers that training does not change.

    Cost: the version that torch counts is compared at every step. At checks and stored states samples are
    compared too, since torch does not count edits through `.data`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places: dict[str, tuple[dict[str, Any], str]] = {}
        for name, module in model.named_modules():
            for own in (module._parameters, module._buffers):
                for key, value in own.items():
                    if value is not None:
                        self._places[f"{name}.{key}" if name else key] = own, key
        values = {name: own[key] for name, (own, key) in self._places.items()}
        self.parameters = {name for name, x in values.items() if isinstance(x, nn.Parameter)}
        self._versions = {name: _version(x) for name, x in values.items()}
        self._samples = {name: sampled(x) for name, x in values.items()}
        # of what a second optimizer may train in a few rows only, all entries count
        self._sums = {n: bit_sum(x) for n, x in values.items() if x.requires_grad or n not in self.parameters}

    def narrow(self, recorded: Iterable[str], tensors: Iterable[Tensor]) -> None:
        """Do not watch these names, nor these tensors, whatever their names."""
        names, known = set(recorded), {id(x) for x in tensors}
        kept = [n for n, (own, key) in self._places.items() if n not in names and id(own[key]) not in known]
        for values in (self._places, self._versions, self._samples, self._sums):
            for name in [n for n in values if n not in kept]:
                del values[name]  # type: ignore[attr-defined]

    def changed(self, thorough: bool = False) -> str | None:
        """The name of a tensor that has changed, if there is one; `thorough`: also through `.data`."""
        for name, (own, key) in self._places.items():
            value = own.get(key)
            if thorough or _version(value) != self._versions[name]:
                if not self._same(name, value):
                    return name
                self._versions[name] = _version(value)
        return None

    def _same(self, name: str, value: Any) -> bool:
        known = self._samples[name]
        if not isinstance(value, Tensor) or not torch.equal(sampled(value).to(known.device), known):
            return False
        counted = name in self._sums and _version(value) != self._versions[name]
        return not counted or bit_sum(value) == self._sums[name]


def _version(value: Any) -> tuple[int, int]:
    """A pair that changes when torch counts a write to a tensor, or when another tensor replaces it."""
    known = isinstance(value, Tensor) and not value.is_inference()
    return id(value), value._version if known else 0


def sampled(value: Tensor) -> Tensor:
    """A copy of some entries of a tensor, all of a small one."""
    flat = value.detach().reshape(-1)
    return flat[:: max(1, len(flat) // _SAMPLE)].nan_to_num().clone()


def bit_sum(value: Tensor) -> int:
    """The sum of the bits of all entries, as integers."""
    bits = value.detach().contiguous().reshape(-1).view(_BITS.get(value.element_size(), torch.uint8))
    return int(bits.sum(dtype=torch.int64))
