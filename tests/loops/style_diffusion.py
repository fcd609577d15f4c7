"""A diffusion model: times and noise are drawn in the loop."""

import torch
from loop_problem import x
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Losses"
H = 1e-05


images = TensorDataset(x)


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).double()

    def forward(self, noisy, time):
        return self.layers(torch.cat([noisy, time[:, None]], 1))


def predicted(model, batch):
    """The model's guess of the noise, and the noise. For evaluation a fixed one."""
    (clean,) = batch
    time, noise = torch.full((len(clean),), 0.5).double(), torch.ones_like(clean)
    if model.training:
        time, noise = torch.rand(len(clean)).double(), torch.randn_like(clean)
    signal = (1 - time)[:, None]
    return model(signal * clean + (1 - signal) * noise, time), noise


def errors(outputs, target):
    guess, noise = outputs
    return ((guess - noise) ** 2).mean(1)


def taped():
    model = Denoiser()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    loader = DataLoader(images, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=errors, data=images, forward=predicted) as tape:  # tape
        for _epoch in range(3):
            # was: for batch in loader:
            for _, batch in tape.batches(loader):  # tape
                optimizer.zero_grad()
                errors(predicted(model, batch), None).mean().backward()
                optimizer.step()
    parts = {"model": Denoiser(), "loss": errors, "data": images, "forward": predicted}  # tape
    # was: return model
    return ik.open("run.zarr", **parts, test=images)  # tape


def plain(weights):
    model = Denoiser()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _epoch in range(3):
        for rows in DataLoader(range(12), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * errors(predicted(model, (x[rows],)), None)).mean().backward()
            optimizer.step()
    return model


def asked(model):
    model.eval()
    with torch.no_grad():
        return errors(predicted(model, (x,)), None).mean().item()
