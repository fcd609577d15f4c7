"""Fine-tune MiniLM with transformers' Trainer, tape the run, and find the labels that harm it.

python examples/minilm_transformers.py        (about a minute on 2 cores; see docs/tape.md)
"""

import argparse

import transformers
from newsgroups import TOKENS, draw, suspects, weights
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

import influencekit as ik
from influencekit.trainers.transformers import InfluenceCallback, reopen_with


def main(store: str = "minilm.zarr", n_train: int = 192, n_test: int = 96, epochs: float = 2.0) -> list[int]:
    """Train, tape, rank; the positions of the most harmful tenth of the training texts."""
    transformers.logging.set_verbosity_error()
    transformers.set_seed(0)
    train, test, flipped = draw(n_train, n_test)
    tokenizer = AutoTokenizer.from_pretrained(weights())
    model = AutoModelForSequenceClassification.from_pretrained(weights(), num_labels=2)
    model.bert.embeddings.requires_grad_(False)  # 23 million parameters become 11

    def features(texts: list[tuple[str, int]]) -> list[dict[str, object]]:
        return [{**tokenizer(text, truncation=True, max_length=TOKENS), "labels": y} for text, y in texts]

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=f"{store}.trainer",
            per_device_train_batch_size=16,
            num_train_epochs=epochs,
            optim="sgd",
            learning_rate=0.1,
            lr_scheduler_type="constant",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=features(train),
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[InfluenceCallback(store)],  # the only line about influence
    )
    trainer.train()

    asked = dict(trainer.data_collator(features(test)))
    run = ik.open(store, test=asked, **reopen_with(trainer))
    return suspects(run, flipped)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", nargs="?", default="minilm.zarr", help="a new path for the recorded run")
    main(parser.parse_args().store)
