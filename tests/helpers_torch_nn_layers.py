"""Rows of the table of torch.nn: linear layers, activations, norms, dropout, parametrizations, containers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from helpers_torch_nn import Around, Row
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.parametrizations import orthogonal

EVAL = {"record": "eval", "tape": "eval"}
NOISE_BY_TAPE = {"record": "eval", "tape": "train"}


def around(
    name: str,
    kind: str,
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    call: Any = None,
    **options: Any,
) -> Row:
    """A row of `make()` between two linear layers, on activations of `shape`."""
    return Row(name, kind, lambda: Around(make(), shape, call), **options)


def activation(name: str, *arguments: Any, shape: tuple[int, ...] = (6,), **options: Any) -> Row:
    said = ", ".join(map(repr, arguments))
    kwargs = options.pop("kwargs", {})
    said = ", ".join([said] * bool(said) + [f"{k}={v!r}" for k, v in kwargs.items()])
    make = partial(getattr(nn, name), *arguments, **kwargs)
    return around(f"{name}({said})" if said else name, "activations", make, shape, **options)


ACTIVATIONS = [
    *map(activation, ["ELU", "Hardtanh", "Hardswish", "LeakyReLU", "LogSigmoid", "PReLU", "ReLU"]),
    *map(activation, ["ReLU6", "SELU", "CELU", "GELU", "Sigmoid", "SiLU", "Mish", "Softplus", "Softsign"]),
    *map(activation, ["Tanh", "Tanhshrink", "Hardshrink", "Softshrink"]),
    activation("Hardsigmoid", differences=True),
    activation(
        "RReLU",
        modes=NOISE_BY_TAPE,
        noisy=True,
        refused={"tape": "rrelu"},
        why="its kernel draws the noise itself, so that a derivative cannot be given the loop's own",
    ),
    activation("GELU", kwargs={"approximate": "tanh"}),
    activation("PReLU", 6),
    activation("Threshold", 0.1, 0.5),
    *(activation(name, 1) for name in ("Softmax", "Softmin", "LogSoftmax", "GLU")),
    activation("Softmax2d", shape=(2, 2, 2)),
]


def norm(name: str, make: Callable[[], nn.Module], shape: tuple[int, ...], **options: Any) -> Row:
    return around(name, "norms", make, shape, **options)


NORMS = [
    norm("BatchNorm1d", lambda: nn.BatchNorm1d(5), (5,)),
    norm("BatchNorm1d on sequences", lambda: nn.BatchNorm1d(3), (3, 2)),
    norm("BatchNorm2d", lambda: nn.BatchNorm2d(2), (2, 2, 2)),
    norm("BatchNorm3d", lambda: nn.BatchNorm3d(2), (2, 2, 2, 1)),
    norm("BatchNorm1d in eval mode", lambda: nn.BatchNorm1d(5), (5,), modes=EVAL),
    norm("BatchNorm1d(momentum=None)", lambda: nn.BatchNorm1d(5, momentum=None), (5,)),
    norm("BatchNorm1d(affine=False)", lambda: nn.BatchNorm1d(5, affine=False), (5,)),
    norm(
        "BatchNorm1d(track_running_stats=False)", lambda: nn.BatchNorm1d(5, track_running_stats=False), (5,)
    ),
    norm("BatchNorm1d with a short last batch", lambda: nn.BatchNorm1d(5), (5,), n=10),
    norm("SyncBatchNorm in eval mode", lambda: nn.SyncBatchNorm(5), (5,), modes=EVAL),
    norm("InstanceNorm1d", lambda: nn.InstanceNorm1d(3), (3, 4)),
    norm("InstanceNorm2d(affine=True)", lambda: nn.InstanceNorm2d(2, affine=True), (2, 2, 2)),
    norm("InstanceNorm3d", lambda: nn.InstanceNorm3d(2), (2, 2, 2, 1)),
    norm(
        "InstanceNorm1d(track_running_stats=True)",
        lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
        (3, 4),
    ),
    norm("GroupNorm", lambda: nn.GroupNorm(2, 4), (4, 3)),
    norm("GroupNorm(affine=False)", lambda: nn.GroupNorm(1, 4, affine=False), (4, 3)),
    norm("LayerNorm", lambda: nn.LayerNorm(4), (2, 4)),
    norm("LayerNorm over two dimensions", lambda: nn.LayerNorm((2, 3)), (2, 3)),
    norm("LayerNorm(elementwise_affine=False)", lambda: nn.LayerNorm(4, elementwise_affine=False), (4,)),
    norm("LayerNorm(bias=False)", lambda: nn.LayerNorm(4, bias=False), (4,)),
    norm("RMSNorm", lambda: nn.RMSNorm(4), (2, 4)),
    norm("RMSNorm(elementwise_affine=False)", lambda: nn.RMSNorm(4, elementwise_affine=False), (4,)),
    norm("LocalResponseNorm", lambda: nn.LocalResponseNorm(2), (4, 2)),
    norm(
        "CrossMapLRN2d",
        lambda: nn.CrossMapLRN2d(2),
        (4, 2, 2),
        differences=True,
        refused={"record dit": "second derivative", "tape": "second derivative"},
        why="its backward pass has no derivative",
    ),
]


def dropout(name: str, shape: tuple[int, ...]) -> Row:
    make = getattr(nn, name)
    return around(name, "dropout", lambda: make(0.3), shape, modes=NOISE_BY_TAPE, noisy=True)


DROPOUT = [
    dropout("Dropout", (6,)),
    dropout("Dropout1d", (4, 2)),
    dropout("Dropout2d", (4, 2, 1)),
    dropout("Dropout3d", (4, 2, 1, 1)),
    dropout("AlphaDropout", (6,)),
    dropout("FeatureAlphaDropout", (4, 2)),
    around(
        "Dropout in training mode",
        "dropout",
        lambda: nn.Dropout(0.3),
        (6,),
        noisy=True,
        refused={"record": "training loss is random"},
        why="record repeats a run exactly; a tape records its noise",
    ),
]


class Symmetric(nn.Module):
    """A parametrization of one's own."""

    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).mT


