"""Curvature of a batch's mean loss, as products with a vector; one pass also gives every example's product.

`REVERSE` has each curvature as a function (losses, z, batch, coefficients) -> product, where `losses` gives
the model's outputs and per-example losses at z [param] (`losses.Training`, or anything like it), the
coefficients are the weights w_i / b of the examples' losses, product(c) = (H c [param], <c, g_j> [slot]), and
product.gradient() is the gradient of the mean loss from the same forward pass. It asks for first and second
derivatives backwards only, and c may be given any number of times. The L2 penalty is part of every example's
loss. `forward_curvature` has the same by forward derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils import _pytree as pytree

from influencekit._training.batch import Batch
from influencekit._training.kernels.recompute import recomputing
from influencekit.errors import InputError

__all__ = ["CURVATURES", "REVERSE", "Losses", "Pair", "Product", "gradient", "leaf", "pusher"]

Pair = tuple[Tensor, Tensor]


class Product(NamedTuple):
    """`of(c)` = (H c, <c, g_j> [slot]); `gradient()` of the mean loss, from the same forward pass.

    `of(c, keep=False)` lets go of intermediate results while it goes: nothing can be asked after it.
    """

    of: Callable[..., Pair]
    gradient: Callable[[], Tensor]

    def __call__(self, c: Tensor) -> Pair:
        return self.of(c)


class Losses(Protocol):
    """A model and its per-example losses as pure functions of z; called twice they give the same."""

    @property
    def l2(self) -> float: ...
    @property
    def penalty(self) -> bool: ...

    def outputs(self, z: Tensor, batch: Batch) -> Any:
        """The model's outputs."""

    def loss_of(self, outputs: Any, batch: Batch) -> Tensor:
        """Per-example losses [slot] of given outputs, without the penalty."""

    def losses(self, z: Tensor, batch: Batch) -> Tensor:
        """Per-example losses [slot] at z, without the penalty."""

    def of_theta(self, z: Tensor) -> Tensor:
        """z, with 0 for whatever has no penalty."""


# backwards only ---------------------------------------------------------------------------------------


def hessian(w: Losses, z: Tensor, batch: Batch, coefficients: Tensor) -> Product:
    """True Hessian: the gradient, differentiated backwards once more. More exactly its transpose, where a
    model hides part of its gradient and the two are not the same."""
    with torch.enable_grad():
        z, weights = leaf(z), leaf(coefficients)
        g = gradient((weights * w.losses(z, batch)).sum(), z, create_graph=True)
    root = g if _transformed() or not g.requires_grad else get_gradient_edge(g)  # which holds no values

    def product(c: Tensor, keep: bool = True) -> Pair:
        return _pulled([root], (z, weights), [c], keep)

    return _penalised(w, z.detach(), coefficients, product, g.detach)


def gauss_newton(w: Losses, z: Tensor, batch: Batch, coefficients: Tensor) -> Product:
    """J^T (d2 loss / d outputs2) J: the model linearised, the loss's curvature kept."""
    _refuse_penalty(w, "gauss-newton")
    with torch.enable_grad():
        z, weights = leaf(z), leaf(coefficients)
        outputs, tree = _parts(w.outputs(z, batch))
        forward = _forward(outputs, z)
        leaves = [leaf(x) for x in outputs]
        losses = (weights * w.loss_of(tree(leaves), batch)).sum()
        bent = torch.autograd.grad(losses, leaves, create_graph=True, materialize_grads=True)

    def product(c: Tensor, keep: bool = True) -> Pair:
        tangents = forward(c)
        *turned, gradient_products = _pulled(bent, (*leaves, weights), tangents)
        (back,) = _pulled(outputs, (z,), turned, keep)
        return back, gradient_products

    def mean_gradient() -> Tensor:
        return _pulled(outputs, (z,), [b.detach() for b in bent])[0]

    return _penalised(w, z.detach(), coefficients, product, mean_gradient)


def fisher(w: Losses, z: Tensor, batch: Batch, coefficients: Tensor) -> Product:
    """Empirical Fisher (1/b) sum_i g_i g_i^T, the outer products of the paper's Eq. 12."""
    _refuse_penalty(w, "fisher")
    with torch.enable_grad():
        z = leaf(z)
        losses = w.losses(z, batch)
        forward = _forward([losses], z)
    flat = w.of_theta(z.detach())

    def product(c: Tensor, keep: bool = True) -> Pair:
        gradient_products = forward(c)[0] + w.l2 * (flat @ c)
        (back,) = _pulled([losses], (z,), [coefficients * gradient_products], keep)
        return back + flat * (w.l2 * (coefficients * gradient_products).sum()), gradient_products

    return Product(product, lambda: _mean_gradient(w, losses, z, coefficients))


def none(w: Losses, z: Tensor, batch: Batch, coefficients: Tensor) -> Product:
    """No curvature: the products with the gradients alone, for methods that take every step by itself."""
    with torch.enable_grad():
        z = leaf(z)
        losses = w.losses(z, batch)
        forward = _forward([losses], z)
    flat = w.of_theta(z.detach())

    def product(c: Tensor, keep: bool = True) -> Pair:
        return torch.zeros_like(c), forward(c)[0] + w.l2 * (flat @ c)

    return Product(product, lambda: _mean_gradient(w, losses, z, coefficients))


