"""Blocks of a model that are computed again instead of kept: activation checkpointing for second derivatives.

A model tells its blocks by `torch.utils.checkpoint.checkpoint(block, x)`. Torch computes a block again once;
what a second derivative needs of that stays in memory. Here, for y = f(x) of a block f with inputs x, its
parameters among them,

    forward     y = f(x)                       x is kept
    backward    x' = J^T y'                    f again; x and y' are kept
    once more   of <a, J^T y'> by x and y'     f again, with its backward pass

so that at most one block's intermediate results are there at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, Protocol
from weakref import ref

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import get_device_states, set_device_states

from influencekit.errors import InputError

__all__ = ["Call", "Draws", "block", "drawing", "recomputing", "within"]

_on: ContextVar[bool] = ContextVar("recomputing", default=False)
_call: ContextVar[Call | None] = ContextVar("call", default=None)
_draws: ContextVar[Draws | None] = ContextVar("draws", default=None)


class Call(NamedTuple):
    """A model that is called as a function of the tensors in `state`, parameters and buffers by name;
    `again(state, run)` is `run()` while they are others."""

    state: Mapping[str, Tensor]
    again: Callable[[Mapping[str, Tensor], Callable[[], Any]], Any]


class Draws(Protocol):
    """Random numbers that are given to a model in their order: `place` is the number of the next one, and
    within `again(place)` they come from that one on."""

    place: int

    def again(self, place: int) -> AbstractContextManager[Any]: ...


@contextmanager
def recomputing() -> Iterator[None]:
    """Blocks of models that are called within are computed again, wherever derivatives ask for them."""
    token = _on.set(True)
    try:
        yield
    finally:
        _on.reset(token)


@contextmanager
def within(call: Call | None) -> Iterator[None]:
    """Within, the model is called so; None: nothing of it may be computed again."""
    token = _call.set(call)
    try:
        yield
    finally:
        _call.reset(token)


@contextmanager
def drawing(draws: Draws) -> Iterator[None]:
    """Within, the model is given these random numbers."""
    token = _draws.set(draws)
    try:
        yield
    finally:
        _draws.reset(token)


def block(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What `torch.utils.checkpoint.checkpoint` gives: `function` of its arguments.

    It is computed again where that was asked for (`recomputing`), and where all that needs a gradient is
    among the arguments and the model's parameters.
    """
    kwargs = {name: x for name, x in options.items() if name not in _OPTIONS}
    call = _call.get()
    transformed = torch._C._functorch.peek_interpreter_stack() is not None
    if not _on.get() or call is None or transformed or not torch.is_grad_enabled():
        return function(*args, **kwargs)
    while isinstance(function, partial):
        args, kwargs = (*function.args, *args), function.keywords | kwargs
        function = function.func
    return _Block(call, function, args, kwargs).outputs(args, kwargs)


_OPTIONS = {"use_reentrant", "preserve_rng_state", "context_fn", "determinism_check", "debug", "early_stop"}


