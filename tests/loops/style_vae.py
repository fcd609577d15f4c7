"""A variational autoencoder: noise in the model, and a divergence in the loss."""

import torch
from loop_problem import x
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Losses"
H = 1e-05


images = TensorDataset(x)


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.encode, self.decode = nn.Linear(4, 4).double(), nn.Linear(2, 4).double()

    def forward(self, x):
        mean, log_scale = self.encode(x).tanh().chunk(2, 1)
        noise = torch.randn_like(mean) if self.training else 0.0
        return self.decode(mean + log_scale.exp() * noise), mean, log_scale


def elbo(outputs, inputs):
    decoded, mean, log_scale = outputs
    divergence = (mean**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(1) / 2
    return ((decoded - inputs) ** 2).sum(1) + 0.1 * divergence


def taped():
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    loader = DataLoader(images, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=elbo, data=images) as tape:  # tape
        for _epoch in range(3):
            # was: for (inputs,) in loader:
            for _, (inputs,) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                elbo(model(inputs), inputs).mean().backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=VAE(), loss=elbo, data=images, test=images)  # tape


def plain(weights):
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _epoch in range(3):
        for rows in DataLoader(range(12), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * elbo(model(x[rows]), x[rows])).mean().backward()
            optimizer.step()
    return model


def asked(model):
    model.eval()
    with torch.no_grad():
        return elbo(model(x), x).mean().item()
