"""Find wrong labels among texts, see whether the model is better without them, and make a report.

python examples/minilm_clean.py        (about two minutes on 2 cores; see docs/cleaning.md)

MiniLM turns every text into 384 numbers, once. What is trained and taped is a logistic regression on them.
"""

import argparse

import torch
import transformers
from newsgroups import draw, posts, weights
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoModel, AutoTokenizer

import influencekit as ik

TOKENS = 64
per_example = nn.CrossEntropyLoss(reduction="none")


def embedded(texts: list[str]) -> Tensor:
    """The mean of MiniLM's last hidden states, of length 1: [text, 384]."""
    transformers.logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(weights())
    model, found = AutoModel.from_pretrained(weights()).eval(), []
    for start in range(0, len(texts), 32):
        tokens = tokenizer(
            texts[start : start + 32], truncation=True, max_length=TOKENS, padding=True, return_tensors="pt"
        )
        mask = tokens["attention_mask"][..., None]
        with torch.no_grad():
            hidden = model(**tokens).last_hidden_state
        found.append(nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)))
    return torch.cat(found)


def trained(store: str, data: TensorDataset, test: TensorDataset, epochs: int = 10) -> ik.Trajectory:
    """An ordinary loop with a tape around it."""
    torch.manual_seed(0)
    model = nn.Linear(384, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = DataLoader(data, batch_size=32, shuffle=True)
    with ik.Tape(store, model, optimizer, loss=per_example, data=data, name="newsgroups") as tape:
        for _ in range(epochs):
            for _, (x, y) in tape.batches(loader):
                optimizer.zero_grad()
                per_example(model(x), y).mean().backward()
                optimizer.step()
    return tape.trajectory(test=test, class_names=["PC", "Mac"])


def main(store: str = "texts.zarr", n_train: int = 256, n_trusted: int = 256, n_test: int = 256) -> ik.Report:
    """Train, tape, find wrong labels, find what to drop, retrain, and show it all."""
    train, _, flipped = draw(n_train, 0)  # a tenth of the labels are flipped
    texts, labels = zip(*train, *posts("test")[: n_trusted + n_test], strict=True)
    x, y, sizes = embedded(list(texts)), torch.tensor(labels), [n_train, n_trusted, n_test]
    parts = [TensorDataset(*part) for part in zip(x.split(sizes), y.split(sizes), strict=True)]
    data, trusted, test = (
        parts  # held-out texts: trusted ones say what is wrong, the others have no part in it
    )
    run = trained(store, data, test)
    print(f"accuracy on other texts: {run.attrs['accuracy']:.0%}")

    wrong = ik.suspects(run, trusted=trusted, verify=10)
    marked = set(wrong.train.values[wrong.is_label_issue.values].tolist())
    print(f"{wrong.verdict}\nof {len(marked)} marked ones, {len(marked & flipped)} have a flipped label")
    worth = ik.curate(run, trusted=trusted)
    print(worth.verdict)

    scores = ik.estimate(run, windows="each-epoch")
    retrained = ik.estimate(run, estimator="loo")
    text_of = {row.numpy().tobytes(): text for row, text in zip(x, texts, strict=True)}
    return ik.report(
        run, scores, retrained, ik.trust(run, "test-loss", ik.estimate(run)), curated=worth, suspected=wrong,
        points=16, show=lambda example: text_of[example[0].numpy().tobytes()], title="PC or Mac",
        command="python examples/minilm_clean.py",
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", nargs="?", default="texts.zarr", help="a new path for the recorded run")
    parser.add_argument("--out", default="texts.html", help="a new file for the report")
    given = parser.parse_args()
    print(main(given.store).save(given.out))
