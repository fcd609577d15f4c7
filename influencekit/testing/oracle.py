"""Small problems and slow, obviously right answers to compare estimators with: float64, plain loops.

Nothing here uses `influencekit._training.step`, a recorder or an adjoint: the first-order oracle
differentiates through a plain training loop, the exact one trains with `torch.optim` and `backward`.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from fnmatch import fnmatchcase
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import grad, jacrev

from influencekit._training.batch import Batch, select
from influencekit._training.call import values_of
from influencekit._training.optimizer import Optimizer
from influencekit._training.optimizers import SGD
from influencekit._training.schedules import InverseSqrt
from influencekit._training.workload import Workload
from influencekit.errors import InputError
from influencekit.interfaces import Query
from influencekit.windows import Window

__all__ = [
    "perturbed_effect",
    "plain_run",
    "quadratic_workload",
    "retrained",
    "tiny_workload",
    "torch_optimizer",
    "unrolled_gradient",
    "weighted_run",
    "window_weights",
]

UNVISITED = 4  # the position of the tiny workload's example that no batch holds


class TanhNet(nn.Module):
    """Two linear layers with tanh between: smooth, so that remainders are really of second order."""

    def __init__(self, inputs: int, outputs: int, hidden: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.last = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.last(torch.tanh(self.first(x)))
        return outputs.squeeze(-1) if self.last.out_features == 1 else outputs


def tiny_workload(
    optimizer: Optimizer | None = None,
    *,
    classes: int = 2,
    batches: Literal["tuple", "dict", "tensor"] = "tuple",
    l2: float = 0.05,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Workload:
    """A tanh network on 8 training and 5 test examples, trained for 6 steps; on purpose not uniform.

    Every second batch is short (3 of 4 slots), the learning rate decays, the example ids are not 0 ... 7, and
    the example at position 4 is in no batch. `classes` = 2 has one logit and binary cross entropy, more have
    as many logits; `batches` chooses tuples (inputs, label), dicts, or plain tensors (an autoencoder, whose
    loss is the mean squared error over the features). Default optimizer: SGD(lr=.3).

    Example:

        >>> from influencekit.testing import tiny_workload
        >>> work = tiny_workload()
        >>> work.n_train, work.n_test, work.plan.steps
        (8, 5, 6)
    """
    generator = torch.Generator().manual_seed(seed)
    n, features = 8, 3
    outputs = features if batches == "tensor" else 1 if classes == 2 else classes
    with torch.random.fork_rng(devices=[]):
        model = TanhNet(features, outputs).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.6 * torch.randn(p.shape, generator=generator, dtype=torch.float64))

    def examples(count: int) -> Batch:
        x = torch.randn(count, features, generator=generator, dtype=torch.float64).to(dtype)
        if batches == "tensor":
            return x
        label = torch.arange(count) % classes
        y = label.to(dtype) if classes == 2 else label
        return (x, y) if batches == "tuple" else {"x": x, "labels": y}

    visited = [i for i in range(n) if i != UNVISITED]
    rows = [[visited[int(i)] for i in torch.randperm(len(visited), generator=generator)] for _ in range(3)]
    order = torch.tensor([half for row in rows for half in (row[:4], [*row[4:], -1])])
    loss: Callable[[Any, Any], Tensor]
    if batches == "tensor":
        loss = _squared_error
    else:
        loss = (nn.BCEWithLogitsLoss if classes == 2 else nn.CrossEntropyLoss)(reduction="none")
    return Workload(
        model=model,
        loss=loss,
        train=examples(n),
        test=examples(5),
        optimizer=optimizer or SGD(lr=0.3),
        schedule=InverseSqrt(),
        order=order,
        l2=l2,
        train_ids=(12, 3, 7, 20, 5, 41, 17, 8),
        test_ids=(100, 3, 7, 2, 50),
        name="tiny",
    )


def _squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean over the features, one value an example."""
    return (output - target).square().mean(-1)


def quadratic_workload(optimizer: Optimizer) -> tuple[Workload, list[int]]:
    """A problem on which first order is exact, and the examples whose removal leaves the Hessian unchanged.

    Linear model o = <x, theta>, loss_i = h_i/2 (o - y_i)^2 + c_i o. The Hessian of an example with h_i = 0 is
    zero, so without it a linear optimizer follows the same linear recursion with another constant term.
    """
    generator = torch.Generator().manual_seed(1)
    n, features = 8, 3
    x = torch.randn(n, features, generator=generator, dtype=torch.float64)
    y = torch.randn(n, generator=generator, dtype=torch.float64)
    h = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    model = nn.Linear(features, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.4, -0.8, 0.2]]))
    target = torch.stack([y, h, 1 - h + 0.5 * y], 1)
    workload = Workload(
        model=model, loss=_bent, train=(x, target), test=(x[:2], target[:2]), optimizer=optimizer, epochs=3,
        batch_size=3, drop_last=True, name="quadratic",
    )  # fmt: skip
    return workload, (h == 0).nonzero().flatten().tolist()