class _Block:
    """A function of its inputs: the tensors in its arguments that need a gradient, and parameters."""

    def __init__(self, call: Call, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self._call, self._function = call, function
        self._given, self._spec = pytree.tree_flatten((args, kwargs))
        tensors = [x for x in (*self._given, *call.state.values()) if isinstance(x, Tensor)]
        self._random, self._autocast = _Random.now(tensors), _autocast(tensors)
        self._places = [i for i, x in enumerate(self._given) if isinstance(x, Tensor) and x.requires_grad]
        self._names = [name for name, x in call.state.items() if x.requires_grad]
        self._outputs: list[int] = []
        self._norms: list[Tensor] = []

    def outputs(self, args: Any, kwargs: Any) -> Any:
        """Those of the function, which go back to its inputs. It is called on copies of its arguments, args
        and kwargs; where these would not do, on the arguments themselves, and is not computed again."""
        leaves = [x.detach().requires_grad_() for x in self._inputs()]
        token = _Token()
        kept = ref(token)
        with torch.enable_grad():
            watched = [_Watched.apply(token, x) for x in leaves]
            given = self._given_of(watched)
            arguments = pytree.tree_unflatten(given, self._spec)
            found, spec = pytree.tree_flatten(self._run(arguments, watched))
        self._outputs = [i for i, x in enumerate(found) if isinstance(x, Tensor) and x.requires_grad]
        values = [found[i].detach() for i in self._outputs]
        reached = _reached(found[i] for i in self._outputs)
        changed = any(x._version for x in given if isinstance(x, Tensor))
        after, same = pytree.tree_flatten(arguments)
        changed |= same != self._spec or any(x is not y for x, y in zip(after, given, strict=True))
        for i in self._outputs:
            found[i] = None
        del token, watched, given, arguments, after
        # changed in place; something else needs a gradient; a result went elsewhere, as to an attribute
        if changed or not reached <= {id(x) for x in leaves} or kept() is not None:
            self._random.restore()
            return self._function(*args, **kwargs)
        count = len(self._places)
        pairs = zip(self._names, leaves[count:], strict=True)
        self._names = [name for name, x in pairs if id(x) in reached]
        if self._outputs:
            inputs = self._inputs()
            for i in self._places:
                self._given[i] = None  # the graph keeps it
            self._norms = [torch.linalg.vector_norm(x) for x in values]
            for i, x in zip(self._outputs, _Forward.apply(self, values, *inputs), strict=True):
                found[i] = x
        return pytree.tree_unflatten(found, spec)

    def again(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs that need a gradient, computed once more, of these inputs. Errors: they are others."""
        with self._random.as_then(), torch.enable_grad(), recomputing():
            arguments = pytree.tree_unflatten(self._given_of(inputs), self._spec)
            found = pytree.tree_leaves(self._run(arguments, inputs))
        outputs = [x for i, x in enumerate(found) if i in self._outputs]
        norms = [torch.linalg.vector_norm(x.detach()) for x in outputs]
        if len(norms) != len(self._norms) or not all(map(_near, norms, self._norms)):
            raise InputError(
                "a block that the model checkpoints gives other outputs when it is computed again, as a "
                "lambda does that reads a loop's variable, or random numbers that are not torch's; give the "
                "block all that changes as arguments, or leave checkpoint out"
            )
        return outputs

    def _inputs(self) -> list[Tensor]:
        return [*(self._given[i] for i in self._places), *(self._call.state[n] for n in self._names)]

    def _given_of(self, inputs: Sequence[Tensor]) -> list[Any]:
        """What the function is given: copies, which it may change in place."""
        given = list(self._given)
        for i, x in zip(self._places, inputs, strict=False):
            given[i] = x
        return [x.clone() if isinstance(x, Tensor) else x for x in given]

    def _run(self, arguments: tuple[Any, Any], inputs: Sequence[Tensor]) -> Any:
        args, kwargs = arguments
        pairs = zip(self._names, inputs[len(self._places) :], strict=True)

        def run() -> Any:
            with self._autocast():
                return self._function(*args, **kwargs)

        return self._call.again({**self._call.state, **dict(pairs)}, run)


class _Token:
    """Lives as long as a graph that goes back to a watched tensor."""


class _Watched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: _Token, x: Tensor) -> Tensor:
        ctx.token = token
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, by: Tensor) -> Any:
        return None, by


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, block: _Block, values: Sequence[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.block = block
        ctx.save_for_backward(*inputs)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *by: Tensor) -> Any:
        return None, None, *_Backward.apply(ctx.block, len(by), *by, *ctx.saved_tensors)


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, block: _Block, count: int, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.block, ctx.count = block, count
        ctx.save_for_backward(*given)
        leaves = [x.detach().requires_grad_() for x in given[count:]]
        return torch.autograd.grad(block.again(leaves), leaves, given[:count], materialize_grads=True)

    @staticmethod
    def backward(ctx: Any, *a: Tensor) -> Any:
        given, higher = ctx.saved_tensors, torch.is_grad_enabled()
        if not higher:
            given = [x.detach().requires_grad_() for x in given]
        with torch.enable_grad():
            by, inputs = given[: ctx.count], given[ctx.count :]
            g = torch.autograd.grad(
                ctx.block.again(inputs), inputs, by, create_graph=True, materialize_grads=True
            )
            pairs = [(x, y) for x, y in zip(g, a, strict=True) if x.requires_grad]
            if not pairs:
                return None, None, *[None] * len(given)
            some, weights = zip(*pairs, strict=True)
            found = torch.autograd.grad(some, given, weights, create_graph=higher, materialize_grads=True)
        return None, None, *found


class _Random(NamedTuple):
    """The state of torch's random generators, of the processor and of the devices of some tensors, and the
    place in the numbers that the model is given, if it is given any."""

    cpu: Tensor
    devices: list[int]
    states: list[Tensor]
    draws: Draws | None
    place: int

    @classmethod
    def now(cls, tensors: Sequence[Tensor]) -> _Random:
        draws = _draws.get()
        place = 0 if draws is None else draws.place
        return cls(torch.get_rng_state(), *get_device_states(*tensors), draws, place)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        set_device_states(self.devices, self.states)
        if self.draws is not None:
            self.draws.place = self.place

    @contextmanager
    def as_then(self) -> Iterator[None]:
        given = nullcontext() if self.draws is None else self.draws.again(self.place)
        with torch.random.fork_rng(self.devices), given:
            self._replace(draws=None).restore()
            yield


def _autocast(tensors: Sequence[Tensor]) -> Callable[[], torch.autocast]:
    kind = tensors[0].device.type if tensors else "cpu"
    on, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype=dtype, enabled=on)


def _near(x: Tensor, y: Tensor) -> bool:
    return torch.allclose(x, y, rtol=1e-3, equal_nan=True)


def _reached(outputs: Iterable[Tensor]) -> set[int]:
    """The ids of all tensors that need a gradient and that outputs depend on, and were not computed."""
    found: set[int] = set()
    seen: set[Any] = set()
    waiting: list[Any] = []
    for x in outputs:
        if x.grad_fn is None:
            found.add(id(x))
        else:
            waiting.append(x.grad_fn)
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if (variable := getattr(node, "variable", None)) is not None:
            found.add(id(variable))
        waiting.extend(other for other, _ in node.next_functions if other is not None)
    return found
