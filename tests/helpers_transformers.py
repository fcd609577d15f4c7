"""Tiny trainers for the tests of the transformers callback."""

import torch
from tokenizers import Tokenizer, models
from torch.utils.data import Dataset
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)  # fmt: skip

import influencekit as ik
from influencekit.trainers.transformers import reopen_with

N = 22


class Sentences(Dataset):
    """Token 1 of an example is its position, so that a batch shows which examples it holds."""

    def __init__(self, kind: str = "bert", noise: bool = False) -> None:
        self.kind, self.noise = kind, noise

    def __len__(self):
        return N

    def __getitem__(self, i):
        if not 0 <= i < N:
            raise IndexError(i)
        ids = [N, i, *((i * k) % N for k in range(1, 2 + i % 4))]
        if self.noise:
            ids[-1] = int(torch.randint(N, ()))
        pad = [0] * (7 - len(ids))
        words = ids + [-100] * len(pad)
        outside = 99 if i == 5 else 0  # an answer that the input does not hold
        targets = {
            "llama": words, "half": words if i % 2 else [-100] * 7, "t5": words, "bart": words,
            "masked": [w if k % 2 else -100 for k, w in enumerate(words)],
            "tokens": [w if w < 0 else w % 2 for w in words], "regression": i / N,
            "several": [float(i % k == 0) for k in (2, 3, 5)],
            "llama several": [float(i % k == 0) for k in (2, 3, 5)],
        }  # fmt: skip
        target = {"labels": targets.get(self.kind, i % 3 % 2)}
        if self.kind == "answers":
            target = {"start_positions": outside + i % 2, "end_positions": outside + 2}
        return {
            "input_ids": ids + pad,
            "attention_mask": [1] * len(ids) + pad,
            **target,
            "text": f"sentence {i}",  # which the Trainer removes
        }


class Texts(Dataset):
    """Texts of different lengths; what pads them is the collation."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return {"input_ids": [2 + (i * k) % (N - 2) for k in range(1, 4 + i % 5)]}


class Collation:
    """transformers' own, padded on one side. `first`: whether the first token of a text is a target, as it is
    by default where padding stands before it."""

    def __init__(self, side, masked=False, first=False):
        words = {"[PAD]": 0, "[MASK]": 1, **{f"w{k}": k for k in range(2, N + 1)}}
        own = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel(words)), pad_token="[PAD]", mask_token="[MASK]",
            padding_side=side,
        )  # fmt: skip
        self.own, self.first = DataCollatorForLanguageModeling(own, mlm=masked, mlm_probability=0.4), first
        self.masked = masked

    def __call__(self, examples):
        batch = self.own(examples)
        if not (self.first or self.masked):
            starts = batch["attention_mask"].argmax(1)
            batch["labels"][torch.arange(len(starts)), starts] = -100
        return batch


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


def unpadded(model):
    """Its padding is masked, and trained where the embedding is the output layer, too."""
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None
    return model


MODELS = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**sizes(num_labels=2))),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**sizes())),
    "half": lambda: LlamaForCausalLM(LlamaConfig(**sizes())),  # every other example has no label
    "plain": Plain,
    "regression": lambda: BertForSequenceClassification(BertConfig(**sizes(num_labels=1))),
    "several": lambda: BertForSequenceClassification(BertConfig(**sizes(num_labels=3))),
    "llama several": lambda: LlamaForSequenceClassification(
        LlamaConfig(**sizes(num_labels=3, pad_token_id=0))
    ),
    "answers": lambda: BertForQuestionAnswering(BertConfig(**sizes())),
    "tokens": lambda: BertForTokenClassification(BertConfig(**sizes(num_labels=2))),
    "masked": lambda: unpadded(BertForMaskedLM(BertConfig(**sizes()))),
    "bart": lambda: unpadded(
        BartForConditionalGeneration(
            BartConfig(
                vocab_size=N + 1,
                d_model=8,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=8,
                decoder_ffn_dim=8,
                max_position_embeddings=16,
                pad_token_id=0,
                decoder_start_token_id=1,
                attn_implementation="eager",
            )
        )
    ),  # fmt: skip
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(
            vocab_size=N + 1, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
    ),
}


class Weighted:
    """The loss of a Trainer whose examples have weights: what scores are the derivative in."""

    def __init__(self, weights):
        self.weights, self.present = weights, None

    def attend(self, module, positional, inputs):
        self.present = inputs["input_ids"][:, 1]

    def __call__(self, outputs, labels, num_items_in_batch=None):
        each = torch.nn.functional.cross_entropy(outputs["logits"], labels, reduction="none")
        return (self.weights[self.present] * each).sum() / num_items_in_batch


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


def trainer(folder, *callbacks, kind="bert", noise=False, double=False, more=None, made=Trainer, **changes):
    """A Trainer that is the same every time."""
    set_seed(0)
    settings = {
        "output_dir": str(folder / "trainer"), "per_device_train_batch_size": 3, "num_train_epochs": 2,
        "learning_rate": 1e-2, "optim": "adamw_torch", "report_to": [], "disable_tqdm": True, "use_cpu": True,
        "save_strategy": "no", "logging_steps": 1, "log_level": "error", **changes,
    }  # fmt: skip
    model, data = MODELS[kind](), Sentences(kind, noise)
    return made(
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


def trained(trainer, store):
    """The run of a Trainer with our callback, which records to the store, with a test set."""
    trainer.train()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        test = test_batch(trainer)
    return ik.open(store, test=test, **reopen_with(trainer))


def gap(parts, whole):
    """How far the scores of parts, in sum, are from those of the examples, relative to the largest."""
    return float(abs(parts.influence.sum("part") - whole.influence).max() / abs(whole.influence).max())
