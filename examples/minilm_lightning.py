"""Fine-tune MiniLM with Lightning, tape the run, and find the labels that harm it.

python examples/minilm_lightning.py        (about a minute on 2 cores; see docs/tape.md)
"""

import argparse
import logging

import lightning as L
import torch
import transformers
from newsgroups import TOKENS, draw, suspects, weights
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

import influencekit as ik
from influencekit.trainers.lightning import InfluenceCallback

per_example = nn.CrossEntropyLoss(reduction="none")


class Classifier(L.LightningModule):
    """MiniLM with a head for two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained(weights(), num_labels=2).train()
        self.model.bert.embeddings.requires_grad_(False)  # 23 million parameters become 11

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        outputs = self(batch["input_ids"], batch["attention_mask"])
        return per_example(outputs, batch["labels"]).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main(store: str = "minilm.zarr", n_train: int = 192, n_test: int = 96, epochs: int = 2) -> list[int]:
    """Train, tape, rank; the positions of the most harmful tenth of the training texts."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    L.seed_everything(0, verbose=False)
    train, test, flipped = draw(n_train, n_test)
    tokenizer = AutoTokenizer.from_pretrained(weights(), model_input_names=["input_ids", "attention_mask"])

    def features(texts: list[tuple[str, int]]) -> list[dict[str, object]]:
        return [{**tokenizer(text, truncation=True, max_length=TOKENS), "labels": y} for text, y in texts]

    data, collate = features(train), DataCollatorWithPadding(tokenizer)
    trainer = L.Trainer(
        max_epochs=epochs,
        gradient_clip_val=1.0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[InfluenceCallback(store, loss=per_example)],  # the only line about influence
    )
    trainer.fit(Classifier(), DataLoader(data, batch_size=16, shuffle=True, collate_fn=collate))

    asked = dict(collate(features(test)))
    run = ik.open(store, model=Classifier(), loss=per_example, data=data, collate=collate, test=asked)
    return suspects(run, flipped)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", nargs="?", default="minilm.zarr", help="a new path for the recorded run")
    main(parser.parse_args().store)
