"""transformers: a causal language model, with accumulation and a cosine schedule."""

import math

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import influencekit as ik
from influencekit.trainers.transformers import InfluenceCallback, reopen_with  # tape

GROUP = "Trainers"
NEEDS = ("transformers", "accelerate")
FLOAT32 = True  # transformers computes the loss of a language model in it
REPLAY = r"\d+ steps replayed, equal .*"

tokens = torch.randint(1, 9, (12, 6), generator=torch.Generator().manual_seed(0))
labels = tokens.clone()
labels[::3, 4:] = -100  # short texts
texts = [{"input_ids": row, "labels": label} for row, label in zip(tokens, labels, strict=True)]


def gpt():
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return GPT2LMHeadModel(GPT2Config(vocab_size=9, **sizes, **no_dropout)).double()


def taped():
    args = TrainingArguments(
        "out", num_train_epochs=3, per_device_train_batch_size=3, gradient_accumulation_steps=2,
        learning_rate=0.5, lr_scheduler_type="cosine", optim="sgd", weight_decay=0.1, data_seed=1,
        save_strategy="no", report_to=[], disable_tqdm=True, log_level="error", use_cpu=True,
    )  # fmt: skip
    model = gpt()
    trainer = Trainer(model, args, train_dataset=texts)
    trainer.add_callback(InfluenceCallback("run.zarr"))  # tape
    trainer.train()
    # was: return model
    return ik.open("run.zarr", test=trainer.data_collator(texts), **reopen_with(trainer))  # tape


def plain(weights):
    model = gpt()
    model.train()
    decay = [p for p in model.parameters() if p.dim() > 1]  # neither biases nor layer norms
    rest = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * step / 6)) / 2
    )
    for epoch in range(3):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(1 + epoch))
        for rows in order.split(6):
            losses = sums(model, tokens[rows], labels[rows])
            (
                (weights[rows] * losses).sum() / (labels[rows] != -100).sum()
            ).backward()  # as the Trainer counts
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return model


def sums(model, tokens, labels):
    """The losses of each text's next words, summed."""
    logits = model(input_ids=tokens).logits[:, :-1]
    return nn.functional.cross_entropy(logits.mT, labels[:, 1:], reduction="none").sum(1)


def asked(model):
    model.eval()
    with torch.no_grad():
        return sums(model, tokens, labels).mean().item()