def _refuse_penalty(w: Losses, curvature: str) -> None:
    """Refuse curvatures that are made of the examples' losses alone, and would leave out the penalty's."""
    if w.penalty:
        raise InputError(
            f"the curvature {curvature} is that of losses, and this run has a penalty=, which would be left "
            "out of it; use curvature=hessian"
        )


def gradient(loss: Tensor, z: Tensor, create_graph: bool = False) -> Tensor:
    """d loss / d z, zero where nothing of z is in it."""
    return torch.autograd.grad(loss, z, create_graph=create_graph, materialize_grads=True)[0]


def leaf(x: Tensor) -> Tensor:
    """x to differentiate by: in the same memory, or a copy inside a transform, where `requires_grad_` is
    refused."""
    if not _transformed():
        return x.detach().requires_grad_()
    copy = torch.zeros_like(x, requires_grad=True)
    with torch.no_grad():
        return copy.copy_(x)


def _transformed() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None


def _mean_gradient(w: Losses, losses: Tensor, z: Tensor, coefficients: Tensor) -> Tensor:
    """The gradient of the mean of losses [slot] of z, and of its penalty."""
    (g,) = _pulled([losses], (z,), [coefficients])
    return g + w.of_theta(z.detach()) * (w.l2 * coefficients.sum()) if w.l2 else g


def _pulled(
    values: Sequence[Tensor | GradientEdge], inputs: Sequence[Tensor], by: Sequence[Tensor], keep: bool = True
) -> Any:
    """sum of <by, values>, differentiated by the inputs; the graph stays for the next, or not."""
    pairs = [(v, b) for v, b in zip(values, by, strict=True) if getattr(v, "requires_grad", True)]
    if not pairs:
        return tuple(torch.zeros_like(x) for x in inputs)
    some, weights = zip(*pairs, strict=True)
    return torch.autograd.grad(some, inputs, weights, retain_graph=keep, materialize_grads=True)


def _forward(values: Sequence[Tensor], z: Tensor) -> Callable[[Tensor], Sequence[Tensor]]:
    """c -> J c of values with the Jacobian J."""
    push = pusher(values, (z,))
    return lambda c: push((c,))


def pusher(
    values: Sequence[Tensor], inputs: Sequence[Tensor]
) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
    """Tangents of inputs -> those of values, without asking for a forward derivative.

    J^T u is differentiated in u, in which it is linear.
    """
    with torch.enable_grad():
        u = [torch.zeros_like(v, requires_grad=True) for v in values]
        some, weights = zip(*[(v, x) for v, x in zip(values, u, strict=True) if v.requires_grad], strict=True)
        back = torch.autograd.grad(some, inputs, weights, create_graph=True, materialize_grads=True)
    return lambda tangents: _pulled(back, u, tangents)


def _parts(outputs: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]]:
    """The floating-point tensors of outputs of any structure, and how to put others in their places."""
    leaves, spec = pytree.tree_flatten(outputs)
    places = [i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.is_floating_point()]

    def tree(values: Sequence[Tensor]) -> Any:
        new = list(leaves)
        for i, value in zip(places, values, strict=True):
            new[i] = value
        return pytree.tree_unflatten(new, spec)

    return [leaves[i] for i in places], tree


def _penalised(
    w: Losses, z: Tensor, coefficients: Tensor, product: Callable[..., Pair], mean: Callable[[], Tensor]
) -> Product:
    if not w.l2:
        return Product(product, mean)
    flat = w.of_theta(z)

    def whole(c: Tensor, keep: bool = True) -> Pair:
        back, gradient_products = product(c, keep)
        return back + c * (w.l2 * coefficients.sum()), gradient_products + w.l2 * (flat @ c)

    return Product(whole, lambda: mean() + flat * (w.l2 * coefficients.sum()))


def _in_one_line(make: Callable[..., Any]) -> Callable[..., Any]:
    """Errors of torch that speak of a missing derivative, as our own."""

    def explained(*args: Any) -> Any:
        try:
            return make(*args)
        except (RuntimeError, NotImplementedError) as error:
            if "erivative" not in str(error) and "differentia" not in str(error):
                raise
            raise InputError(
                f"torch has no second derivative of this model ({str(error).splitlines()[0][:110]}); "
                "first-order scores need one: use loo, or replace that operation"
            ) from error

    return explained


def _explained(make: Callable[..., Product]) -> Callable[..., Product]:
    def made(*args: Any) -> Product:
        with recomputing():
            product = _in_one_line(make)(*args)
        return product._replace(of=_in_one_line(product.of))

    return made


REVERSE: Mapping[str, Callable[[Losses, Tensor, Batch, Tensor], Product]] = {
    name: _explained(make)
    for name, make in {
        "hessian": hessian,
        "gauss-newton": gauss_newton,
        "fisher": fisher,
        "none": none,
    }.items()
}
CURVATURES = tuple(REVERSE)
