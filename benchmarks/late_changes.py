"""Does a tape, or at the latest `estimate`, catch what changes in the last tenth of a run?

Ten kinds of change, six runs of 80 to 1,000 steps each, of small networks, with the tape's default checks.
Every run is also done without its change, which must raise nothing. Half of the runs are opened with parts
made anew, as in another program, and half with those of the loop, as they are at its end.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

TAKES = "15 min"
QUICK = {"runs": 1}
KINDS = (
    "sign of the loss", "scale of the loss", "dropout probability", "temperature in the loss",
    "transform of the data", "second optimizer", "weight edited through .data", "weight edited by copy_",
    "label smoothing", "clipping",
)  # fmt: skip
STEPS = (80, 130, 210, 370, 640, 1000)
RECORDERS = ("every-k:k=50", "full", "every-k:k=20")


class Data(TensorDataset):
    """Three classes in ten dimensions, and a transform."""

    def __init__(self, n: int = 96, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(0, 3, (n,), generator=generator)
        super().__init__(torch.randn(n, 10, generator=generator) + 1.5 * torch.eye(3, 10)[y], y)
        self.scale = 1.0

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x, y = super().__getitem__(i)
        return x * self.scale, y


class Loss:
    """Cross entropy of each example, at a temperature."""

    def __init__(self) -> None:
        self.temperature = 1.0

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs / self.temperature, target, reduction="none")


class Net(nn.Module):
    """A network with dropout, and a head that is not trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, width), nn.GELU(), nn.Dropout(0.1), nn.Linear(width, 3))
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@dataclass
class Run:
    """One run: its number says everything else."""

    number: int

    def __post_init__(self) -> None:
        self.kind, k = KINDS[self.number % len(KINDS)], self.number // len(KINDS)
        self.steps, self.width = STEPS[k], (8, 16, 32)[k % 3]
        self.recorder, self.anew = RECORDERS[(k + self.number) % 3], (k + self.number) % 2 == 0
        generator = torch.Generator().manual_seed(self.number)
        last = max(1, self.steps // 10)
        self.since = self.steps - last + int(torch.randint(0, max(1, last * 3 // 4), (), generator=generator))

    def parts(self) -> dict[str, Any]:
        torch.manual_seed(self.number)
        return {"model": Net(self.width), "loss": Loss(), "data": Data()}

    def optimizer(self, model: Net) -> torch.optim.Optimizer:
        if self.number % 3:
            return torch.optim.SGD(model.body.parameters(), lr=0.05, momentum=0.9)
        return torch.optim.AdamW(model.body.parameters(), lr=0.003)

    def train(self, changes: bool, store: Path) -> tuple[ik.Tape, dict[str, Any]]:
        """The loop, which changes at step `since`, or does not."""
        parts = self.parts()
        model, loss, data = parts["model"], parts["loss"], parts["data"]
        optimizer, second = self.optimizer(model), torch.optim.SGD(model.head.parameters(), lr=0.05)
        model.train()
        step = 0
        with ik.Tape(store, model, optimizer, recorder=self.recorder, loss=loss, data=data) as tape:
            while step < self.steps:
                for _, (x, y) in tape.batches(DataLoader(data, batch_size=16, shuffle=True)):
                    late = changes and step >= self.since
                    optimizer.zero_grad()
                    outputs = model(x)
                    self.value(late, loss(outputs, y), outputs, y).backward()
                    if late and self.kind == "clipping":
                        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
                    optimizer.step()
                    step += 1
                    if changes and step >= self.since:
                        self.change(step, model, loss, data, second)
                    if step == self.steps:
                        break
        return tape, parts

    def value(self, late: bool, losses: Tensor, outputs: Tensor, y: Tensor) -> Tensor:
        """What the loop minimises."""
        if late and self.kind == "label smoothing":
            return nn.functional.cross_entropy(outputs, y, label_smoothing=0.2)
        factor = {"sign of the loss": -0.5, "scale of the loss": 1.5}.get(self.kind, 1.0)
        return losses.mean() * (factor if late else 1.0)

    def change(self, step: int, model: Net, loss: Loss, data: Data, second: torch.optim.Optimizer) -> None:
        """After a step of the last tenth."""
        if self.kind == "dropout probability":
            model.get_submodule("body.2").p = 0.4  # type: ignore[assignment]
        elif self.kind == "temperature in the loss":
            loss.temperature = 0.7
        elif self.kind == "transform of the data":
            data.scale = 1.3
        elif self.kind == "second optimizer":
            second.step()
        elif step == self.since and self.kind == "weight edited through .data":
            model.get_parameter("body.0.weight").data.mul_(0.9)
        elif step == self.since and self.kind == "weight edited by copy_":
            with torch.no_grad():
                model.get_parameter("head.bias").copy_(torch.ones(3))

    def caught(self, changes: bool) -> tuple[str, str]:
        """(by whom, in which words); by nobody: ("", "")."""
        by = "the tape"
        try:
            with TemporaryDirectory() as folder:
                store = Path(folder) / "run.zarr"
                tape, parts = self.train(changes, store)
                by, test = "estimate", Data(32, seed=1)
                run = ik.open(store, test=test, **self.parts()) if self.anew else tape.trajectory(test=test)
                ik.estimate(run, "test-loss", "dit")
        except ik.InfluenceKitError as error:
            return by, str(error)
        return "", ""


@click.option("--runs", default=len(KINDS) * len(STEPS), help="The first so many.")
def answer(runs: int) -> dict:
    rows: dict[str, dict[str, Any]] = defaultdict(lambda: defaultdict(int))
    for number in range(runs):
        run = Run(number)
        (by, words), (_, alarm) = run.caught(True), run.caught(False)
        row = rows[run.kind]
        row["runs"] += 1
        row["caught by the tape"] += by == "the tape"
        row["caught by estimate"] += by == "estimate"
        row["missed"] += not by
        row["false alarms"] += bool(alarm)
        row["words"] = words or row["words"]
        what = f"{number:3} {run.kind}, {run.steps} steps, at {run.since}: {by or 'MISSED'}; {alarm or words}"
        print(what[:200], flush=True)
    names = ("runs", "caught by the tape", "caught by estimate", "missed", "false alarms")
    total = {name: sum(row[name] for row in rows.values()) for name in names}
    return {"steps": STEPS, "total": total, "kinds": rows, "partial": runs < len(KINDS) * len(STEPS)}
