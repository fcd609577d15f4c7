"""transformers: Trainer."""

import torch
from loop_problem import per_example
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import influencekit as ik
from influencekit.trainers.transformers import InfluenceCallback, reopen_with  # tape

GROUP = "Trainers"
NEEDS = ("transformers", "accelerate")
H = 1e-5

tokens = torch.randint(1, 9, (12, 5), generator=torch.Generator().manual_seed(0))
texts = [{"input_ids": row, "labels": int(row.sum() % 3)} for row in tokens]


def bert():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        config = BertConfig(vocab_size=9, num_labels=3, **sizes, **no_dropout)
        return BertForSequenceClassification(config).double()


def taped():
    args = TrainingArguments(
        "out", num_train_epochs=3, per_device_train_batch_size=4, learning_rate=0.05, optim="adamw_torch",
        save_strategy="no", report_to=[], disable_tqdm=True, log_level="error", use_cpu=True, data_seed=1,
    )  # fmt: skip
    model = bert()
    trainer = Trainer(model, args, train_dataset=texts)
    trainer.add_callback(InfluenceCallback("run.zarr"))  # tape
    trainer.train()
    # was: return model
    return ik.open("run.zarr", test=trainer.data_collator(texts), **reopen_with(trainer))  # tape


def plain(weights):
    model = bert()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (9 - step) / 9)
    for epoch in range(3):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(1 + epoch))
        for rows in order.split(4):
            labels = torch.tensor([texts[i]["labels"] for i in rows])
            losses = per_example(model(input_ids=tokens[rows]).logits, labels)
            (weights[rows] * losses).mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return model


def asked(model):
    labels = torch.tensor([text["labels"] for text in texts])
    with torch.no_grad():
        return per_example(model(input_ids=tokens).logits, labels).mean().item()
