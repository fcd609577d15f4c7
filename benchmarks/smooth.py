"""Does a smoothed sweep agree better with leave-one-out than `dit` where the network has corners?

Query: mean test loss, whole run, setting `trained`, SGD. `smooth` beside `dit`, and beside `dit` with the
Gauss-Newton curvature, which costs nothing; each against exact leave-one-out of all examples (of 24 for the
convolutions, and two seeds). `listed`: the workloads on which the method was
developed; `warned`: one on which its author saw a loss in one seed; `other`: workloads that had no part in
it, which is where its figures have to hold. A cell is a workload and a seed: it is kept in `--folder`, and a
call that was stopped, or that has no minutes left, continues where it was.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import click
import numpy as np
import torch
from torch import nn

import influencekit as ik
from benchmarks.shared.results import kept, spread
from benchmarks.shared.timing import timed
from influencekit.metrics import METRICS, agreement

TAKES = "20 min"
QUICK = {"seeds": 1, "runs": 2, "cases": ["adult-dnn"], "folder": None}
METHODS = {"dit": "dit", "gauss-newton": "dit:curvature=gauss-newton"}
FOLDER = Path(tempfile.gettempdir()) / "influencekit-smooth"
Build = Callable[[int], ik.Workload]


def bundled(name: str) -> Build:
    return lambda seed: ik.make("workload", name, setting="trained", seed=seed)


def net(
    inputs: int, widths: tuple[int, ...], corner: Callable[[], nn.Module] = nn.ReLU, outputs: int = 1
) -> nn.Module:
    """Linear layers with corners between them; one logit as [n]."""
    sizes, layers = (inputs, *widths), []
    for a, b in zip(sizes, widths, strict=False):
        layers += [nn.Linear(a, b), corner()]
    last = [nn.Flatten(0)] if outputs == 1 else []
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], outputs), *last)


def cnn() -> nn.Module:
    """Convolutions of 4 and 8 filters with ReLU and max pooling, as those of the bundled networks."""
    first, second = (
        (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2)),
        (nn.Conv2d(4, 8, 3), nn.ReLU(), nn.MaxPool2d(2)),
    )
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(200, 1), nn.Flatten(0))


def changed(name: str, model: Callable[[int], nn.Module] | None = None, **changes: object) -> Build:
    """A bundled workload with another network, of so many inputs, or other settings."""

    def build(seed: int) -> ik.Workload:
        work = bundled(name)(seed)
        if model is None:
            return replace(work, **changes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 + seed)
            return replace(work, model=model(work.train[0][0].numel()), **changes)

    return build


def four_classes(seed: int) -> ik.Workload:
    """MNIST 1 and 7, KMNIST o and ki, 64 each, as four classes."""
    parts = [bundled(name)(seed) for name in ("mnist-1v7-dnn", "kmnist-dnn")]

    def joined(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.cat([getattr(part, name)[0][:128] for part in parts])
        y = torch.cat([getattr(part, name)[1][:128].long() + 2 * k for k, part in enumerate(parts)])
        return x, y

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 + seed)
        model = net(784, (16, 16), outputs=4)
    return ik.Workload(
        model=model, loss=nn.CrossEntropyLoss(reduction="none"), train=joined("train"), test=joined("test"),
        optimizer=ik.SGD(lr=0.05), epochs=42, batch_size=64, l2=0.001, seed=seed, name="four classes",
    )  # fmt: skip


def leaky() -> nn.Module:
    return nn.LeakyReLU(0.1)


CASES: dict[str, tuple[str, Build]] = {
    "mnist-1v7-dnn": ("listed", bundled("mnist-1v7-dnn")),
    "adult-dnn": ("listed", bundled("adult-dnn")),
    "20news-dnn": ("listed", bundled("20news-dnn")),
    "kmnist-dnn": ("warned", bundled("kmnist-dnn")),
    "mnist-1v7, 32-32": ("other", changed("mnist-1v7-dnn", lambda d: net(d, (32, 32)))),
    "kmnist, 8-8-8-8": ("other", changed("kmnist-dnn", lambda d: net(d, (8, 8, 8, 8)))),
    "adult, 32-32": ("other", changed("adult-dnn", lambda d: net(d, (32, 32)))),
    "adult, leaky ReLU": ("other", changed("adult-dnn", lambda d: net(d, (8, 8), leaky))),
    "adult, batches of 16": ("other", changed("adult-dnn", batch_size=16, optimizer=ik.SGD(lr=0.5))),
    "20news, 32": ("other", changed("20news-dnn", lambda d: net(d, (32,)))),
    "kmnist, momentum": ("other", changed("kmnist-dnn", optimizer=ik.SGD(lr=0.02, momentum=0.9))),
    "four classes, 16-16": ("other", four_classes),
    "kmnist, small CNN": ("other", changed("kmnist-cnn", lambda d: cnn(), epochs=20)),
}


def one(name: str, seed: int, runs: int) -> dict:
    """The row of figures of a workload and a seed."""
    kind, build = CASES[name]
    run, methods = ik.record(build(seed)), {**METHODS, "smooth": f"smooth:runs={runs}"}
    found, seconds = {}, {}
    for method, spec in {"loo": "loo:examples=24" if "CNN" in name else "loo", **methods}.items():
        scores, seconds[method] = timed(partial(ik.estimate, run, "test-loss", spec))
        found[method] = torch.from_numpy(scores.influence.values[0, 0]).double()
    known = found["loo"].isfinite()
    figures = {
        method: dict(zip(METRICS, agreement(found[method][known], found["loo"][known]).tolist(), strict=True))
        for method in methods
    }
    head = {"workload": name, "kind": kind, "seed": seed, "runs": runs}
    return {**head, "accuracy": float(run.attrs["accuracy"]), **figures, "seconds": seconds}


def summary(rows: list[dict]) -> dict:
    """{workload: means over seeds, and in how many of them `smooth` is the better one}."""
    found = {}
    for name in dict.fromkeys(row["workload"] for row in rows):
        mine = [row for row in rows if row["workload"] == name]
        found[name] = {
            "kind": mine[0]["kind"],
            "seeds": len(mine),
            "accuracy": spread([row["accuracy"] for row in mine]),
            **{
                method: {m: spread([row[method][m] for row in mine]) for m in METRICS}
                for method in (*METHODS, "smooth")
            },
            "gain": {m: gain(mine, m) for m in METRICS},
            "cost_relative_to_dit": float(
                np.median([row["seconds"]["smooth"] / row["seconds"]["dit"] for row in mine])
            ),
        }
    return found


def gain(rows: list[dict], metric: str) -> dict:
    """What `smooth` adds to an agreement: mean, least and most over seeds, and in how many it is above 0."""
    each = [row["smooth"][metric] - row["dit"][metric] for row in rows]
    return {
        "mean": float(np.mean(each)),
        "least": min(each),
        "most": max(each),
        "better": sum(x > 0 for x in each),
    }


def over_workloads(found: dict) -> dict:
    """By kind of workload: how many gain, and the mean gain, each workload counting once."""
    total = {}
    for kind in dict.fromkeys(each["kind"] for each in found.values()):
        mine = [each for each in found.values() if each["kind"] == kind]
        total[kind] = {
            m: {
                "workloads": len(mine),
                "gain": sum(x["gain"][m]["mean"] > 0 for x in mine),
                "mean": float(np.mean([x["gain"][m]["mean"] for x in mine])),
            }
            for m in ("spearman", "pearson")
        }
    return total


@click.option("--seeds", default=3)
@click.option("--runs", default=8)
@click.option("--minutes", default=600.0, help="After these, no cell is begun.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=FOLDER)
def answer(seeds: int, runs: int, minutes: float, cases: list[str], folder: Path | None) -> dict:
    folder = Path(tempfile.mkdtemp()) if folder is None else folder
    until, rows = time.time() + 60 * minutes, []
    cells = [(s, name) for s, name in product(range(seeds), cases) if s < 2 or "CNN" not in name]
    for seed, name in cells:
        row = kept(folder, f"{name.replace(' ', '_')}-{seed}-{runs}", partial(one, name, seed, runs), until)
        if row:
            rows.append(row)
            print(name, seed, *(round(row[m]["spearman"], 3) for m in ("dit", "smooth")), flush=True)
    rows.sort(key=lambda row: ([*CASES].index(row["workload"]), row["seed"]))
    found = summary(rows)
    return {"runs": runs, "kinds": over_workloads(found), "workloads": found, "rows": rows}
