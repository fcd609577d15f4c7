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

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import get_device_states, set_device_states

from influencekit._training.kernels.attributes import Attributes
from influencekit.errors import InputError

__all__ = ["Call", "Draws", "block", "drawing", "recomputing", "within"]

_on: ContextVar[bool] = ContextVar("recomputing", default=False)
_call: ContextVar[Call | None] = ContextVar("call", default=None)
_draws: ContextVar[Draws | None] = ContextVar("draws", default=None)

_SAME = 1e-4  # of their norm, by which outputs may differ when they are computed again
_GOLDEN = 0.6180339887498949
_PIECE = 1 << 20  # numbers that are weighed at once


class Call(NamedTuple):
    """A model that is called as a function of the tensors in `state`, parameters and buffers by name;
    `again(state, run)` is `run()` while they are others. `modules`: all of the model's."""

    state: Mapping[str, Tensor]
    again: Callable[[Mapping[str, Tensor], Callable[[], Any]], Any]
    modules: Sequence[nn.Module]


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
    among the arguments and the model's parameters. Then modules have the attributes that they had at first,
    since a model may set some for its blocks, such as a mask, and others by the time.
    """
    kwargs = {name: x for name, x in options.items() if name not in _OPTIONS}
    call = _call.get()
    transformed = torch._C._functorch.peek_interpreter_stack() is not None
    if not _on.get() or call is None or transformed or not torch.is_grad_enabled():
        return function(*args, **kwargs)
    while isinstance(function, partial):
        args, kwargs = (*function.args, *args), function.keywords | kwargs
        function = function.func
    return _Block(call, function, args, kwargs).outputs()


_OPTIONS = {"use_reentrant", "preserve_rng_state", "context_fn", "determinism_check", "debug", "early_stop"}


class _Block:
    """A function of its inputs: the tensors in its arguments that need a gradient, and parameters."""

    def __init__(self, call: Call, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self._call, self._function = call, function
        self._given, self._spec = pytree.tree_flatten((args, kwargs), lambda x: _is_leaf(x, kwargs))
        tensors = [x for x in (*self._given, *call.state.values()) if isinstance(x, Tensor)]
        self._random, self._autocast = _Random.now(tensors), _autocast(tensors)
        self._attributes = Attributes.of(call.modules)
        self._places = [i for i, x in enumerate(self._given) if isinstance(x, Tensor) and x.requires_grad]
        self._names = [name for name, x in call.state.items() if x.requires_grad]
        self._outputs: list[int] = []
        self._reached = 0  # of the inputs
        self._marks: list[Tensor] = []

    def outputs(self) -> Any:
        """Those of the function, which is called once. Where computing it again would not do, all that was
        computed is kept, and they go back to its inputs by that."""
        inputs, before = self._inputs(), _versions(self._given)
        watched = [x.view_as(x) for x in inputs]
        nodes = [x.grad_fn for x in watched]  # held, so that each stays the object that it is
        result = self._run(watched)
        found, spec = pytree.tree_flatten(result)
        self._outputs = [i for i, x in enumerate(found) if isinstance(x, Tensor) and x.requires_grad]
        outputs = [found[i] for i in self._outputs]
        reached, elsewhere = _ends([x.grad_fn for x in outputs], nodes)
        keep = not outputs or elsewhere or _versions(self._given) != before or _shared(outputs, inputs)
        if keep or self._attributes.hold_others():
            return result
        values, count = [x.detach() for x in outputs], len(self._places)
        self._names = [n for n, node in zip(self._names, nodes[count:], strict=True) if node in reached]
        inputs, self._reached = self._inputs(), len(reached)
        for i in self._places:
            self._given[i] = None  # the graph keeps it
        self._marks = [_mark(x) for x in values]
        for i, x in zip(self._outputs, _Forward.apply(self, values, *inputs), strict=True):
            found[i] = x
        return pytree.tree_unflatten(found, spec)

    def again(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs that need a gradient, computed once more, of these inputs. Errors: they are others."""
        with self._random.as_then(), torch.enable_grad(), recomputing():
            found = pytree.tree_leaves(self._run(inputs, self._attributes.as_then))
        outputs = [x for i, x in enumerate(found) if i in self._outputs]
        marks = [_mark(x.detach()) for x in outputs]
        reached, _ = _ends((x.grad_fn for x in outputs), [get_gradient_edge(x).node for x in inputs])
        same = len(marks) == len(self._marks) and all(map(_near, marks, self._marks))
        if not same or len(reached) != self._reached:
            raise InputError(
                "a block that the model checkpoints gives other outputs when it is computed again, as a "
                "lambda does that reads a loop's variable, or random numbers that are not torch's; give the "
                "block all that changes as arguments, or leave checkpoint out"
            )
        return outputs

    def _inputs(self) -> list[Tensor]:
        return [*(self._given[i] for i in self._places), *(self._call.state[n] for n in self._names)]

    def _run(self, inputs: Sequence[Tensor], within: Callable[[], Any] = nullcontext) -> Any:
        """The function of these inputs."""
        given = list(self._given)
        for i, x in zip(self._places, inputs, strict=False):
            given[i] = x
        args, kwargs = pytree.tree_unflatten(given, self._spec)
        pairs = zip(self._names, inputs[len(self._places) :], strict=True)

        def run() -> Any:
            with self._autocast(), within():
                return self._function(*args, **kwargs)

        return self._call.again({**self._call.state, **dict(pairs)}, run)


