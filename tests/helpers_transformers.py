"""Tiny trainers for the tests of the transformers callback."""

import torch
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)  # fmt: skip

N = 22


class Sentences(Dataset):
    """Token 1 of an example is its position, so that a batch shows which examples it holds."""

    def __init__(self, language: bool = False, noise: bool = False) -> None:
        self.language, self.noise = language, noise

    def __len__(self):
        return N

    def __getitem__(self, i):
        if not 0 <= i < N:
            raise IndexError(i)
        ids = [N, i, *((i * k) % N for k in range(1, 2 + i % 4))]
        if self.noise:
            ids[-1] = int(torch.randint(N, ()))
        pad = [0] * (7 - len(ids))
        labels = ids + [-100] * len(pad) if self.language else i % 3 % 2
        return {
            "input_ids": ids + pad,
            "attention_mask": [1] * len(ids) + pad,
            "labels": labels,
            "text": f"sentence {i}",  # which the Trainer removes
        }


class Plain(torch.nn.Module):
    """A model that is none of transformers': it is not told the number of targets of a step."""

    def __init__(self):
        super().__init__()
        self.table, self.head = torch.nn.Embedding(N + 1, 6), torch.nn.Linear(6, 2)

    def forward(self, input_ids, labels=None):
        logits = self.head(torch.tanh(self.table(input_ids)).mean(1))
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}


def sizes(**more):
    return {
        "vocab_size": N + 1, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 8, "attn_implementation": "eager", **more,
    }  # fmt: skip


MODELS = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**sizes(num_labels=2))),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**sizes())),
    "plain": Plain,
}


class Spy(TrainerCallback):
    """What a bystander sees: the examples of every forwarded micro-batch, by their second token."""

    def __init__(self):
        self.seen, self.steps, self.weights = [], [], []

    def on_train_begin(self, args, state, control, model=None, **rest):
        def look(module, positional, inputs):
            if module is model and module.training and torch.is_grad_enabled():
                self.seen.append(inputs["input_ids"][:, 1].tolist())

        model.register_forward_pre_hook(look, with_kwargs=True)

    def on_step_end(self, args, state, control, model=None, **rest):
        self.steps.append(self.seen)
        self.seen = []
        self.weights.append(flat(model))


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad])


def trainer(folder, *callbacks, kind="bert", noise=False, double=False, more=None, **changes):
    """A Trainer that is the same every time."""
    set_seed(0)
    settings = {
        "output_dir": str(folder / "trainer"), "per_device_train_batch_size": 3, "num_train_epochs": 2,
        "learning_rate": 1e-2, "optim": "adamw_torch", "report_to": [], "disable_tqdm": True, "use_cpu": True,
        "save_strategy": "no", "logging_steps": 1, "log_level": "error", **changes,
    }  # fmt: skip
    model, data = MODELS[kind](), Sentences(kind == "llama", noise)
    return Trainer(
        model=model.double() if double else model,
        args=TrainingArguments(**settings),
        train_dataset=data,
        eval_dataset=data,
        callbacks=list(callbacks),
        **(more or {}),
    )


def test_batch(trainer):
    """All examples, as the model takes them."""
    return dict(trainer.get_train_dataloader().collate_fn([trainer.train_dataset[i] for i in range(N)]))