def _bent(output: Tensor, target: Tensor) -> Tensor:
    y, h, c = target.unbind(-1)
    return 0.5 * h * (output[:, 0] - y).square() + c * output[:, 0]


# the first-order oracle ---------------------------------------------------------------------------------


def weighted_run(workload: Workload, weights: Tensor) -> list[Tensor]:
    """Train with the loss of example j in step t multiplied by weights[t, j]; the divisor of a batch stays.

    weights is [step, train]; all ones is the ordinary run. Returns theta [param] of every state 0 ... T,
    differentiable in the weights. A plain loop over `torch.func.grad` and `optimizer.step`.

    Cost: a training run; memory grows with its steps.

    Example:

        >>> import torch
        >>> from influencekit.testing import tiny_workload, weighted_run
        >>> work = tiny_workload()
        >>> states = weighted_run(work, torch.ones(6, 8, dtype=work.dtype))
        >>> len(states), states[0].shape == work.theta0.shape
        (7, True)
    """
    plan, theta = workload.plan, workload.theta0
    slots = workload.optimizer.start(theta)
    thetas = [theta]
    for t in range(plan.steps):
        rows = plan.batch(t).to(workload.device)
        batch, w = select(workload.train, rows), weights[t, rows]

        def mean_loss(theta: Tensor, batch: Batch = batch, w: Tensor = w) -> Tensor:
            losses = workload.losses(theta, batch) + 0.5 * workload.l2 * theta @ theta
            return (w * losses).sum() / len(w)

        g = grad(mean_loss)(theta)
        theta, slots = workload.optimizer.step(workload.layout, theta, slots, g, t, plan.lrs(t))
        thetas.append(theta)
    return thetas


def window_weights(workload: Workload, window: Window, change: Tensor) -> Tensor:
    """Weights [step, train]: 1, less change [train] in the steps from which the window removes examples.

    Change 1 leaves an example out there; a small one gives finite differences.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.testing import tiny_workload, window_weights
        >>> import torch
        >>> weights = window_weights(tiny_workload(), ik.Window(2, 4, "window"), torch.ones(8))
        >>> weights.shape, weights[:, 0].tolist()
        (torch.Size([6, 8]), [1.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    """
    start, stop = window.absent()
    steps = torch.arange(workload.plan.steps, device=change.device)
    inside = ((steps >= start) & (steps < stop)).to(change.dtype)
    return 1 - inside[:, None] * change


def perturbed_effect(
    workload: Workload, query: Query, window: Window, base: Sequence[Tensor], change: Tensor
) -> Tensor:
    """The window's effect on the query [query] when weights are lowered by change [train], not linearised.

    `base` are the states of the ordinary run, at which a query that depends on the run is fixed.
    """
    thetas = weighted_run(workload, window_weights(workload, window, change))
    total = 0.0 * thetas[0].sum() + torch.zeros(len(query.labels(workload))).to(thetas[0])
    for t, sign in window.evaluations(workload.plan.steps).items():
        at = query.at(workload, base[t])
        total = total + sign * (at(thetas[t]) - at(base[t]))
    return total


def unrolled_gradient(workload: Workload, query: Query, windows: Sequence[Window]) -> Tensor:
    """First-order effects [query, window, train] by autodiff through the whole unrolled training loop.

    The derivative of the windows' effects with respect to the removed share of every example's weight, so
    removal minus full to first order. Time and memory grow with the steps of the run, once a window.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.testing import tiny_workload, unrolled_gradient
        >>> unrolled_gradient(tiny_workload(), ik.make("query", "test-loss"), [ik.Window(0, 6)]).shape
        torch.Size([1, 1, 8])
    """
    ones = torch.ones(workload.plan.steps, workload.n_train, dtype=workload.dtype, device=workload.device)
    base = [theta.detach() for theta in weighted_run(workload, ones)]
    found = [
        jacrev(lambda change, w=w: perturbed_effect(workload, query, w, base, change))(
            torch.zeros_like(ones[0])
        )
        for w in windows
    ]
    return torch.stack(found, 1).detach()


