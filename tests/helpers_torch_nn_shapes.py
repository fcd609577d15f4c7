"""Rows of the table of torch.nn: convolutions, pooling, padding, upsampling, folds, embeddings, distances."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from helpers_torch_nn import Row, Tensors
from helpers_torch_nn_layers import around
from torch import Tensor, nn

SPATIAL = {1: (2, 5), 2: (2, 3, 3), 3: (1, 4, 3, 2)}


def convolution(name: str, make: Callable[[], nn.Module], shape: tuple[int, ...], call: Any = None) -> Row:
    return around(name, "convolutions", make, shape, call)


def channels_last(layer: nn.Module, h: Tensor) -> Tensor:
    return layer(h.contiguous(memory_format=torch.channels_last))


CONVOLUTIONS = [
    convolution("Conv1d", lambda: nn.Conv1d(2, 3, 3), SPATIAL[1]),
    convolution("Conv2d", lambda: nn.Conv2d(2, 3, 2), SPATIAL[2]),
    convolution("Conv3d", lambda: nn.Conv3d(1, 2, 2), SPATIAL[3]),
    convolution("Conv2d(stride=2, padding=1)", lambda: nn.Conv2d(2, 2, 3, stride=2, padding=1), SPATIAL[2]),
    convolution("Conv1d(dilation=2)", lambda: nn.Conv1d(2, 2, 2, dilation=2), SPATIAL[1]),
    convolution("Conv2d(groups=2)", lambda: nn.Conv2d(2, 4, 2, groups=2, bias=False), SPATIAL[2]),
    convolution("Conv1d(padding='same')", lambda: nn.Conv1d(2, 2, 2, padding="same"), SPATIAL[1]),
    *(
        convolution(
            f"Conv2d(padding_mode={mode!r})",
            lambda mode=mode: nn.Conv2d(2, 2, 2, padding=1, padding_mode=mode),
            SPATIAL[2],
        )
        for mode in ("reflect", "replicate", "circular")
    ),
    convolution("Conv2d, channels last", lambda: nn.Conv2d(2, 3, 2), SPATIAL[2], channels_last),
    convolution(
        "Conv2d, weights channels last",
        lambda: nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last),
        SPATIAL[2],
        channels_last,
    ),
    convolution("ConvTranspose1d", lambda: nn.ConvTranspose1d(2, 3, 2), (2, 3)),
    convolution("ConvTranspose2d", lambda: nn.ConvTranspose2d(2, 2, 2), (2, 2, 2)),
    convolution("ConvTranspose3d", lambda: nn.ConvTranspose3d(1, 2, 2), (1, 2, 2, 1)),
    convolution(
        "ConvTranspose2d(stride=2, output_padding=1)",
        lambda: nn.ConvTranspose2d(2, 1, 2, stride=2, padding=1, output_padding=1),
        (2, 2, 2),
    ),
]


def pooled(name: str, make: Callable[[], nn.Module], shape: tuple[int, ...], **options: Any) -> Row:
    return around(name, "pooling", make, shape, **options)


class Unpooled(nn.Module):
    """Maxima put back where they came from."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.pool = getattr(nn, f"MaxPool{d}d")(2, return_indices=True)
        self.back = getattr(nn, f"MaxUnpool{d}d")(2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.back(*self.pool(x), output_size=x.shape[2:])) + 0.1 * x


class Fractional(nn.Module):
    """Fractional max pooling with samples of its own, so that it repeats."""

    def __init__(self, make: Callable[..., nn.Module], channels: int, d: int) -> None:
        super().__init__()
        self.make = make
        self.register_buffer("samples", torch.rand(1, channels, d))

    def forward(self, x: Tensor) -> Tensor:
        return self.make(_random_samples=self.samples.expand(len(x), -1, -1))(x)


def fractional2d() -> nn.Module:
    return Fractional(partial(nn.FractionalMaxPool2d, 2, output_size=2), 2, 2)


def fractional3d() -> nn.Module:
    return Fractional(partial(nn.FractionalMaxPool3d, (2, 2, 1), output_size=(2, 2, 1)), 1, 3)


EACH = (1, 2, 3)
POOLING = [
    *(pooled(f"MaxPool{d}d", lambda d=d: getattr(nn, f"MaxPool{d}d")(2), SPATIAL[d]) for d in EACH),
    pooled("MaxPool2d(stride=1, padding=1)", lambda: nn.MaxPool2d(2, stride=1, padding=1), SPATIAL[2]),
    pooled("MaxPool1d(dilation=2)", lambda: nn.MaxPool1d(2, dilation=2), SPATIAL[1]),
    *(pooled(f"MaxUnpool{d}d", lambda d=d: Unpooled(d), SPATIAL[d]) for d in EACH),
    *(pooled(f"AvgPool{d}d", lambda d=d: getattr(nn, f"AvgPool{d}d")(2), SPATIAL[d]) for d in EACH),
    pooled(
        "AvgPool2d(padding=1, count_include_pad=False)",
        lambda: nn.AvgPool2d(2, padding=1, count_include_pad=False),
        SPATIAL[2],
    ),
    *(
        pooled(
            f"Adaptive{kind}Pool{d}d",
            lambda kind=kind, d=d: getattr(nn, f"Adaptive{kind}Pool{d}d")(2),
            SPATIAL[d],
        )
        for kind in ("Avg", "Max")
        for d in EACH
    ),
    pooled("AdaptiveAvgPool2d(1)", lambda: nn.AdaptiveAvgPool2d(1), SPATIAL[2]),
    *(
        pooled(
            f"LPPool{d}d",
            lambda d=d: nn.Sequential(nn.Softplus(), getattr(nn, f"LPPool{d}d")(2, 2)),
            SPATIAL[d],
        )
        for d in EACH
    ),
    pooled("FractionalMaxPool2d, fixed samples", fractional2d, SPATIAL[2]),
    pooled("FractionalMaxPool3d, fixed samples", fractional3d, (1, 4, 4, 2)),
]


