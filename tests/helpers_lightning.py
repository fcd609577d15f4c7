"""Small Lightning trainers for the tests of the callback."""

import pytest
import torch

pytest.importorskip("lightning", reason="the extra influencekit[lightning] is not installed")

import lightning as L  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

import influencekit as ik  # noqa: E402

N = 22


class Points(Dataset):
    """Number 0 of an example is its position, so that a batch shows which examples it holds."""

    def __init__(self, noise=0.0):
        self.noise, generator = noise, torch.Generator().manual_seed(0)
        self.x = torch.randn(N, 4, generator=generator)
        self.x[:, 0] = torch.arange(N) / N
        self.y = (self.x[:, 1] > 0).long()

    def __len__(self):
        return N

    def __getitem__(self, i):
        return self.x[i] + self.noise * torch.randn(4) * torch.tensor([0.0, 1, 1, 1]), self.y[i]


def per_example(outputs, target):
    return cross_entropy(outputs, target, reduction="none")


class Net(L.LightningModule):
    def __init__(self, inner=False, weights=None, manual=False, parts=1, **optimizer):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 2))
        self.inner, self.given = inner, optimizer
        self.w, self.parts = weights, parts
        self.automatic_optimization = not manual

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        outputs = self.net(x) if self.inner else self(x)
        if self.w is None:
            loss = cross_entropy(outputs, y)
        else:
            loss = (self.w[positions(x)] * per_example(outputs, y)).mean()
        self.log("loss", loss)
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        self.manual_backward(loss / self.parts)
        if (batch_idx + 1) % self.parts == 0:
            optimizer.step()
            self.lr_schedulers().step()
            optimizer.zero_grad()
        return None

    def validation_step(self, batch, batch_idx):
        self.log("validation", cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        kind = self.given.get("kind", torch.optim.AdamW)
        rest = {k: v for k, v in self.given.items() if k != "kind"}
        optimizer = kind(self.parameters(), **{"lr": 0.05, **rest})
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def positions(x):
    return (x[:, 0] * N).round().long()


class Spy(L.Callback):
    """What a bystander sees: the examples of every micro-batch, the weights and rate of every step."""

    def __init__(self):
        self.seen, self.steps, self.weights, self.rates, self.epochs = [], [], [], [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.seen.append(positions(batch[0]).tolist())
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.done = trainer.global_step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step > self.done:
            self.steps.append(self.seen)
            self.seen, self.rates = [], [*self.rates[: len(self.steps) - 1], self.rates[-1]]
            self.weights.append(flat(module))
            self.epochs.append(trainer.current_epoch)


def flat(module):
    return torch.cat([p.detach().reshape(-1).clone() for p in module.parameters()])


def fit(*callbacks, net=None, loader=None, noise=0.0, double=False, ckpt=None, same=False, **changes):
    """Train a small network, the same way every time."""
    L.seed_everything(0, verbose=False)
    loading = {"batch_size": 4, "shuffle": True, **(loader or {})}
    module = Net(**(net or {}))
    data = Points(noise)
    if double:
        module, data.x = module.double(), data.x.double()
    train = DataLoader(data, **loading)
    settings = {
        "max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "enable_checkpointing": False, "callbacks": list(callbacks),
    }  # fmt: skip
    trainer = L.Trainer(**{**settings, **changes})
    trainer.fit(module, train, train if same else DataLoader(data, batch_size=8), ckpt_path=ckpt)
    return trainer, module


def opened(path, **more):
    return ik.open(path, **{"model": Net(), "loss": per_example, "data": Points(), "test": Points(), **more})
