"""Small problems whose answers can be written down."""

import torch
from torch import Tensor, nn

import influencekit as ik


class Logit(nn.Linear):
    """One logit for each example, [n]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(-1)


class SquaredLoss(nn.Module):
    """Half the squared error, [n]: g_j = (o_j - y_j) x_j on a linear model."""

    def forward(self, o: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (o - y).square()


def data(n: int, features: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=generator, dtype=torch.float64)
    y = (x[:, 0] + torch.randn(n, generator=generator, dtype=torch.float64) > 0).double()
    return x, y


def problem(seed=0, *, squared=False, model: nn.Module | None = None, **options) -> ik.Workload:
    """A linear model of three features without bias, or another model, on 12 examples."""
    x, y = data(20, 3, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model or Logit(3, 1, bias=False)
    return ik.Workload(
        model=model.double(),
        loss=SquaredLoss() if squared else nn.BCEWithLogitsLoss(reduction="none"),
        train=(x[:12], y[:12]),
        test=(x[12:], y[12:]),
        **{"optimizer": ik.SGD(lr=0.2), "epochs": 3, "batch_size": 5, "seed": seed, **options},
    )


def classes(workload: ik.Workload, count: int, model: nn.Module) -> ik.Workload:
    """The same inputs, with labels 0 ... count - 1 and as many logits."""
    from dataclasses import replace

    def relabelled(x: Tensor) -> tuple[Tensor, Tensor]:
        return x, (x.sum(1).abs() * 10).long() % count

    return replace(
        workload,
        model=model.double(),
        loss=nn.CrossEntropyLoss(reduction="none"),
        train=relabelled(workload.train[0]),
        test=relabelled(workload.test[0]),
    )


class SequenceLoss(nn.Module):
    """The mean cross-entropy over the positions of a sequence that have a label, [n]."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        each = nn.functional.cross_entropy(z.mT, y, reduction="none")
        return each.sum(1) / (y >= 0).sum(1)


def tagged(workload: ik.Workload, model: nn.Module, missing: bool = False) -> ik.Workload:
    """Sequences of three positions, each with a feature of its own and a label of two; `missing`: the first
    position of every second one has none."""
    from dataclasses import replace

    def relabelled(x: Tensor) -> tuple[Tensor, Tensor]:
        y = (x > 0).long()
        if missing:
            y[::2, 0] = -100
        return torch.diag_embed(x), y

    return replace(
        workload,
        model=model.double(),
        loss=SequenceLoss(),
        train=relabelled(workload.train[0]),
        test=relabelled(workload.test[0]),
    )


def gradients(workload: ik.Workload, theta: Tensor) -> Tensor:
    """g_j [train, param], one example after the other, by the slow way."""
    rows = []
    for j in range(workload.n_train):
        theta = theta.detach().requires_grad_()
        one = workload.examples(torch.tensor([j]))
        loss = workload.losses(theta, one).sum() + 0.5 * workload.l2 * theta @ theta
        rows.append(torch.autograd.grad(loss, theta)[0])
    return torch.stack(rows)


def scores(run, estimator, query="test-losses", windows=None) -> Tensor:
    """[query, window, train]."""
    return torch.from_numpy(ik.estimate(run, query, estimator, windows).influence.values)
