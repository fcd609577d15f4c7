"""Lightning: Trainer.fit."""

import lightning as L
import torch
from loop_problem import data, network, per_example, test, x, y
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

import influencekit as ik
from influencekit.trainers.lightning import InfluenceCallback  # tape

GROUP = "Trainers"
NEEDS = ("lightning",)
H = 1e-5


class Classifier(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = network()

    def forward(self, x):
        return self.layers(x)

    def training_step(self, batch, batch_idx):
        inputs, target = batch
        return nn.functional.cross_entropy(self(inputs), target)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.05)


def taped():
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    model = Classifier()
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(data, batch_size=4, sampler=sampler)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = L.Trainer(max_epochs=3, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.callbacks.append(InfluenceCallback("run.zarr", loss=losses))  # tape
    trainer.fit(model, loader)
    # was: return model
    return ik.open("run.zarr", model=Classifier(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    for _epoch in range(3):
        for rows in torch.randperm(12, generator=generator).split(4):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(x[rows]), y[rows])).mean().backward()
            optimizer.step()
    return model
