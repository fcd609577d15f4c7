"""Rows of the table of torch.nn: every loss, with reduction="none" brought to one value per example."""

from collections.abc import Callable
from typing import Any

import torch
from helpers_torch_nn import Row, Tensors, numbers
from torch import Tensor, nn

Data = Callable[[torch.Generator, int], Tensors]


def network(out: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, out))


def inputs(generator: torch.Generator, n: int) -> Tensor:
    return torch.randn(n, 4, generator=generator)


def classes(generator: torch.Generator, n: int) -> Tensors:
    return inputs(generator, n), torch.randint(0, 3, (n,), generator=generator)


def pixels(generator: torch.Generator, n: int) -> Tensors:
    return inputs(generator, n), torch.randint(0, 3, (n, 2), generator=generator)


def ignored(generator: torch.Generator, n: int) -> Tensors:
    x, y = pixels(generator, n)
    return x, y.masked_fill(torch.rand(n, 2, generator=generator) < 0.3, -100)


def soft(generator: torch.Generator, n: int) -> Tensors:
    return inputs(generator, n), torch.randn(n, 3, generator=generator).softmax(1)


def yes_or_no(generator: torch.Generator, n: int) -> Tensors:
    return inputs(generator, n), torch.randint(0, 2, (n, 2), generator=generator).float()


def counts(generator: torch.Generator, n: int) -> Tensors:
    return inputs(generator, n), torch.randint(0, 5, (n, 2), generator=generator).float()


def signs(generator: torch.Generator, n: int) -> Tensors:
    return inputs(generator, n), torch.randint(0, 2, (n,), generator=generator) * 2.0 - 1


def several_signs(generator: torch.Generator, n: int) -> Tensors:
    return inputs(generator, n), torch.randint(0, 2, (n, 2), generator=generator) * 2.0 - 1


def several_classes(generator: torch.Generator, n: int) -> Tensors:
    """Class lists for MultiLabelMarginLoss: one or two classes, then -1."""
    first = torch.randint(0, 3, (n, 1), generator=generator)
    second = torch.where(torch.rand(n, 1, generator=generator) < 0.5, (first + 1) % 3, -1)
    return inputs(generator, n), torch.cat([first, second, torch.full_like(first, -1)], 1)


def labels(generator: torch.Generator, n: int) -> Tensors:
    """Two labels for CTC, of 1 and 2 (0 is blank)."""
    return inputs(generator, n), torch.randint(1, 3, (n, 2), generator=generator)


def mean(losses: Tensor) -> Tensor:
    return losses.flatten(1).mean(1)


def loss(
    name: str,
    make: Callable[..., Any],
    data: Data = numbers,
    out: int = 2,
    before: Callable[[Tensor], Any] = lambda o: o,
    **options: Any,
) -> Row:
    """`make(outputs)` is the loss in its own dtype, `before` what it does with the outputs."""

    def per_example(outputs: Tensor, target: Tensor) -> Tensor:
        found = before(outputs)
        losses = make(outputs)(*(found if isinstance(found, tuple) else (found,)), target)
        return mean(losses) if losses.dim() > 1 else losses

    return Row(name, "losses", network(out), data, per_example, **options)


def plain(name: str, *, said: str = "", **options: Any) -> Row:
    """A loss module without tensors of its own; keyword arguments in `kwargs`."""
    kwargs = options.pop("kwargs", {})
    said = ", ".join(f"{k}={v!r}" for k, v in kwargs.items())
    module = getattr(nn, name)(reduction="none", **kwargs)
    return loss(f"{name}({said})" if said else name, lambda o: module, **options)


def weights(outputs: Tensor) -> Tensor:
    return torch.tensor([0.5, 1.0, 2.0]).to(outputs)


def halves(outputs: Tensor) -> tuple[Tensor, ...]:
    return outputs.chunk(2, 1)


def one_each(outputs: Tensor) -> tuple[Tensor, ...]:
    return outputs.unbind(1)


def ctc(outputs: Tensor, target: Tensor) -> Tensor:
    """Four steps of three symbols."""
    steps = outputs.unflatten(1, (4, 3)).transpose(0, 1).log_softmax(2)
    n = len(outputs)
    return nn.CTCLoss(reduction="none")(steps, target, torch.full((n,), 4), torch.full((n,), 2))


def gaussian(outputs: Tensor, target: Tensor) -> Tensor:
    center, spread = outputs.chunk(2, 1)
    return mean(nn.GaussianNLLLoss(reduction="none")(center, target, spread.exp()))


