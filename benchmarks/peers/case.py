"""A problem, solved exactly: a trained model, its trajectory, exact leave-one-out, in one file of arrays.

The methods of other packages are given exactly the model that ours are given. Writing it needs influencekit,
reading it needs PyTorch alone.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset


def solve(kind: str, seed: int, path: str, examples: int | None) -> None:
    """MNIST 1 against 7 in the setting `trained`: lr, dnn or cnn; `examples` are left out, or all."""
    import influencekit as ik
    from benchmarks.shared.timing import timed
    from benchmarks.shared.training import train_plainly

    torch.set_num_threads(1)
    workload = ik.make("workload", f"mnist-1v7-{kind}", setting="trained", seed=seed)
    _, plain = timed(lambda: train_plainly(workload))
    run, recorded = timed(lambda: ik.record(workload))
    exact = ik.make("estimator", "loo", examples=examples)
    truth, seconds = timed(lambda: ik.estimate(run, "test-loss", exact).influence.values.ravel())
    epoch = run.plan.epoch.tolist()
    ends = [t + 1 for t in range(run.steps) if t + 1 == run.steps or epoch[t + 1] != epoch[t]]
    states = torch.stack([run.state(t).theta for t in range(run.steps + 1)])
    (x, y), (vx, vy) = workload.train, workload.test
    np.savez(
        path,
        kind=kind, seed=seed, l2=workload.l2, accuracy=run.attrs["accuracy"],
        x_train=x, y_train=y, x_test=vx, y_test=vy, order=run.plan.indices, lr=run.plan.lr[:, 0],
        epoch=epoch, ends=ends, states=states,
        truth=truth, seconds_truth=seconds, seconds_plain=plain, seconds_recorded=recorded,
    )  # fmt: skip


class Flat(nn.Module):
    """[n, 1] -> [n]."""

    def forward(self, z: Tensor) -> Tensor:
        return z.squeeze(-1)


class AnyBatch(nn.Module):
    """Images with any leading dimensions as one batch: whole test sets stand for one example so."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 1, 28, 28)


def network(kind: str) -> nn.Module:
    """The same layers in the same order as influencekit's workloads have them."""
    if kind == "lr":
        layers = [nn.Flatten(), nn.Linear(784, 1)]
    elif kind == "dnn":
        layers = [nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)]
    else:
        first = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)]
        layers = [*first, *second, nn.Flatten(), nn.Linear(1600, 1)]
    return nn.Sequential(AnyBatch(), *layers, Flat())


@dataclass
class Case:
    """A trained model and all that is known of its training; `damping` = 1 / (sum of learning rates)."""

    kind: str
    seed: int
    l2: float
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    order: Tensor
    lr: list[float]
    epoch: list[int]
    ends: list[int]
    states: Tensor
    folder: Path
    damping: float = field(init=False)

    def __post_init__(self) -> None:
        self.damping = 1 / sum(self.lr)

    @classmethod
    def read(cls, path: str, folder: str) -> "Case":
        with np.load(path) as a:
            parts = [torch.from_numpy(a[k]) for k in ("x_train", "y_train", "x_test", "y_test", "order")]
            lists = [a[k].tolist() for k in ("lr", "epoch", "ends")]
            known = str(a["kind"]), int(a["seed"]), float(a["l2"])
            return cls(*known, *parts, *lists, torch.from_numpy(a["states"]), Path(folder))

    def model(self, state: int = -1) -> nn.Module:
        """The network with the parameters of a state, the last one by default."""
        model = network(self.kind)
        torch.nn.utils.vector_to_parameters(self.states[state].clone(), model.parameters())
        return model

    @property
    def n(self) -> int:
        return len(self.x)

    def train(self) -> TensorDataset:
        return TensorDataset(self.x, self.y)

    def test(self, as_one: bool = False) -> TensorDataset:
        """The test set, or all of it as the only example of one."""
        x, y = (self.test_x[None], self.test_y[None]) if as_one else (self.test_x, self.test_y)
        return TensorDataset(x, y)
