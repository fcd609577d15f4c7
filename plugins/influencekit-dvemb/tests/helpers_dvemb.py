"""Small problems in float64, and slow, obviously right answers: dense matrices, one gradient at a time."""

import torch
from torch import Tensor, nn

import influencekit as ik
from influencekit.extend import select
from influencekit.testing import tiny_workload


class Flattened(nn.Sequential):
    """A stack of layers with one output for each example, [n]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flatten()


def small_cnn() -> nn.Module:
    """Strides, padding, dilation, a layer without bias, and ReLU in place."""
    return Flattened(
        nn.Conv2d(2, 3, (3, 2), stride=(2, 3), padding=(1, 2)),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 4, 2, dilation=(2, 1), padding="same", bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(64, 1),
    )


def images(model: nn.Module, **options) -> ik.Workload:
    """Eleven small images in two classes; 6 steps with a short batch at the end of each epoch."""
    generator = torch.Generator().manual_seed(0)
    model = model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.4 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(16, 2, 8, 8, generator=generator, dtype=torch.float64)
    y = (torch.arange(16) % 2).double()
    settings = {"optimizer": ik.SGD(lr=0.3), "epochs": 2, "batch_size": 4} | options
    loss = nn.BCEWithLogitsLoss(reduction="none")
    return ik.Workload(model=model, loss=loss, train=(x[:11], y[:11]), test=(x[11:], y[11:]), **settings)


def one_layer() -> ik.Workload:
    """Logistic regression with bias and an L2 penalty: one layer, one block."""
    tiny = tiny_workload(l2=0.05)
    x, y = tiny.train
    model = Flattened(nn.Linear(3, 1)).double()
    return ik.Workload(
        model=model, loss=tiny.loss, train=(x, y), test=tiny.test, optimizer=ik.SGD(lr=0.4), order=tiny.order,
        l2=0.05,
    )  # fmt: skip


def gradients(run: ik.Trajectory, t: int) -> list[Tensor]:
    """g_i [param] of the examples of step t, penalty included, by one backward pass each."""
    workload, theta = run.workload, run.state(t).theta

    def loss(theta: Tensor, row: Tensor) -> Tensor:
        return workload.losses(theta, select(workload.train, row[None])).sum()

    return [torch.func.grad(loss)(theta, row) + workload.l2 * theta for row in run.plan.batch(t)]


def matrix(run: ik.Trajectory, projection) -> Tensor:
    """The projection as one matrix [feature, param], column by column from its Kronecker factors."""
    layout, blocks, first = run.workload.layout, [], 0
    for layer, (A, B) in zip(projection.layers, projection.factors, strict=True):
        A = torch.eye(layer.inputs).double() if A is None else A
        B = torch.eye(layer.outputs).double() if B is None else B
        # [a b, inputs outputs], the bias the last input
        whole = torch.kron(A, B)
        placed = torch.zeros(layer.features, layout.size).double()
        plain = layer.inputs - layer.bias
        for o in range(layer.outputs):
            for i in range(plain):
                placed[:, first + o * plain + i] = whole[:, i * layer.outputs + o]
            if layer.bias:
                placed[:, first + layer.outputs * plain + o] = whole[:, plain * layer.outputs + o]
        first += layer.outputs * layer.inputs
        blocks.append(placed)
    return torch.cat(blocks)


def dense(run: ik.Trajectory, projection, end: int | None = None) -> Tensor:
    """e [step, slot, feature] to state `end`, from explicit products of I - lr H, H by layer."""
    end = run.steps if end is None else end
    P, sizes = matrix(run, projection), projection.sizes
    layer = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    same_layer = (layer[:, None] == layer).double()
    product = torch.eye(len(layer)).double()
    found = torch.zeros(run.steps, run.plan.indices.shape[1], len(layer)).double()
    for t in reversed(range(end)):
        G, lr = P @ torch.stack(gradients(run, t), 1), run.plan.lrs(t)[0]
        found[t, : G.shape[1]] = (product @ G).T * lr / G.shape[1]
        product = product @ (torch.eye(len(layer)) - lr * (G @ G.T) / G.shape[1] * same_layer)
    return found
