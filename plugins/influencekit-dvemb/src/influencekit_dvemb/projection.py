"""Per-example gradients of linear and convolution layers, projected by A (x) B without being formed.

The gradient of a layer for one example is a sum over positions p of (output gradient d_p) (x) (input a_p, 1);
its projection is the same sum of (B d_p) (x) (A [a_p, 1]). A and B add up inputs in groups of equal size,
drawn at random, each with a random sign: rows are orthogonal, and scalar products are kept on average. Many
such rows act without a matrix product. Where nothing is to be made smaller, A and B are the identity.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isqrt, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from influencekit import InputError
from influencekit.extend import Layout

_FEW = 8  # rows of A, at least, where the outputs of a convolution are left whole
_DENSE = 128  # rows from which on sums cost less than a matrix product (2-core CPU, one thread)

__all__ = ["Layer", "Projection", "layers_of"]

_FORWARD = {nn.Linear: nn.Linear.forward, nn.Conv2d: nn.Conv2d.forward}


@dataclass(frozen=True)
class Layer:
    """One layer: `outputs` x `inputs` numbers (the bias is one more input), projected to `b` x `a`."""

    name: str
    convolution: bool
    bias: bool
    outputs: int
    inputs: int
    b: int
    a: int

    @property
    def features(self) -> int:
        """The length of its part of an embedding."""
        return self.a * self.b

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of its parameters."""
        dot = f"{self.name}." if self.name else ""
        return (f"{dot}weight", f"{dot}bias") if self.bias else (f"{dot}weight",)


