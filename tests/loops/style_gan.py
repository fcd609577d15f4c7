"""A generator and a discriminator, each with its optimizer."""

import torch
from loop_problem import data
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Loops"
REFUSED = (
    "step 0: loss(outputs, target) fails on what the model gave for this batch (ValueError: Target size "
    "(torch.Size([4])) must be the same as input size (torch.Size([4, 1]))); did the loop forward the "
    "batch of tape.batches, whole and as it came? If it forwards something made of it, or loss= needs "
    "other arguments, pass forward=lambda model, batch: ... and loss= for what that gives"
)


def taped():
    generator, discriminator = nn.Linear(2, 4).double(), nn.Linear(4, 1).double()
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=0.01)
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=0.01)
    judge = nn.functional.binary_cross_entropy_with_logits
    losses = nn.BCEWithLogitsLoss(reduction="none")  # tape
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", discriminator, optimizer_d, loss=losses, data=data) as tape:  # tape
        for _epoch in range(3):
            # was: for real, _y in loader:
            for _, (real, _y) in tape.batches(loader):  # tape
                fake = generator(torch.randn(len(real), 2).double())
                optimizer_d.zero_grad()
                on_real = judge(discriminator(real)[:, 0], torch.ones(len(real)).double())
                on_fake = judge(discriminator(fake.detach())[:, 0], torch.zeros(len(real)).double())
                (on_real + on_fake).backward()
                optimizer_d.step()
                optimizer_g.zero_grad()
                judge(discriminator(fake)[:, 0], torch.ones(len(real)).double()).backward()
                optimizer_g.step()
    # was: return discriminator
    return ik.open("run.zarr", model=discriminator, loss=losses, data=data)  # tape
