"""The problem: Gemma 3 270M, its vocabulary cut to the pieces that occur, fine-tuned by LoRA and AdamW."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import influencekit as ik
from benchmarks.gemma.texts import ASKED, TRAIN
from benchmarks.shared.weights import gemma

__all__ = ["BATCH", "EPS", "LAYERS", "LR", "RANK", "Case", "loss", "optimizer", "schedule"]

RANK, LAYERS, BATCH, LR, WARM = 4, 6, 8, 0.01, 2  # adapters in so many of the 18 blocks, the last ones
EPS = 1e-3  # of AdamW; its default is 1e-8. The median of the gradient's entries is about 5e-4


def loss(outputs: Any, labels: Tensor) -> ik.Parts:
    """Cross entropy of the next piece, mean over the pieces of a text; each piece is a part."""
    each = cross_entropy(outputs["logits"].mT, labels, reduction="none", ignore_index=-100)
    return ik.Parts.mean(each, labels != -100)


def optimizer(model: nn.Module, eps: float = EPS) -> torch.optim.Optimizer:
    learnt = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(learnt, lr=LR, eps=eps, weight_decay=0.01)


def schedule(rule: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Up linearly, then down linearly."""
    return torch.optim.lr_scheduler.LambdaLR(
        rule, lambda t: min((t + 1) / (WARM + 1), (steps - t) / (steps - WARM))
    )


class Case:
    """Texts as batches, and models that begin alike."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        every = [*(text for text, _ in TRAIN), *ASKED.values()]
        found = _tokenizer(folder)(every, padding=True, return_tensors="pt")
        ids, mask = found["input_ids"], found["attention_mask"]
        self.pieces, ids = ids.unique(return_inverse=True)
        # padding is on the right, where causal attention never looks: no mask is needed
        following = ids.where(mask > 0, -100)[:, 1:]  # the label of a position is the next piece
        rows = {"input_ids": ids[:, :-1], "labels": following}
        self.data = [{name: x[k] for name, x in rows.items()} for k in range(len(TRAIN))]
        self.test = {name: x[len(TRAIN) :] for name, x in rows.items()}
        self.length = following.shape[1]

    def model(self, moved: float = 0.0) -> nn.Module:
        """`moved`: every adapter's start is moved by this fraction of its root mean square."""
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(gemma(self.folder), local_files_only=True)
        _cut(model, self.pieces)
        torch.manual_seed(0)
        blocks = model.config.num_hidden_layers
        settings = {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["q_proj", "v_proj"]}
        settings |= {"layers_to_transform": list(range(blocks - LAYERS, blocks)), "task_type": "CAUSAL_LM"}
        model = get_peft_model(model, LoraConfig(**settings)).train()
        generator = torch.Generator().manual_seed(1)
        for p in model.parameters() if moved else ():
            if p.requires_grad:
                size = moved * p.detach().square().mean().sqrt()
                p.data += size * torch.randn(p.shape, generator=generator)
        return model

    def loader(self) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(0)
        return DataLoader(self.data, batch_size=BATCH, shuffle=True, generator=generator)  # type: ignore[arg-type]

    @property
    def steps(self) -> int:
        return -(-len(self.data) // BATCH)

    def train(self, model: nn.Module, batches: Any, rule: torch.optim.Optimizer) -> None:
        """The loop, as anybody writes it."""
        rates = schedule(rule, self.steps)
        for _, batch in batches:
            rule.zero_grad()
            loss(model(input_ids=batch["input_ids"]), batch["labels"]).reduced().mean().backward()
            rule.step()
            rates.step()

    def record(self, store: Path, model: nn.Module, eps: float = EPS) -> None:
        rule = optimizer(model, eps)
        with ik.Tape(store, model, rule, loss=loss, data=self.data, recorder="full") as tape:
            self.train(model, tape.batches(self.loader()), rule)

    def open(self, store: Path, model: nn.Module, asked: Sequence[str] = tuple(ASKED)) -> ik.Trajectory:
        """The run, asked for the losses of these texts."""
        rows = [[*ASKED].index(name) for name in asked]
        test = {name: x[rows] for name, x in self.test.items()}
        return ik.open(store, model=model, loss=loss, data=self.data, test=test, test_ids=[*asked])

    def names(self, row: dict[str, Tensor]) -> list[str]:
        """The pieces that a text's losses are of."""
        tokenizer = _tokenizer(self.folder)
        return [tokenizer.decode(self.pieces[k]) for k in row["labels"] if k >= 0]


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(gemma(folder), local_files_only=True, padding_side="right")


def _cut(model: Any, pieces: Tensor) -> None:
    """Leave only these pieces of the vocabulary; output and input share their rows."""
    table = model.get_input_embeddings()
    rows = nn.Parameter(table.weight.detach()[pieces].clone(), requires_grad=False)
    table.weight = model.lm_head.weight = rows
    table.num_embeddings = model.lm_head.out_features = model.config.vocab_size = len(pieces)
    table.padding_idx = None
