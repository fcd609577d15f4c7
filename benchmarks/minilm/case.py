"""The problem: the bundled hardware newsgroups, all of MiniLM, flipped labels.

Every weight that any of the texts can reach is trained: the encoder, a linear head, and the word pieces that
occur (the others' gradients are always zero, so leaving them out changes nothing). The pooler, which the
output does not depend on, is left out too.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from influencekit_paper import newsgroups
from torch import Tensor, nn

import influencekit as ik
from benchmarks.shared.results import load, save
from benchmarks.shared.weights import minilm
from influencekit._training.batch import Batch
from influencekit._training.schedules import Factors
from influencekit._training.workload import Workload

N_TRAIN, N_VALIDATION, N_TEST, TOKENS, BATCH, EPOCHS, FLIPPED = 256, 256, 384, 24, 16, 2, 0.1


class Classifier(nn.Module):
    """Encoder, mean over the tokens, one logit."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.to(self.head.weight.dtype)
        hidden = self.encoder(input_ids=input_ids, attention_mask=unseen(mask)).last_hidden_state
        return logit(self.head, hidden, mask)


def unseen(mask: Tensor) -> Tensor:
    """What is added to the attention, [text, head, query, key], for a mask [text, token] of numbers."""
    return (1 - mask[:, None, None]) * torch.finfo(mask.dtype).min


def logit(head: nn.Module, hidden: Tensor, mask: Tensor) -> Tensor:
    """The head's output [text] for the mean over the tokens."""
    mask = mask[..., None]
    return head((hidden * mask).sum(1) / mask.sum(1)).squeeze(-1)


@lru_cache(maxsize=1)
def texts() -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """Tokens and masks [text, token], labels [text] (1 = Mac), which belong to the training split, and the
    vocabulary: the word pieces that occur at all, in which the tokens count."""
    folder = minilm()
    from transformers import AutoTokenizer

    every = list(newsgroups.posts())
    tokens = AutoTokenizer.from_pretrained(folder, local_files_only=True)(
        [_text(post["text"]) for post in every],
        max_length=TOKENS, truncation=True, padding="max_length", return_tensors="pt",
    )  # fmt: skip
    ids, places = tokens["input_ids"].unique(return_inverse=True)
    labels = torch.tensor([float(newsgroups.CLASSES.index(post["label"])) for post in every])
    train = torch.tensor([post["split"] == "train" for post in every])
    return {"input_ids": places, "attention_mask": tokens["attention_mask"]}, labels, train, ids


def _text(post: str) -> str:
    """The subject and the body, without quoted lines and signature."""
    subject = post.partition("\n")[0].removeprefix("Subject: ").removeprefix("Re: ")
    return f"{subject}. {' '.join(newsgroups.body(post).split())}"


@dataclass(frozen=True)
class Case:
    """A training problem with some labels flipped. flipped: [train] bool."""

    workload: Workload
    flipped: Tensor

    @property
    def validation(self) -> Batch:
        assert self.workload.validation is not None
        return self.workload.validation

    @property
    def clean(self) -> Workload:
        """The same with the right labels."""
        y = self.workload.train["labels"]
        labels = torch.where(self.flipped, 1 - y, y)
        return replace(self.workload, train={**self.workload.train, "labels": labels})


@lru_cache(maxsize=1)
def encoder() -> nn.Module:
    folder = minilm()
    from transformers import AutoModel

    model = AutoModel.from_pretrained(
        folder, local_files_only=True, add_pooling_layer=False, attn_implementation="eager"
    )
    rows = model.get_input_embeddings().weight.detach()[texts()[3]]
    model.set_input_embeddings(nn.Embedding.from_pretrained(rows, freeze=False))
    return model


def warm_up(steps: int, warm: int) -> Factors:
    """Linear growth over `warm` steps (none for 0), then linear decay to nothing."""
    rise = [(t + 1) / (warm + 1) for t in range(warm)]
    return Factors((*rise, *(1 - t / (steps - warm) for t in range(steps - warm))))


def case(
    optimizer: str, lr: float, seed: int, n_train: int = N_TRAIN, n_validation: int = N_VALIDATION
) -> Case:
    """The problem that `seed` draws; a fifth of the steps of adamw are warm-up."""
    tokens, labels, is_train, _ = texts()
    generator = torch.Generator().manual_seed(seed)
    batches = drawn(tokens, labels, is_train, generator, n_train, n_validation)
    flipped = torch.zeros(n_train, dtype=torch.bool)
    flipped[torch.randperm(n_train, generator=generator)[: round(FLIPPED * n_train)]] = True
    y = batches["train"]["labels"]
    batches["train"]["labels"] = torch.where(flipped, 1 - y, y)
    torch.manual_seed(seed)
    return Case(fine_tuning(Classifier(encoder()), batches, optimizer, lr, EPOCHS, seed), flipped)


def drawn(
    inputs: Batch,
    labels: Tensor,
    is_train: Tensor,
    generator: torch.Generator,
    n_train: int,
    n_validation: int,
) -> dict[str, dict[str, Tensor]]:
    """{part: its inputs and labels}: the test texts are those of the test split."""

    def draw(pool: Tensor) -> Tensor:
        places = pool.nonzero().flatten()
        return places[torch.randperm(len(places), generator=generator)]

    train, rest = draw(is_train).split([n_train, int(is_train.sum()) - n_train])
    parts = {"train": train, "validation": rest[:n_validation], "test": draw(~is_train)[:N_TEST]}
    return {k: {**{n: x[p] for n, x in inputs.items()}, "labels": labels[p]} for k, p in parts.items()}


def fine_tuning(
    model: nn.Module, batches: dict[str, dict[str, Tensor]], optimizer: str, lr: float, epochs: int, seed: int
) -> Workload:
    """The training of a model of one logit; a fifth of the steps of adamw are warm-up."""
    steps = epochs * -(-len(batches["train"]["labels"]) // BATCH)
    rule = {"sgd": ik.SGD, "adamw": ik.AdamW}[optimizer](lr=lr)
    return Workload(
        model=model.eval(),
        loss=lambda z, y: nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none"),
        optimizer=rule,
        epochs=epochs,
        batch_size=BATCH,
        schedule=warm_up(steps, steps // 5 if optimizer == "adamw" else 0),
        seed=seed,
        name="minilm",
        **batches,
    )


def about(n_train: int = N_TRAIN) -> dict[str, int]:
    """What stands at the head of a result."""
    sizes = {"training": n_train, "validation": N_VALIDATION, "test": N_TEST}
    return sizes | {"tokens": TOKENS, "batch": BATCH, "epochs": EPOCHS}


def cached(work: Path, name: str, make: Callable[[], dict]) -> dict:
    """What `make` gives, computed once and kept as work/NAME.json."""
    path = work / f"{name}.json"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        save(path, make())
        print(f"{time.strftime('%H:%M')} {name}", flush=True)
    return load(path)