PADDING = [
    *(
        around(
            f"{kind}Pad{d}d", "padding", lambda kind=kind, d=d: getattr(nn, f"{kind}Pad{d}d")(1), SPATIAL[d]
        )
        for kind in ("Reflection", "Replication", "Zero", "Circular")
        for d in EACH
    ),
    *(
        around(f"ConstantPad{d}d", "padding", lambda d=d: getattr(nn, f"ConstantPad{d}d")(1, 0.5), SPATIAL[d])
        for d in EACH
    ),
]

MODES = (
    ("nearest", 1),
    ("nearest-exact", 2),
    ("linear", 1),
    ("bilinear", 2),
    ("bicubic", 2),
    ("trilinear", 3),
)


def upsampled(mode: str, d: int, **options: Any) -> Row:
    said = ", align_corners=True" if options else ""
    return around(
        f"Upsample({mode}{said})",
        "resizing",
        lambda: nn.Upsample(scale_factor=2, mode=mode, **options),
        (1, *SPATIAL[d][1:]),
    )


RESIZING = [
    *(upsampled(mode, d) for mode, d in MODES),
    upsampled("bilinear", 2, align_corners=True),
    around("Upsample(size=4)", "resizing", lambda: nn.Upsample(size=4, mode="nearest"), (1, 3)),
    around("UpsamplingNearest2d", "resizing", lambda: nn.UpsamplingNearest2d(scale_factor=2), (1, 2, 2)),
    around("UpsamplingBilinear2d", "resizing", lambda: nn.UpsamplingBilinear2d(scale_factor=2), (1, 2, 2)),
    around("PixelShuffle", "resizing", lambda: nn.PixelShuffle(2), (4, 2, 1)),
    around("PixelUnshuffle", "resizing", lambda: nn.PixelUnshuffle(2), (1, 2, 4)),
    around("Unfold", "resizing", lambda: nn.Unfold(2), (2, 3, 3)),
    around("Fold", "resizing", lambda: nn.Fold((3, 3), 2), (4, 4)),
]


def tokens(generator: torch.Generator, n: int) -> Tensors:
    """Three token ids [n, 3], 0 to 6, and targets [n, 2]."""
    return torch.randint(0, 7, (n, 3), generator=generator), torch.randn(n, 2, generator=generator)


class Embedded(nn.Module):
    """Tokens through an embedding, and a linear layer."""

    def __init__(self, embedding: nn.Module, weights: bool = False) -> None:
        super().__init__()
        self.embedding = embedding
        self.weights = nn.Parameter(torch.tensor([0.5, 1.0, 1.5])) if weights else None
        self.head = nn.Linear(4 if isinstance(embedding, nn.EmbeddingBag) else 12, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.weights is None:
            return self.head(self.embedding(x).flatten(1))
        return self.head(self.embedding(x, per_sample_weights=self.weights.expand(len(x), 3)))


def embedding(name: str, make: Callable[[], nn.Module], weights: bool = False, **options: Any) -> Row:
    return Row(name, "embeddings", lambda: Embedded(make(), weights), tokens, **{"lr": 0.1} | options)


SCALED = "scale_grad_by_freq|autograd does not see"
EMBEDDINGS = [
    embedding("Embedding", lambda: nn.Embedding(7, 4)),
    embedding("Embedding(padding_idx=0)", lambda: nn.Embedding(7, 4, padding_idx=0)),
    embedding(
        "Embedding(scale_grad_by_freq=True)",
        lambda: nn.Embedding(7, 4, scale_grad_by_freq=True),
        differences=True,
        refused={"record dit": SCALED, "tape": SCALED},
        why="its gradient is not that of the loss, and torch's second derivative of it is wrong",
    ),
    embedding(
        "Embedding(max_norm=1)",
        lambda: nn.Embedding(7, 4, max_norm=1.0),
        differences=True,
        refused={"all": "max_norm"},
        why="the forward pass changes the weights outside the optimizer",
    ),
    embedding(
        "Embedding(sparse=True)",
        lambda: nn.Embedding(7, 4, sparse=True),
        differences=True,
        refused={"all": "sparse"},
        why="sparse gradients have no second derivative in torch",
    ),
    embedding("Embedding.from_pretrained", lambda: nn.Embedding.from_pretrained(torch.randn(7, 4))),
    *(
        embedding(
            f"EmbeddingBag({mode})", lambda mode=mode: nn.EmbeddingBag(7, 4, mode=mode), differences=True
        )
        for mode in ("sum", "mean", "max")
    ),
    embedding(
        "EmbeddingBag(sum) with weights",
        lambda: nn.EmbeddingBag(7, 4, mode="sum"),
        weights=True,
        differences=True,
    ),
]


def halves(layer: nn.Module, h: Tensor) -> Tensor:
    found = layer(*h.unbind(1))
    return found if found.dim() > 1 else found[:, None]


DISTANCES = [
    around("Bilinear", "distances", lambda: nn.Bilinear(3, 3, 2), (2, 3), halves),
    around("CosineSimilarity", "distances", nn.CosineSimilarity, (2, 3), halves),
    around("PairwiseDistance", "distances", nn.PairwiseDistance, (2, 3), halves),
    around("PairwiseDistance(p=1)", "distances", lambda: nn.PairwiseDistance(1.0), (2, 3), halves),
]

ROWS = [*CONVOLUTIONS, *POOLING, *PADDING, *RESIZING, *EMBEDDINGS, *DISTANCES]
