"""Projected gradients of every example, collected by hooks while a plain PyTorch loop trains."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from influencekit import InputError
from influencekit.extend import Layout, NewStore
from influencekit_dvemb.files import attributes, feature_layers, new_array
from influencekit_dvemb.projection import Projection, layers_of
from influencekit_dvemb.sources import check_mean
from influencekit_dvemb.taps import Taps

__all__ = ["Collector"]


class Collector:
    """Store the projected gradient of every example of every step, while your own loop trains.

        with Collector("gradients.zarr", model, optimizer, examples=len(data), slots=64) as collect:
            for epoch in range(epochs):
                for rows, x, y in loader:              # rows: positions of the examples
                    optimizer.zero_grad()
                    criterion(model(x), y).backward()
                    collect.step(rows, epoch)          # after backward, before optimizer.step
                    optimizer.step()

    `gradient` [step, slot, feature] is that of each example's own loss, whatever the batch divides by. Tell
    it whether the loss that is differentiated is the `mean` over the batch or the `sum` (`reduction`, which
    nothing can check), and the `l2` of a penalty 0.5 l2 |theta|^2 in it. At the first step the layers'
    gradients are held to those of the parameters, so a part of the loss that passes by them is noticed.
    `slots` is the size of the largest batch. `examples` is the number of training examples or their ids.
    `dim` features a layer, projected by A (x) B made from `seed`, as `dvemb` does.

    The store appears when the block ends without an error. Errors: an optimizer other than plain
    `torch.optim.SGD`, trained layers other than Linear and Conv2d, several backward passes in a step, a step
    that was not collected.
    """

    def __init__(
        self, store: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer, *,
        examples: int | Sequence[Hashable], slots: int, dim: int | None = 1024, seed: int = 0,
        reduction: str = "mean", l2: float = 0.0,
    ) -> None:  # fmt: skip
        if reduction not in ("mean", "sum"):
            raise InputError(f"Collector: reduction must be 'mean' or 'sum', got {reduction!r}")
        _lr(optimizer)
        self._model, self._optimizer, self._mean, self._l2 = model, optimizer, reduction == "mean", l2
        self._ids = list(range(examples)) if isinstance(examples, int) else list(examples)
        self._layout, self._slots = Layout.of(model), slots
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.projection = Projection(layers_of(model, dim), seed, self._parameters[0].detach())
        self._store = NewStore(store)
        shape = (0, slots, self.projection.features)
        dtype = np.dtype(str(self._parameters[0].dtype).removeprefix("torch."))
        self._array = new_array(self._store, "gradient", shape, ("step", "slot", "feature"), dtype)
        self._waiting = np.zeros((self._array.chunks[0], *shape[1:]), dtype)
        self._steps: list[tuple[np.ndarray, int, float, float]] = []  # rows, epoch, lr, coefficient
        self._updates = 0
        self._taps = Taps(model, self.projection, self._seen)
        self._counting = optimizer.register_step_post_hook(self._updated)
        self._clear()

    def __enter__(self) -> "Collector":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close() if kind is None else self._detach()

    def step(self, rows: Tensor | Sequence[int], epoch: int = 0) -> None:
        """Keep the gradients of the backward pass just done, of the examples at positions `rows`."""
        done = len(self._steps)
        if self._updates != done:
            raise InputError(
                f"Collector: {self._updates} updates and {done} collected steps: call step() once before "
                "every optimizer.step()"
            )
        given = rows.cpu() if isinstance(rows, Tensor) else rows
        places = np.asarray(given, dtype=np.int64).reshape(-1)
        passes = set(self._passes)
        if len(passes) != 1:
            raise InputError(
                f"Collector: expected one forward and backward pass before step(), saw {len(passes)}; "
                "accumulated gradients cannot be collected, use larger batches"
            )
        n = next(len(g) for g in self._found if g is not None)
        if len(places) != n or n > self._slots:
            raise InputError(
                f"Collector: step() was given {len(places)} positions for a batch of {n} examples, with "
                f"slots={self._slots}; pass the positions of this batch, and slots of the largest batch"
            )
        last = len(self._ids) - 1
        if places.min() < 0 or places.max() > last:
            raise InputError(f"Collector: positions must be from 0 to {last}, got {places.max()}")
        parts = [
            g if g is not None else p.new_zeros(n, layer.features)
            for g, layer, p in zip(self._found, self.projection.layers, self._parameters, strict=False)
        ]
        coefficient = 1 / n if self._mean else 1.0
        with torch.no_grad():
            g = torch.cat(parts, 1).mul_(1 / coefficient)
            if self._l2:
                g += self._l2 * self._flat([p.detach() for p in self._parameters])
            if not done:
                whole = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
                check_mean(g, g.new_full((n,), coefficient), self._flat(whole), "the model")
        place = done % len(self._waiting)
        self._waiting[place, :n] = g.cpu().numpy()
        self._waiting[place, n:] = 0
        self._steps.append((places, epoch, _lr(self._optimizer), coefficient))
        if place + 1 == len(self._waiting):
            self._write(place + 1)
        self._clear()

    def close(self) -> None:
        """Take the hooks off and put the store in its place, which `with` does by itself."""
        self._detach(keep=True)
        if not self._steps:
            self._store.discard()
            raise InputError("Collector: no step was collected; call step() after every backward()")
        if left := len(self._steps) % len(self._waiting):
            self._write(left)
        rows, epochs, lrs, coefficients = zip(*self._steps, strict=True)
        batch = np.full((len(rows), self._slots), -1)
        coefficient = np.zeros(batch.shape)
        for t, own in enumerate(rows):
            batch[t, : len(own)], coefficient[t, : len(own)] = own, coefficients[t]
        theta = self._layout.join(dict(self._model.named_parameters())).cpu().numpy()
        rest = xr.Dataset(
            {
                "batch": (("step", "slot"), batch),
                "coefficient": (("step", "slot"), coefficient),
                "theta": (("evaluation", "param"), theta[None]),
            },
            coords={
                "step": np.arange(len(rows)),
                "epoch": ("step", np.array(epochs)),
                "lr": ("step", np.array(lrs)),
                "train": self._ids,
                "evaluation": [len(rows)],
                "layer": ("feature", feature_layers(self.projection)),
            },
            attrs=attributes(self.projection, self._layout) | {"l2": self._l2},
        )
        self._store.commit(rest)

    def _seen(self, k: int, inputs: Tensor, output: Tensor) -> None:
        number = self._taps.passes

        def hook(delta: Tensor) -> None:
            g, known = self._taps.product(k, inputs, delta), self._found[k]
            self._found[k] = g if known is None else known + g
            self._passes.append(number)

        output.register_hook(hook)

    def _clear(self) -> None:
        self._found: list[Tensor | None] = [None] * len(self.projection.layers)
        self._passes: list[int] = []

    def _flat(self, tensors: Sequence[Tensor]) -> Tensor:
        return self.projection.of_flat(self._layout, torch.cat([x.reshape(-1) for x in tensors]))

    def _write(self, count: int) -> None:
        done = len(self._steps)
        self._array.resize((done, *self._array.shape[1:]))
        self._array[done - count : done] = self._waiting[:count]

    def _updated(self, *_: Any) -> None:
        self._updates += 1

    def _detach(self, keep: bool = False) -> None:
        self._taps.close()
        self._counting.remove()
        if not keep:
            self._store.discard()


def _lr(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate of plain SGD."""
    groups = optimizer.param_groups
    extra = [k for k in ("momentum", "weight_decay", "nesterov", "maximize") for g in groups if g.get(k)]
    if type(optimizer) is not torch.optim.SGD or extra or len({float(g["lr"]) for g in groups}) != 1:
        what = extra[0] if extra else type(optimizer).__name__
        raise InputError(
            f"Collector: data value embedding is derived for plain SGD with one learning rate, got {what}; "
            "record the run with influencekit.Tape and use dit"
        )
    return float(groups[0]["lr"])