def layers_of(model: nn.Module, dim: int | None) -> list[Layer]:
    """The layers with trainable parameters, each projected to at most `dim` features (None: not at all).

    Errors: a trainable parameter that belongs to no plain Linear or Conv2d, or to two of them.
    """
    if dim is not None and dim < 1:
        raise InputError(f"dim must be at least 1, or None for no projection; got {dim}")
    found, owned = [], set[int]()
    for name, module in model.named_modules():
        own = [(n, p) for n, p in module.named_parameters(recurse=False) if p.requires_grad]
        if not own:
            continue
        said = f"{name or 'the model'} ({type(module).__name__})"
        plain = any(type(module).forward is forward for forward in _FORWARD.values())
        if not plain or {n for n, _ in own} > {"weight", "bias"}:
            raise InputError(
                f"dvemb projects the gradients of Linear and Conv2d layers; {said} has the parameter "
                f"{own[0][0]!r}: freeze it, or use dit:curvature=fisher"
            )
        if own[0][0] != "weight":
            raise InputError(f"dvemb needs a layer's weight to be trained with its bias: {said}; freeze both")
        if any(id(p) in owned for _, p in own):
            raise InputError(f"dvemb cannot tell tied parameters apart: {said}; use dit:curvature=fisher")
        owned |= {id(p) for _, p in own}
        convolution = isinstance(module, nn.Conv2d)
        if convolution and (module.groups != 1 or module.padding_mode != "zeros"):  # type: ignore[union-attr]
            raise InputError(f"dvemb knows convolutions of one group padded with zeros; {said} is another")
        weight, bias = own[0][1], len(own) == 2
        outputs, inputs = weight.shape[0], prod(weight.shape[1:]) + bias
        b, a = outputs, inputs
        if dim is not None and outputs * inputs > dim:
            # a convolution's outputs cost nothing as they are, and fewer rows of A are fewer filters
            b = outputs if convolution and outputs * _FEW <= dim else min(outputs, isqrt(dim))
            a = min(inputs, dim // b)
            b = min(outputs, dim // a)
        found.append(Layer(name, convolution, bias, outputs, inputs, b, a))
    return found


class Projection:
    """The random factors of every layer, made again from `layers` and `seed` wherever they are needed.

    Features of an embedding: the layers one after the other, each `a` x `b`, flattened.
    """

    def __init__(self, layers: Sequence[Layer], seed: int, like: Tensor) -> None:
        self.layers, self.seed = tuple(layers), seed
        self.factors = [
            (
                _factor(layer.a, layer.inputs, (seed, 2 * k), like),
                _factor(layer.b, layer.outputs, (seed, 2 * k + 1), like),
            )
            for k, layer in enumerate(self.layers)
        ]
        self._groups: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def sizes(self) -> list[int]:
        """The number of features of every layer."""
        return [layer.features for layer in self.layers]

    @property
    def features(self) -> int:
        """The number of features of all layers."""
        return sum(self.sizes)

    def described(self) -> list[dict[str, Any]]:
        """The layers as plain data, for the attributes of a store."""
        return [asdict(layer) for layer in self.layers]

    def inputs(self, k: int, module: nn.Module, x: Tensor) -> Tensor:
        """A [x, 1] at every position of the input of layer k: [example, a, position]."""
        layer, A = self.layers[k], self.factors[k][0]
        plain = layer.inputs - layer.bias
        if isinstance(module, nn.Conv2d):
            if A is None and not isinstance(module.padding, str):
                x = _patches(module, x)
                return torch.cat([x, torch.ones_like(x[:, :1])], 1) if layer.bias else x
            A = torch.eye(layer.inputs, dtype=x.dtype, device=x.device) if A is None else A
            filters = A[:, :plain].reshape(-1, *module.weight.shape[1:])
            constant = A[:, -1] if layer.bias else None
            options: Any = (module.stride, module.padding, module.dilation)
            return conv2d(x, filters, constant, *options).flatten(2)
        x = x.reshape(len(x), -1, plain)
        if A is None or layer.a >= _DENSE:
            x = torch.cat([x, torch.ones_like(x[..., :1])], -1) if layer.bias else x
            return (x if A is None else self._added(k, x)).mT
        return (x @ A[:, :plain].T + A[:, -1] if layer.bias else x @ A.T).mT

    def _added(self, k: int, x: Tensor) -> Tensor:
        """A x for every x [..., inputs] of layer k, by sums."""
        if k not in self._groups:
            A = self.factors[k][0]
            assert A is not None
            # the largest entries of a row are its +1s and -1s; a short row is padded by an entry that is 0
            places = A.abs().topk(-(-A.shape[1] // A.shape[0]), -1).indices
            self._groups[k] = places.T.flatten(), A.gather(1, places).T.contiguous()
        places, signs = self._groups[k]
        found = x.gather(-1, places.expand(*x.shape[:-1], -1))  # much faster than an index on a CPU
        return (found.unflatten(-1, signs.shape) * signs).sum(-2)

    def outputs(self, k: int, delta: Tensor) -> Tensor:
        """B d at every position of the output gradient of layer k: [example, b, position]."""
        layer, B = self.layers[k], self.factors[k][1]
        if layer.convolution:
            return (delta if B is None else conv2d(delta, B[:, :, None, None])).flatten(2)
        delta = delta.reshape(len(delta), -1, layer.outputs).transpose(1, 2)
        return delta if B is None else B @ delta

    def of_flat(self, layout: Layout, flat: Tensor) -> Tensor:
        """Projections [..., feature] of whole gradients [..., param], such as a query's."""
        tensors = dict(zip(layout.names, flat.split(layout.sizes, -1), strict=True))
        parts = []
        for layer, (A, B) in zip(self.layers, self.factors, strict=True):
            weight, *bias = (tensors[name] for name in layer.parameters)
            g = weight.unflatten(-1, (layer.outputs, -1))
            if bias:
                g = torch.cat([g, bias[0][..., None]], -1)
            g = g if B is None else B @ g
            parts.append((g if A is None else g @ A.T).mT.flatten(-2))
        return torch.cat(parts, -1)


def _patches(module: nn.Conv2d, x: Tensor) -> Tensor:
    """What every position of a convolution sees, [example, input, position]; `unfold` is slower on a CPU."""
    options: Any = (module.padding, module.stride, module.dilation)
    (top, left), (down, right), (dy, dx) = options
    x = pad(x, (left, left, top, top)).contiguous()
    n, channels, *sizes = x.shape
    kernel = module.weight.shape[2:]
    places = [
        (size - gap * (k - 1) - 1) // step + 1
        for size, k, gap, step in zip(sizes, kernel, (dy, dx), (down, right), strict=True)
    ]
    a, b, c, d = x.stride()
    seen = x.as_strided((n, channels, *kernel, *places), (a, b, dy * c, dx * d, down * c, right * d))
    return seen.reshape(n, -1, places[0] * places[1])


def _factor(rows: int, columns: int, seed: tuple[int, int], like: Tensor) -> Tensor | None:
    """[rows, columns] with one entry, +1 or -1, in every column; None for the identity."""
    if rows == columns:
        return None
    generator = torch.Generator().manual_seed(1_000_003 * seed[0] + seed[1])
    order = torch.randperm(columns, generator=generator)
    signs = 2.0 * torch.randint(2, (columns,), generator=generator) - 1
    factor = torch.zeros(rows, columns)
    factor[torch.arange(columns) % rows, order] = signs
    return factor.to(like)
