"""A model as a function of its parameters and buffers, which never touches its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map_only

from influencekit._training.kernels import recompute
from influencekit._training.kernels.attributes import forgotten
from influencekit._training.kernels.operators import plain_operators
from influencekit.errors import InputError

__all__ = ["called", "in_evaluation"]


def called(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    run: Callable[[nn.Module], Any],
    within: Callable[[Iterable[Tensor]], AbstractContextManager[Any]] = nullcontext,
    forget: bool = False,
) -> tuple[Any, dict[str, Tensor]]:
    """(`run(model)` at these parameters and buffers, those buffers afterwards).

    Buffers are cloned, so a forward pass that changes them (running statistics) changes neither what was
    given nor the model's own; those of the model that are not given are cloned, too, and forgotten.
    `within`: a context around the call, such as `buffers.seen_through`, in which buffers have derivatives;
    made of the clones. What modules keep for their next call is forgotten with `forget`, since parameters are
    others then, and always within a transform of torch.func, whose tensors are of no use after it.
    """
    own = {name: b for name, b in model.named_buffers() if name not in buffers}
    whole, places, modules = _Whole(model), _places(model), list(model.modules())

    def keeping() -> AbstractContextManager[None]:
        transformed = torch._C._functorch.peek_interpreter_stack() is not None
        return forgotten(modules) if forget or transformed else nullcontext()

    def call(parameters: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
        clones = {name: b.clone() for name, b in {**own, **buffers}.items()}
        given = {**parameters, **clones}
        state = {f"model.{key}": given[name] for key, name in places if name in given}
        block = None if buffers else recompute.Call(state, again, modules)
        with keeping(), plain_operators(), within(clones.values()), recompute.within(block):
            return functional_call(whole, state, (run, tuple(buffers)), tie_weights=False)

    def again(state: Mapping[str, Tensor], run: Callable[[], Any]) -> Any:
        with plain_operators(), recompute.within(recompute.Call(state, again, modules)):
            return functional_call(whole, dict(state), (lambda _: run(), ()), tie_weights=False)[0]

    try:
        return call(parameters)
    except RuntimeError as error:
        graph = torch.is_grad_enabled() and any(p.requires_grad for p in parameters.values())
        if graph or "does not require grad" not in str(error):
            raise
    with torch.enable_grad():  # a model that takes derivatives itself, such as forces
        leaves = {k: p.detach().requires_grad_() for k, p in parameters.items()}
        return tree_map_only(Tensor, Tensor.detach, call(leaves))


def in_evaluation(model: nn.Module) -> nn.Module:
    """`model` in evaluation mode, without what it kept at its last change of mode.

    Errors: a model that changes its weights there, as adapters do that are merged.
    """
    if all(type(m).train is nn.Module.train and type(m).eval is nn.Module.eval for m in model.modules()):
        return model.eval()
    named = dict([*model.named_parameters(), *model.named_buffers()])
    before = {name: x.detach().clone() for name, x in named.items()}
    model.train().eval()
    for name, x in named.items():
        if not torch.equal(x.detach().nan_to_num(), before[name].nan_to_num()):
            with torch.no_grad():
                x.copy_(before[name])
            raise InputError(
                f"model.eval() changes {name} (it merges an adapter, or the like), so queries would be of "
                "other weights than those that training changes; let the model compute the same in both modes"
            )
    return model


def _places(model: nn.Module) -> list[tuple[str, str]]:
    """(where a parameter or buffer stands, its name) for each place: tied ones stand in several.

    Torch finds them too, but it counts a module of two names twice, and leaves what was put into it there.
    """
    names = {id(x): name for name, x in (*model.named_parameters(), *model.named_buffers())}
    return [
        (f"{prefix}.{key}".lstrip("."), names[id(x)])
        for prefix, module in model.named_modules()
        for key, x in (*module._parameters.items(), *module._buffers.items())
        if x is not None
    ]


class _Whole(nn.Module):
    """A model, called in any way, and its buffers as they are afterwards, also those assigned anew."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, run: Callable[[nn.Module], Any], names: tuple[str, ...]
    ) -> tuple[Any, dict[str, Tensor]]:
        result = run(self.model)
        after = dict(self.model.named_buffers()) if names else {}
        return result, {name: after[name] for name in names}
