"""A traced function of one vector, batched over any number of them by kernels that are traced once."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import vmap

from influencekit._training.kernels.tracing import try_trace

__all__ = ["batched_trace"]

_WIDTHS = 5, 7


def batched_trace(one: Callable[..., Any], c: Tensor, *values: Tensor) -> Callable[..., Any]:
    """f(c [column, param], *values) = one(c [param], *values) for every column; of two or more columns.

    vmap issues the same kernels for any number of columns, up to numbers that are multiples of it. They are
    found by tracing at two widths; where the two traces differ otherwise, vmap itself is returned.
    """

    def many(c: Tensor, *values: Tensor) -> Any:
        return vmap(one, in_dims=(0, *[None] * len(values)))(c, *values)

    short, long = (try_trace(many, c.expand(w, -1).clone(), *values) for w in _WIDTHS)
    if not (isinstance(short, fx.GraphModule) and isinstance(long, fx.GraphModule)):
        return many
    nodes = list(short.graph.nodes)
    if len(nodes) != len(long.graph.nodes):
        return many
    first = nodes[0]
    with short.graph.inserting_before(nodes[len(values) + 1]):
        width = short.graph.call_function(torch.ops.aten.sym_size.int, (first, 0))
    for node, other in zip(nodes, list(long.graph.nodes), strict=True):
        if (node.op, str(node.target)) != (other.op, str(other.target)):
            return many
        try:
            node.args = _merged(node, node.args, other.args, width)
            node.kwargs = _merged(node, node.kwargs, other.kwargs, width)
        except ValueError:
            return many
    short.graph.lint()
    short.recompile()
    return short.forward  # not __call__: its hooks cost more


def _merged(node: fx.Node, a: Any, b: Any, width: fx.Node) -> Any:
    """The arguments of a node, numbers that differ between the two traces made multiples of the width."""
    if isinstance(a, fx.Node):
        return a
    if type(a) is not type(b):
        raise ValueError
    if isinstance(a, dict):
        return {k: _merged(node, v, b[k], width) for k, v in a.items()}
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            raise ValueError
        return type(a)([_merged(node, x, y, width) for x, y in zip(a, b, strict=True)])
    if a == b:
        return a
    if not isinstance(a, int) or a * _WIDTHS[1] != b * _WIDTHS[0]:
        raise ValueError
    with node.graph.inserting_before(node):
        return node.graph.call_function(operator.mul, (width, a // _WIDTHS[0]))
