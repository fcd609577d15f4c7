"""Clipping of a gradient as `torch.nn.utils` does it, by norm or by value, and its transposed derivative.

by norm    g -> g min(1, limit / (n + 1e-6)),   n = |(|g_1|, |g_2|, ...)|: the norm of the parameters' norms
by value   g -> g between -limit and limit, entry by entry
"""

import torch
from torch import Tensor

from influencekit._training.layout import Layout

__all__ = ["by_norm", "by_norm_pullback", "by_value", "by_value_pullback"]


def by_norm(layout: Layout, g: Tensor, limit: float, kind: float) -> Tensor:
    """g [..., param], clipped as by `clip_grad_norm_(norm_type=kind)`."""
    return g * _scale(_norm(layout, g, kind), limit).unsqueeze(-1)


def by_norm_pullback(layout: Layout, g: Tensor, limit: float, kind: float, c: Tensor) -> Tensor:
    """The adjoint of g [param] from those [..., param] of the clipped gradient."""
    norm = _norm(layout, g, kind)
    scale = _scale(norm, limit)
    if not bool(scale < 1.0):
        return c
    # d(s g) = s (dg - g <u, dg> / (n + 1e-6)) with u = dn/dg, as s = limit / (n + 1e-6)
    if kind == 2:
        unit = torch.div(g, norm)
        return scale * (c - unit * ((c @ unit) * (norm / (norm + 1e-6))).unsqueeze(-1))
    unit = torch.func.grad(lambda g: _norm(layout, g, kind))(g)
    return scale * (c - unit * (c @ g / (norm + 1e-6)).unsqueeze(-1))


def by_value(g: Tensor, limit: float) -> Tensor:
    """g [..., param], clipped as by `clip_grad_value_`."""
    return g.clamp(-limit, limit)


def by_value_pullback(g: Tensor, limit: float, c: Tensor) -> Tensor:
    """The adjoint of g [param] from those [..., param] of the clipped gradient: 0 where it was clipped."""
    return c * (g.abs() <= limit)


def _norm(layout: Layout, g: Tensor, kind: float) -> Tensor:
    norms = [torch.linalg.vector_norm(part, kind, dim=-1) for part in g.split(layout.sizes, dim=-1)]
    return torch.linalg.vector_norm(torch.stack(norms, -1), kind, dim=-1)


def _scale(norm: Tensor, limit: float) -> Tensor:
    return torch.clamp(limit / (norm + 1e-6), max=1.0)