def _is_leaf(x: Any, kwargs: Any) -> bool:
    """Whether the function is given this very object: all but tuples, of which it cannot change any."""
    return not (isinstance(x, tuple) or x is kwargs)


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

    @contextmanager
    def as_then(self) -> Iterator[None]:
        given = nullcontext() if self.draws is None else self.draws.again(self.place)
        with torch.random.fork_rng(self.devices), given:
            torch.set_rng_state(self.cpu)
            set_device_states(self.devices, self.states)
            yield


def _autocast(tensors: Sequence[Tensor]) -> Callable[[], torch.autocast]:
    kind = tensors[0].device.type if tensors else "cpu"
    on, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype=dtype, enabled=on)


def _versions(given: Sequence[Any]) -> list[int]:
    """Which change when a tensor is changed in place."""
    return [x._version for x in given if isinstance(x, Tensor) and not x.is_inference()]


def _shared(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> bool:
    """Whether an output lies where an input or another output does, so that a change of one in place is one
    of the other."""
    mine, theirs = _places(outputs), set(_places(inputs))
    return len({*mine} - theirs) < len(mine)


def _places(tensors: Sequence[Tensor]) -> list[int]:
    return [x.untyped_storage().data_ptr() for x in tensors if x.layout is torch.strided and x.numel()]


def _mark(x: Tensor) -> Tensor:
    """Two numbers by which outputs are known again: their norm, and their sum with weights between -1 and 1
    that differ from place to place."""
    x = (x.to_dense() if x.layout is not torch.strided else x).reshape(-1)
    pieces = (torch.view_as_real(x).reshape(-1) if x.is_complex() else x).split(_PIECE)
    weights = _weights(len(pieces[0]), x.device)
    sums = torch.stack([piece.double() @ weights[: len(piece)] for piece in pieces])
    norm = torch.linalg.vector_norm(x, dtype=torch.complex128 if x.is_complex() else torch.float64)
    return torch.stack([norm.real, sums @ _weights(len(sums), x.device)])


def _weights(count: int, device: torch.device) -> Tensor:
    steps = torch.arange(1, count + 1, device=device, dtype=torch.float64)
    return steps.mul_(_GOLDEN).frac_().mul_(2).sub_(1)


def _near(x: Tensor, y: Tensor) -> bool:
    return torch.allclose(x, y, rtol=0, atol=_SAME * float(y[0].abs().nan_to_num(0.0)), equal_nan=True)


def _ends(outputs: Iterable[Any], nodes: Sequence[Any]) -> tuple[set[Any], bool]:
    """Which of these nodes the outputs depend on, and whether on anything else that needs a gradient."""
    stops, reached, elsewhere = set(nodes), set(), False
    seen: set[Any] = set()
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in stops:
            reached.add(node)
            continue
        elsewhere |= hasattr(node, "variable")
        waiting.extend(other for other, _ in node.next_functions)
    return reached, elsewhere