def symmetric() -> nn.Module:
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def parametrized(
    name: str, make: Callable[[], nn.Module], shape: tuple[int, ...] = (4,), **options: Any
) -> Row:
    return around(name, "parametrizations", make, shape, **options)


POWER_SAYS = "buffer|spectral|depends on|autograd does not see"
POWER = {"record dit": POWER_SAYS, "tape": POWER_SAYS}
POWER_WHY = "its power iteration changes buffers under no_grad, where no derivative goes through them"
PARAMETRIZED = [
    parametrized("weight_norm", lambda: parametrizations.weight_norm(nn.Linear(4, 4)), differences=True),
    parametrized(
        "weight_norm of a convolution",
        lambda: parametrizations.weight_norm(nn.Conv1d(2, 3, 2)),
        (2, 3),
        differences=True,
    ),
    parametrized(
        "weight_norm, by hooks", lambda: torch.nn.utils.weight_norm(nn.Linear(4, 4)), differences=True
    ),
    parametrized(
        "spectral_norm",
        lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
        differences=True,
        refused=POWER,
        why=POWER_WHY,
    ),
    parametrized(
        "spectral_norm in eval mode", lambda: parametrizations.spectral_norm(nn.Linear(4, 4)), modes=EVAL
    ),
    parametrized(
        "spectral_norm, by hooks",
        lambda: torch.nn.utils.spectral_norm(nn.Linear(4, 4)),
        differences=True,
        refused=POWER,
        why=POWER_WHY,
    ),
    *(
        parametrized(
            f"orthogonal({kind})", lambda kind=kind: orthogonal(nn.Linear(4, 4), orthogonal_map=kind)
        )
        for kind in ("matrix_exp", "cayley")
    ),
    parametrized(
        "orthogonal(householder)",
        lambda: orthogonal(nn.Linear(4, 4), orthogonal_map="householder"),
    ),
    parametrized("a parametrization of one's own", symmetric),
]


class Listed(nn.Module):
    """Layers and parameters in containers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.named = nn.ModuleDict({"a": nn.Tanh(), "b": nn.Linear(4, 2)})
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(4)), nn.Parameter(torch.full((4,), 0.5))])
        self.shifts = nn.ParameterDict({"a": nn.Parameter(torch.zeros(4))})

    def forward(self, x: Tensor) -> Tensor:
        for layer, scale in zip(self.layers, self.scales, strict=True):
            x = self.named["a"](layer(x) * scale + self.shifts["a"])
        return self.named["b"](x)


class Tied(nn.Module):
    """One weight, used by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.b(torch.tanh(self.a(x)))))


def dry() -> nn.Module:
    """Lazy layers after a first forward pass."""
    model = nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(2))
    model(torch.zeros(1, 4))
    return model


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    model[0].requires_grad_(False)
    return model


CONTAINERS = [
    Row(
        "Sequential of Linear",
        "containers",
        lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)),
    ),
    Row("Linear(bias=False)", "containers", lambda: nn.Linear(4, 2, bias=False)),
    Row("ModuleList, ModuleDict, ParameterList, ParameterDict", "containers", Listed),
    Row("tied weights", "containers", Tied),
    Row("frozen layers", "containers", frozen),
    Row("LazyLinear after a dry run", "containers", dry),
    around("Identity", "containers", nn.Identity, (3,)),
    around(
        "Flatten, Unflatten",
        "containers",
        lambda: nn.Sequential(nn.Flatten(), nn.Unflatten(1, (3, 2))),
        (2, 3),
    ),
    around("ChannelShuffle", "containers", lambda: nn.ChannelShuffle(2), (4, 1, 2)),
]

ROWS = [*ACTIVATIONS, *NORMS, *DROPOUT, *PARAMETRIZED, *CONTAINERS]
