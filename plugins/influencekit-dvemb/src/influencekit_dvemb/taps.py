"""Hooks on the layers of a model that turn a backward pass into projected per-example gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from influencekit_dvemb.projection import Projection

__all__ = ["Taps"]


class Taps:
    """Forward hooks on every layer of a projection, from when it is made until `close`.

    In a forward pass with gradients each layer's input is projected at once, [example, a, position], and
    kept; `seen(k, inputs, output)` is called with it. `product` makes the gradients of it later. A forward
    pass of the model counts in `passes`; without gradients the hooks do nothing.
    """

    def __init__(
        self, model: nn.Module, projection: Projection, seen: Callable[[int, Tensor, Tensor], None]
    ) -> None:
        self.passes, self._projection, self._seen = 0, projection, seen
        self._handles: list[RemovableHandle] = [model.register_forward_pre_hook(self._begin)]
        for k, layer in enumerate(projection.layers):
            module = model.get_submodule(layer.name)

            def hook(module: nn.Module, args: Any, output: Tensor, k: int = k) -> None:
                if torch.is_grad_enabled() and output.requires_grad:
                    with torch.no_grad():
                        inputs = projection.inputs(k, module, args[0].detach())
                    self._seen(k, inputs, output)

            self._handles.append(module.register_forward_hook(hook))

    def _begin(self, module: nn.Module, args: Any) -> None:
        self.passes += torch.is_grad_enabled()

    def product(self, k: int, inputs: Tensor, delta: Tensor) -> Tensor:
        """Gradients [example, feature] of layer k from its projected inputs and its output gradient."""
        with torch.no_grad():
            outputs = self._projection.outputs(k, delta).mT
            if inputs.shape[2] == 1:  # one position
                return (inputs * outputs).flatten(1)
            return torch.bmm(inputs, outputs).flatten(1)  # in this order: faster where there are few inputs

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
