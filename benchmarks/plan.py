"""Are the costs that `influencekit plan` predicts those that the work then takes?

Every workload is planned in a process of its own, from the few steps that a plan measures, and then recorded,
swept over and retrained in another one, with a clock. A ratio is predicted / measured: of seconds of the
wall, of the process's peak of memory, and of bytes on disk. `taped` is a loop with AdamW on 20 features,
recorded by a tape with every-k:k=50, planned from its store.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from benchmarks.shared.processes import alone, count_the_peak_from_here, memory
from benchmarks.shared.results import machine
from benchmarks.shared.timing import timed

TAKES = "15 min"
MERGES = True
CASES = {  # workload, recorder, how many examples are left out
    "mnist-1v7-lr": ("mnist-1v7-lr:setting=trained", "full", 256),
    "mnist-1v7-dnn": ("mnist-1v7-dnn:setting=trained", "full", 256),
    "mnist-1v7-dnn, every-k": ("mnist-1v7-dnn:setting=trained", "every-k:k=20", 64),
    "taped": ("", "every-k:k=50", 64),
    "mnist-1v7-cnn": ("mnist-1v7-cnn:setting=trained", "full", 8),
}


def answer(cases: list[str]) -> dict[str, Any]:
    found = {}
    with tempfile.TemporaryDirectory() as work:
        for name in cases:
            store = str(Path(work) / f"{name.replace(' ', '_')}.zarr")
            if not CASES[name][0]:
                alone(tape, store)
            predicted = alone(planned, name, store)
            measured = alone(done, name, store)
            ratio = {
                what: {k: x / measured[what][k] for k, x in each.items() if measured[what].get(k)}
                for what, each in predicted.items()
            }
            found[name] = {"predicted": predicted, "measured": measured, "ratio": ratio}
            print(name, ratio, flush=True)
    return {"machine": machine(), "cases": found}


def _parts() -> dict[str, Any]:
    torch.manual_seed(0)
    x = torch.randn(600, 20)
    y = (x[:, :5].sum(1) + torch.randn(600) > 0).long()
    model = nn.Sequential(nn.Linear(20, 64), nn.GELU(), nn.Linear(64, 2))
    loss = nn.CrossEntropyLoss(reduction="none")
    return {
        "model": model,
        "loss": loss,
        "data": TensorDataset(x[:400], y[:400]),
        "test": TensorDataset(x[400:], y[400:]),
    }


def tape(store: str) -> None:
    """Record the loop."""
    parts = _parts()
    model, loss, data = parts["model"], parts["loss"], parts["data"]
    optimizer, loader = (
        torch.optim.AdamW(model.parameters(), lr=3e-3),
        DataLoader(data, batch_size=32, shuffle=True),
    )
    with ik.Tape(store, model, optimizer, loss=loss, data=data) as taped:
        for _ in range(20):
            for _, (inputs, target) in taped.batches(loader):
                optimizer.zero_grad()
                loss(model(inputs), target).mean().backward()
                optimizer.step()


def _opened(name: str, store: str) -> Any:
    spec = CASES[name][0]
    return ik.open(store, ik.make("workload", spec)) if spec else ik.open(store, **_parts())


def planned(name: str, store: str) -> dict[str, dict[str, float]]:
    """What `plan` says of recording, of `dit` and of leave-one-out of some examples."""
    torch.set_num_threads(1)
    spec, recorder, examples = CASES[name]
    asked = ["dit", f"loo:examples={examples}"]
    found = ik.plan(spec, asked, recorder=recorder) if spec else ik.plan(_opened(name, store), asked)
    works = found.to_dataframe().loc[[w for w in found.work.values if w in ("record", *asked)]]
    return {
        w.partition(":")[0]: {k: float(row[k]) for k in ("seconds", "memory", "disk") if row[k] == row[k]}
        for w, row in works.iterrows()
    }


def done(name: str, store: str) -> dict[str, dict[str, float]]:
    """The same, done."""
    torch.set_num_threads(1)
    spec, recorder, examples = CASES[name]
    found = {}
    if spec:
        count_the_peak_from_here()
        work = ik.make("workload", spec)
        _, seconds = timed(lambda: ik.record(work, recorder, store))
        disk = sum(file.stat().st_size for file in Path(store).rglob("*") if file.is_file())
        found["record"] = {"seconds": seconds, "memory": memory("VmHWM") * 2**20, "disk": disk}
    run = _opened(name, store)
    for estimator in ("dit", f"loo:examples={examples}"):
        count_the_peak_from_here()
        _, seconds = timed(lambda estimator=estimator: ik.estimate(run, "test-loss", estimator))
        found[estimator.partition(":")[0]] = {"seconds": seconds, "memory": memory("VmHWM") * 2**20}
    return found