def anchored(make: Callable[[], Any]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda outputs, target: make()(*outputs.chunk(2, 1), target)


class WithLoss(nn.Module):
    """A loss that has parameters of its own is part of the model, which sees the target."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.body, self.loss = nn.Linear(4, 4), loss

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        found = self.loss(torch.tanh(self.body(x)), target)
        return found if isinstance(found, Tensor) else -found.output


def adaptive() -> nn.Module:
    return WithLoss(nn.AdaptiveLogSoftmaxWithLoss(4, 5, [2], div_value=2.0))


def linear_entropy(**options: Any) -> Callable[[], nn.Module]:
    return lambda: WithLoss(nn.LinearCrossEntropyLoss(4, 5, reduction="none", **options))


def itself(outputs: Tensor, target: Tensor) -> Tensor:
    return outputs


def many_classes(generator: torch.Generator, n: int) -> Tensors:
    y = torch.randint(0, 5, (n,), generator=generator)
    return inputs(generator, n), y, y


ENTROPY = [
    plain("CrossEntropyLoss", data=classes, out=3),
    plain("CrossEntropyLoss", kwargs={"label_smoothing": 0.1}, data=classes, out=3),
    plain("CrossEntropyLoss", kwargs={"ignore_index": 0}, data=classes, out=3),
    loss("CrossEntropyLoss(weight)", lambda o: nn.CrossEntropyLoss(weights(o), reduction="none"), classes, 3),
    loss(
        "CrossEntropyLoss(weight, label_smoothing=0.1)",
        lambda o: nn.CrossEntropyLoss(weights(o), reduction="none", label_smoothing=0.1),
        classes,
        3,
    ),
    loss("CrossEntropyLoss, soft targets", lambda o: nn.CrossEntropyLoss(reduction="none"), soft, 3),
    loss(
        "CrossEntropyLoss, soft targets, weight, label_smoothing",
        lambda o: nn.CrossEntropyLoss(weights(o), reduction="none", label_smoothing=0.1),
        soft,
        3,
    ),
    loss(
        "CrossEntropyLoss, two tokens",
        lambda o: nn.CrossEntropyLoss(reduction="none"),
        pixels,
        6,
        lambda o: o.unflatten(1, (3, 2)),
        lr=0.3,
    ),
    loss(
        "CrossEntropyLoss, ignored tokens",
        lambda o: nn.CrossEntropyLoss(reduction="none"),
        ignored,
        6,
        lambda o: o.unflatten(1, (3, 2)),
        lr=0.3,
    ),
    plain("NLLLoss", data=classes, out=3, before=lambda o: o.log_softmax(1)),
    loss(
        "NLLLoss(weight)",
        lambda o: nn.NLLLoss(weights(o), reduction="none"),
        classes,
        3,
        lambda o: o.log_softmax(1),
    ),
    loss(
        "NLLLoss, two tokens",
        lambda o: nn.NLLLoss(reduction="none"),
        pixels,
        6,
        lambda o: o.unflatten(1, (3, 2)).log_softmax(1),
        lr=0.3,
    ),
    plain("KLDivLoss", data=soft, out=3, before=lambda o: o.log_softmax(1), lr=0.3),
    loss(
        "KLDivLoss(log_target=True)",
        lambda o: nn.KLDivLoss(reduction="none", log_target=True),
        lambda g, n: (inputs(g, n), torch.randn(n, 3, generator=g).log_softmax(1)),
        3,
        lambda o: o.log_softmax(1),
        lr=0.3,
    ),
    plain("BCELoss", data=yes_or_no, before=torch.sigmoid),
    plain("BCEWithLogitsLoss", data=yes_or_no),
    loss(
        "BCEWithLogitsLoss(pos_weight)",
        lambda o: nn.BCEWithLogitsLoss(reduction="none", pos_weight=weights(o)[1:]),
        yes_or_no,
    ),
    Row("AdaptiveLogSoftmaxWithLoss", "losses", adaptive, many_classes, itself),
    Row("LinearCrossEntropyLoss", "losses", linear_entropy(bias=True), many_classes, itself),
    Row(
        "LinearCrossEntropyLoss(options)",
        "losses",
        linear_entropy(options=nn.LinearCrossEntropyOptions()),
        many_classes,
        itself,
        differences=True,
        refused={"record dit": "second derivative", "tape": "second derivative"},
        why="its backward pass has no derivative",
    ),
    Row("CTCLoss", "losses", network(12), labels, ctc, differences=True),
]

DISTANCES = [
    *map(plain, ["L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss"]),
    plain("SmoothL1Loss", kwargs={"beta": 0.3}),
    plain("HuberLoss", kwargs={"delta": 0.5}),
    plain("PoissonNLLLoss", data=counts),
    plain("PoissonNLLLoss", kwargs={"log_input": False, "full": True}, data=counts, before=torch.exp),
    Row("GaussianNLLLoss", "losses", network(4), numbers, gaussian),
    plain("MarginRankingLoss", kwargs={"margin": 0.2}, data=signs, before=one_each),
    plain("HingeEmbeddingLoss", data=several_signs),
    plain("MultiLabelMarginLoss", data=several_classes, out=3, differences=True),
    plain("MultiLabelSoftMarginLoss", data=yes_or_no),
    plain("MultiMarginLoss", data=classes, out=3, differences=True),
    plain("MultiMarginLoss", kwargs={"p": 2}, data=classes, out=3, differences=True),
    plain("SoftMarginLoss", data=several_signs),
    plain("CosineEmbeddingLoss", kwargs={"margin": 0.1}, data=signs, out=6, before=halves),
    Row(
        "TripletMarginLoss",
        "losses",
        network(4),
        numbers,
        anchored(lambda: nn.TripletMarginLoss(reduction="none")),
    ),
    Row(
        "TripletMarginLoss(p=1, swap=True)",
        "losses",
        network(4),
        numbers,
        anchored(lambda: nn.TripletMarginLoss(p=1.0, swap=True, reduction="none")),
    ),
    Row(
        "TripletMarginWithDistanceLoss",
        "losses",
        network(4),
        numbers,
        anchored(
            lambda: nn.TripletMarginWithDistanceLoss(
                distance_function=lambda a, b: 1 - torch.cosine_similarity(a, b), reduction="none"
            )
        ),
    ),
]

ROWS = [*ENTROPY, *DISTANCES]
