"""Trace a pure tensor function once into a short list of kernels, and cut it where one argument enters.

Small models are bound by dispatch, not arithmetic: `torch.func` transforms cost milliseconds of Python a
step. `trace` records the kernels they issue (make_fx), simplifies the record and gives a plain function
back. `split` separates what depends on some inputs from what does not: everything about a training step
that does not depend on the adjoint can then be computed for many steps at once.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from influencekit._exclusive import exclusive
from influencekit._training.kernels.operators import unsafe
from influencekit._training.kernels.simplify import ZEROS, shapes_of, simplify
from influencekit.errors import InfluenceKitError

__all__ = [
    "NotBatchable",
    "Untraced",
    "agree",
    "has_convolution",
    "split",
    "trace",
    "try_trace",
    "with_batching",
]

aten = torch.ops.aten


@exclusive()
def trace(fn: Callable[..., Any], *example: Tensor) -> fx.GraphModule:
    """The kernels that `fn` issues for arguments shaped like `example`, simplified, as a callable.

    `fn` must be pure with tensor arguments and results and no control flow on tensor values (make_fx
    raises on the latter). In-place updates inside are made functional first, so that unused work can be
    dropped.
    """
    functional = torch.func.functionalize(fn, remove="mutations")
    # inference_mode tensors cannot be traced, and gradients of the caller are of no interest here
    with torch.no_grad(), _one_fake_mode():
        graph_module = make_fx(functional)(*example)
    graph = graph_module.graph
    graph.eliminate_dead_code()
    shapes = shapes_of(graph_module, example)
    simplify(graph, shapes)
    for node in graph.nodes:
        node.meta = {"tensor": shapes[node][:3]} if node in shapes else {}
    sizes = [shapes[n][0].numel() * shapes[n][1].itemsize for n in graph.nodes if n in shapes]
    graph_module.meta["bytes"] = sum(sizes)  # of everything it computes, were it all kept
    graph.lint()
    graph_module.recompile()
    return graph_module


def _one_fake_mode() -> AbstractContextManager[Any]:
    """make_fx notes the shape of every node in a fake tensor, whose mode it else makes anew for each of them:
    a third of its time. Not public, so done where torch has it."""
    try:
        from torch._guards import TracingContext, tracing
        from torch._subclasses import FakeTensorMode

        return tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True)))
    except (ImportError, TypeError):
        return nullcontext()


class Untraced:
    """A function that runs as it is, and why it could not be traced."""

    def __init__(self, fn: Callable[..., Any], why: str) -> None:
        self.fn, self.why = fn, why

    def __call__(self, *args: Any) -> Any:
        return self.fn(*args)


def try_trace(
    fn: Callable[..., Any],
    *example: Tensor,
    others: Sequence[Sequence[Tensor]] = (),
    slow: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """`fn` traced, or `slow` (None: `fn` itself), which only costs time.

    A trace is not believed where it holds what depends on values or addresses (`operators.unsafe`), nor
    before it gives what `slow` gives on each of `others`, arguments that it was not traced with.
    """
    slow = slow or fn
    try:
        traced = trace(fn, *example)
    except InfluenceKitError:
        raise
    except Exception as error:  # whatever tracing cannot do, the function itself can, or says why not
        return Untraced(slow, f"it cannot be traced ({type(error).__name__})")
    if name := unsafe(traced.graph):
        return Untraced(slow, f"{name} depends on values or addresses")
    for args in others:
        with torch.no_grad():
            wanted = slow(*args)
            try:
                same = agree(traced(*args), wanted)
            except RuntimeError:
                same = False
        if not same:
            return Untraced(slow, "its trace gives other numbers on another batch")
    return traced


def agree(mine: Any, wanted: Any, factor: float = 1.0) -> bool:
    """Whether tensors, or tuples of them, are equal up to rounding that adds up: relative to each one's norm.

    The tolerance is 1e-9 in float64, else 1e-4, times `factor`.
    """
    if isinstance(wanted, Tensor):
        if mine.shape != wanted.shape or mine.dtype != wanted.dtype:
            return False
        if not wanted.is_floating_point():
            return torch.equal(mine, wanted)
        tolerance = factor * (1e-9 if wanted.dtype == torch.float64 else 1e-4)
        there = wanted.isfinite()
        if not torch.equal(there, mine.isfinite()):
            return False
        gap = (mine - wanted)[there].double().norm()
        return bool(gap <= tolerance * wanted[there].double().norm() + torch.finfo(wanted.dtype).tiny)
    return len(mine) == len(wanted) and all(agree(a, b, factor) for a, b in zip(mine, wanted, strict=True))


def with_batching(
    transform: Callable[[Callable[..., Any]], Callable[..., Any]], fn: Any, *args: Tensor
) -> Any:
    """`transform(fn)(*args)`, for transforms that batch (vmap, jacrev).

    Where an operation of `fn` has no batching rule (recurrent layers), its kernels are batched instead, which
    are traced at the last argument's first row. Errors: `NotBatchable`.
    """
    try:
        return transform(fn)(*args)
    except InfluenceKitError:
        raise
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        row = args[-1] if args[-1].dim() == 1 else args[-1][0]
        other = args[-1] * 1.01 if args[-1].dim() == 1 else args[-1][-1]
        traced = try_trace(fn, row, others=[(other,)])
        if isinstance(traced, Untraced):
            raise NotBatchable(traced.why) from error
        try:
            return transform(traced)(*args)
        except RuntimeError as again:
            raise NotBatchable(str(again).splitlines()[0][:100]) from again


class NotBatchable(Exception):
    """Torch cannot batch a function; whoever calls takes its arguments one after the other."""


def has_convolution(graph_module: fx.GraphModule) -> bool:
    """Whether the traced function convolves (which decides between batching and looping on a CPU)."""
    return any("convolution" in str(node.target) for node in graph_module.graph.nodes)


def split(graph_module: fx.GraphModule, dynamic: Sequence[int]) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut f(args) into `static` and `later` with f(*args) == later(*dynamic args, *static(*static args)).

    `dynamic` lists the positions of the late arguments. `static` returns a tuple of tensors: every value
    that does not depend on them but is used by something that does, or is itself a result.
    """
    graph = fx.Graph()
    results = graph.graph_copy(graph_module.graph, {})
    output = graph.output(results)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    late = _dependent(graph, {inputs[i] for i in dynamic})
    _collapse_scalings(graph, late)
    late = _dependent(graph, {inputs[i] for i in dynamic})
    kept: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node in late or node is output:
            kept.update((p, None) for p in node.all_input_nodes if p not in late)

    early = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node not in late and node is not output:
            env[node] = early.node_copy(node, env.__getitem__)
    early.output(tuple(env[node] for node in kept))

    rest = fx.Graph()
    env = {}
    for i in dynamic:
        env[inputs[i]] = rest.node_copy(inputs[i])
    for k, node in enumerate(kept):
        env[node] = rest.placeholder(f"static_{k}")
    for node in graph.nodes:
        if node in late and node.op != "placeholder":
            env[node] = rest.node_copy(node, env.__getitem__)
    rest.output(fx.map_arg(output.args[0], env.__getitem__))
    # unused arguments must stay, so only other dead nodes go
    early.eliminate_dead_code()
    return fx.GraphModule(graph_module, early), fx.GraphModule(graph_module, rest)


