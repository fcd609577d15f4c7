"""The loops behind the stores in `tests/fixtures/0.3.0`: what a tape of 0.3 keeps and one of 0.1 did not."""

from pathlib import Path
from typing import Any

import helpers_fixtures as h
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

ROOT = Path(__file__).parent / "fixtures" / "0.3.0"
NAMES = [f"img/{k}é" for k in range(h.N)]
KINDS = ("kept-examples", "one-cycle", "reloaded", "penalty")


def penalty(model: nn.Module) -> torch.Tensor:
    return 0.01 * sum(p.square().sum() for p in model.parameters())


def parts(kind: str) -> dict[str, Any]:
    """What opens the store of a kind."""
    data, test = h.examples(h.N, 1, torch.float64), h.examples(h.TEST, 3, torch.float64)
    found = {"model": h.network(torch.float64), "loss": h.loss, "data": TensorDataset(*data), "test": test}
    if kind == "kept-examples":
        found["data"] = None
    return found | ({"penalty": penalty} if kind == "penalty" else {})


def run(kind: str, store: Path) -> None:
    """Three epochs of three steps, the last of two examples, in a fixed order."""
    torch.manual_seed(4)
    mine, (x, y) = parts(kind), h.examples(h.N, 1, torch.float64)
    model, data = mine["model"], mine["data"]
    rule = torch.optim.AdamW(model.parameters(), lr=0.05)
    schedule = (
        torch.optim.lr_scheduler.OneCycleLR(rule, 0.1, total_steps=h.STEPS) if kind == "one-cycle" else ()
    )
    settings: dict[str, Any] = {
        "loss": h.loss,
        "data": data,
        "recorder": "every-k:k=4",
        "scheduler": schedule,
    }
    if kind == "penalty":
        settings |= {"penalty": penalty, "ids": NAMES}
    batches = [(x[rows], y[rows]) for rows in torch.arange(h.N).split(h.SIZE)]
    named = [(NAMES[4 * k : 4 * k + 4], batch) for k, batch in enumerate(batches)]
    best = None
    with ik.Tape(store, model, rule, **settings) as tape:
        for epoch in range(h.EPOCHS):
            for _, (inputs, target) in tape.batches(DataLoader(data, batch_size=h.SIZE) if data else named):
                rule.zero_grad()
                loss = h.loss(model(inputs), target).mean()
                (loss + penalty(model) if kind == "penalty" else loss).backward()
                rule.step()
                if schedule:
                    schedule.step()
            if kind == "reloaded" and epoch == 1:
                best = {name: value.clone() for name, value in model.state_dict().items()}
        if best is not None:
            model.load_state_dict(best)


def scores(kind: str, store: Path) -> list[float]:
    """Those of the mean test loss by dit."""
    return ik.estimate(ik.open(store, **parts(kind))).influence.values.ravel().tolist()


if __name__ == "__main__":  # in a checkout of 0.3.0, with this file's folder in PYTHONPATH
    import json

    for each in KINDS:
        run(each, ROOT / each / "run.zarr")
        said = {"influencekit": ik.__version__, "dit": scores(each, ROOT / each / "run.zarr")}
        (ROOT / each / "expected.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
