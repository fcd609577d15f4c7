"""Passes that take out of a trace what changes nothing: copies, and zeros carried along.

None of them changes how a result lies in memory: kernels may depend on strides.
"""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["ZEROS", "shapes_of", "simplify"]

aten = torch.ops.aten

# nodes that return their first argument when nothing about it changes
_COPIES = {
    aten.alias.default, aten.clone.default, aten.copy.default, aten.detach.default,
    aten.lift_fresh_copy.default,
}  # fmt: skip
_RESHAPES = {aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.expand.default}
# operations whose result is zero when one of the listed arguments is
_HOMOGENEOUS: dict[Any, tuple[int, ...]] = {
    aten.mul.Tensor: (0, 1), aten.mul.Scalar: (0,), aten.div.Tensor: (0,), aten.div.Scalar: (0,),
    aten.neg.default: (0,), aten.mm.default: (0, 1), aten.bmm.default: (0, 1), aten.mv.default: (0, 1),
    aten.dot.default: (0, 1), aten.view.default: (0,), aten.reshape.default: (0,),
    aten._unsafe_view.default: (0,), aten.expand.default: (0,), aten.t.default: (0,),
    aten.transpose.int: (0,), aten.permute.default: (0,), aten.squeeze.dim: (0,), aten.squeeze.dims: (0,),
    aten.unsqueeze.default: (0,), aten.slice.Tensor: (0,), aten.select.int: (0,), aten.sum.default: (0,),
    aten.sum.dim_IntList: (0,), aten.alias.default: (0,), aten.clone.default: (0,),
    aten._to_copy.default: (0,), aten.threshold_backward.default: (0,),
    aten.max_pool2d_with_indices_backward.default: (0,),
}  # fmt: skip
ZEROS = {aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default}


def simplify(graph: fx.Graph, shapes: dict[fx.Node, Any]) -> None:
    """All passes, in place."""
    _drop_copies(graph, shapes)
    _drop_zeros(graph, shapes)
    graph.eliminate_dead_code()


def shapes_of(graph_module: fx.GraphModule, example: Sequence[Tensor]) -> dict[fx.Node, Any]:
    """(shape, dtype, device, stride) of every tensor in the graph, found by running it once."""
    found: dict[fx.Node, Any] = {}

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                found[n] = (value.shape, value.dtype, value.device, value.stride())
            return value

    with torch.no_grad():
        Watch(graph_module).run(*example)
    return found


def _drop_copies(graph: fx.Graph, shapes: dict[fx.Node, Any]) -> None:
    """Let the source stand for its copy, where the two lie alike in memory: kernels may depend on strides."""
    for node in list(graph.nodes):
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        source = node.args[0]
        if node.target is aten.fill.Scalar:  # it reads nothing of its first argument, and has no vmap rule
            with graph.inserting_before(node):
                _replace(graph, node, graph.call_function(aten.full_like.default, node.args))
            continue
        if node.target is aten.copy.default:
            source = node.args[1]
        cast = node.target is aten._to_copy.default and "memory_format" not in node.kwargs
        if _same_shape(shapes, source, node) and (node.target in _COPIES or node.target in _RESHAPES or cast):
            _replace(graph, node, source)


def _drop_zeros(graph: fx.Graph, shapes: dict[fx.Node, Any]) -> None:
    """Forward-mode derivatives carry zero tangents of constants through whole matrix products; cut them."""
    zero: set[fx.Node] = set()
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        args = node.args
        if node.target in ZEROS or (
            node.target in (aten.scalar_tensor.default, aten.full.default) and args[-1] in (0, 0.0)
        ):
            zero.add(node)
        elif any(args[i] in zero for i in _HOMOGENEOUS.get(node.target, ())):
            zero.add(node)
        elif node.target in (aten.add.Tensor, aten.sub.Tensor) and not node.kwargs:
            if args[0] in zero and args[1] in zero:
                zero.add(node)
            elif args[1] in zero and _same_shape(shapes, args[0], node):
                _replace(graph, node, args[0])
            elif node.target is aten.add.Tensor and args[0] in zero and _same_shape(shapes, args[1], node):
                _replace(graph, node, args[1])
        elif node.target is operator.getitem and args[0].target is aten.convolution_backward.default:
            gradient, image, kernel = args[0].args[:3]
            if gradient in zero or (args[1] == 0 and kernel in zero) or (args[1] == 1 and image in zero):
                zero.add(node)
        elif node.target is aten.convolution.default and args[2] is None:
            if args[0] in zero or args[1] in zero:
                zero.add(node)
    for node in list(graph.nodes):
        if node in zero and node.target not in ZEROS and any(user not in zero for user in node.users):
            shape, dtype, device, _ = shapes[node]
            with graph.inserting_before(node):
                fresh = graph.call_function(
                    aten.zeros.default, (list(shape),), {"dtype": dtype, "device": device}
                )
            _replace(graph, node, fresh)


def _same_shape(shapes: dict[fx.Node, Any], one: Any, other: fx.Node) -> bool:
    """Whether two nodes agree in shape, dtype, device and strides."""
    return isinstance(one, fx.Node) and one in shapes and other in shapes and shapes[one] == shapes[other]


def _replace(graph: fx.Graph, node: fx.Node, by: Any) -> None:
    node.replace_all_uses_with(by)
    graph.erase_node(node)