def _dependent(graph: fx.Graph, roots: set[fx.Node]) -> set[fx.Node]:
    """`roots` and every node that depends on one of them."""
    late = set(roots)
    for node in graph.nodes:
        if node.op != "output" and any(parent in late for parent in node.all_input_nodes):
            late.add(node)
    return late


def _collapse_scalings(graph: fx.Graph, late: set[fx.Node]) -> None:
    """Chains of late elementwise linear kernels become one product with a factor that is not late.

    The derivative of a loss is a dozen small kernels on the tangent of the outputs, each of which multiplies
    it by something known. Applied to ones instead, they give the factor of the whole chain ahead of time.
    """
    scaled: dict[fx.Node, tuple[fx.Node, fx.Node, int]] = {}  # node = base * factor, after so many kernels
    for node in list(graph.nodes):
        places = _linear_in(node, late)
        if not places or any(node.args[i].meta.get("tensor") != node.meta.get("tensor") for i in places):
            continue
        parents = [scaled.get(node.args[i], (node.args[i], None, 0)) for i in places]
        base, depth = parents[0][0], max(length for _, _, length in parents) + 1
        if any(other is not base for other, _, _ in parents) or "tensor" not in node.meta:
            continue
        shape, dtype, device = node.meta["tensor"]
        with graph.inserting_before(node):
            args = list(node.args)
            for i, (_, factor, _) in zip(places, parents, strict=True):
                args[i] = factor or graph.call_function(
                    aten.ones.default, (list(shape),), {"dtype": dtype, "device": device}
                )
            factor = graph.call_function(node.target, tuple(args), dict(node.kwargs))
        factor.meta = dict(node.meta)
        scaled[node] = base, factor, depth
    for node, (base, factor, depth) in scaled.items():
        outside = [user for user in node.users if user not in scaled]
        if outside and depth > 1:
            with graph.inserting_after(node):
                product = graph.call_function(aten.mul.Tensor, (base, factor))
            product.meta = dict(node.meta)
            for user in outside:
                user.replace_input_with(node, product)
    graph.eliminate_dead_code()


def _linear_in(node: fx.Node, late: set[fx.Node]) -> tuple[int, ...]:
    """The arguments in which an elementwise kernel is linear, if they are all its late ones."""
    if node not in late or node.op != "call_function":
        return ()
    places = tuple(i for i, a in enumerate(node.args) if isinstance(a, fx.Node) and a in late)
    t, zero = node.target, [isinstance(a, fx.Node) and a.target in ZEROS for a in node.args]
    allowed: dict[Any, list[tuple[int, ...]]] = {
        aten.add.Tensor: [(0, 1)],
        aten.sub.Tensor: [(0, 1)],
        aten.mul.Tensor: [(0,), (1,)],
    }
    for scaling in (aten.neg.default, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar):
        allowed[scaling] = [(0,)]
    allowed[aten.threshold_backward.default] = [(0,)]
    if t is aten.where.self:
        allowed[t] = [(1, 2), *([(1,)] if zero[2] else []), *([(2,)] if zero[1] else [])]
    return places if places in allowed.get(t, []) else ()