# the exact oracle ---------------------------------------------------------------------------------------


def retrained(
    workload: Workload, query: Query, windows: Sequence[Window], examples: Sequence[int] | None = None
) -> Tensor:
    """Leave-one-out effects [query, window, example] by one plain PyTorch training run an example.

    `examples` are positions in the training set, all by default. No functional transform and no update rule
    of this package takes part: the module is copied, `loss.backward()` and `torch.optim` train it.

    Sign: removal minus full.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.testing import retrained, tiny_workload
        >>> retrained(tiny_workload(), ik.make("query", "test-loss"), [ik.Window(0, 6)], [4]).tolist()
        [[[0.0]]]
    """
    positions = range(workload.n_train) if examples is None else examples
    base = plain_run(workload)
    out = []
    for window in windows:
        signs = window.evaluations(workload.plan.steps)
        runs = [plain_run(workload, j, window.absent()) for j in positions]
        effects = [
            sum(
                s * (query.at(workload, base[t])(run[t]) - query.at(workload, base[t])(base[t]))
                for t, s in signs.items()
            )
            for run in runs
        ]
        out.append(torch.stack(effects, -1))  # type: ignore[arg-type]
    return torch.stack(out, 1).detach()


def plain_run(
    workload: Workload, without: int | None = None, absent: tuple[int, int] = (0, 0)
) -> list[Tensor]:
    """theta [param] of every state, trained by plain PyTorch without one example in the steps of `absent`.

    States 0 ... T. Cost: one training run.

    Example:

        >>> from influencekit.testing import plain_run, tiny_workload
        >>> len(plain_run(tiny_workload(), without=3, absent=(0, 6)))
        7
    """
    model, plan = deepcopy(workload.model), workload.plan
    parameters = dict(model.named_parameters())
    optimizer = torch_optimizer(workload, model)
    states = [workload.layout.join(parameters)]
    for t in range(plan.steps):
        rows = plan.batch(t)
        left = rows[rows != without] if absent[0] <= t < absent[1] else rows
        batch = select(workload.train, left.to(workload.device))
        if isinstance(batch, dict):
            target = batch[workload.target_key]
            outputs = model(**{k: v for k, v in batch.items() if k != workload.target_key})
        else:
            outputs = model(batch) if isinstance(batch, Tensor) else model(*batch[:-1])
            target = batch if isinstance(batch, Tensor) else batch[-1]
        penalty = sum(parameters[name].square().sum() for name in workload.layout.names)
        losses = values_of(workload.loss, outputs, target, batch) + 0.5 * workload.l2 * penalty
        for group, lr in zip(optimizer.param_groups, plan.lrs(t), strict=True):
            group["lr"] = lr
        optimizer.zero_grad()
        (losses.sum() / len(rows)).backward()
        own, trained = workload.optimizer, [p for p in model.parameters() if p.requires_grad]
        if own.clip_norm is not None:
            nn.utils.clip_grad_norm_(trained, own.clip_norm, own.clip_norm_type)
        if own.clip_value is not None:
            nn.utils.clip_grad_value_(trained, own.clip_value)
        optimizer.step()
        states.append(workload.layout.join(parameters))
    return states


def torch_optimizer(workload: Workload, model: nn.Module) -> torch.optim.Optimizer:
    """The `torch.optim` counterpart of the workload's optimizer for a model of its kind, group for group.

    Its groups are in the order of `Plan.lr`: the optimizer's own first. Errors: an optimizer of one's own, of
    which torch has none.

    Example:

        >>> from influencekit.testing import tiny_workload, torch_optimizer
        >>> work = tiny_workload()
        >>> type(torch_optimizer(work, work.model)).__name__
        'SGD'
    """
    own = workload.optimizer
    if (kind := own.stands_for) is None:
        raise InputError(f"expected an optimizer that torch.optim has, got {type(own).__name__}")
    known = signature(kind).parameters
    groups: list[dict[str, Any]] = []
    for rule in own.members():
        groups.append({"params": [], **{k: v for k, v in vars(rule).items() if k in known}})
    for name, p in model.named_parameters():
        hits = [any(fnmatchcase(name, pattern) for pattern in group.params) for group in own.groups]
        if p.requires_grad:
            groups[hits.index(True) + 1 if True in hits else 0]["params"].append(p)
    return kind(groups, **{k: v for k, v in groups[0].items() if k != "params"})  # Adagrad reads these
