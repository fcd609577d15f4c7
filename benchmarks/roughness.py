"""How does the ceiling of an estimate fall with the learning rate and with the length of training?

Query: mean test loss. Window: the whole run. From the setting `trained` of each network, the learning rate is
multiplied at its epochs, and the epochs at its learning rate. Leave-one-out of all examples in the recorded
run, and again from starts moved by .001 of each tensor's RMS. Every cell is kept in `--folder`: a call that
was stopped goes on where it was.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

import influencekit as ik
from benchmarks.shared.processes import at_once
from benchmarks.shared.results import kept, spread
from influencekit.metrics import METRICS, agreement

TAKES = "30 min"
CASES = ("mnist-1v7-dnn", "adult-dnn", "20news-dnn", "mnist-1v7-lr")
FACTORS = (0.25, 0.5, 1.0, 2.0)
CELLS = (*((f, 1.0) for f in FACTORS), *((1.0, f) for f in FACTORS if f != 1))  # of the rate, of the epochs
MOVED = 0.001
FOLDER = Path(tempfile.gettempdir()) / "influencekit-roughness"
QUICK = {"seeds": 1, "runs": 2, "processes": 1, "cases": ["mnist-1v7-lr"], "cells": CELLS[:1], "folder": None}

Job = tuple[str, float, float, int, int, Path]


def one(job: Job) -> dict[str, Any]:
    """The figures of a cell and a seed, made or kept."""
    name, rate, length, seed, runs, folder = job
    return kept(folder, f"{name}-{rate:g}-{length:g}-{seed}-{runs}", partial(measure, *job[:-1]))


def measure(name: str, rate: float, length: float, seed: int, runs: int) -> dict[str, Any]:
    trained = ik.make("workload", name, setting="trained", seed=seed)
    lr, epochs = rate * trained.optimizer.lr, max(1, round(length * trained.epochs))
    run = ik.record(ik.make("workload", name, setting="trained", seed=seed, lr=lr, epochs=epochs))
    scores = ik.estimate(run, "test-loss", "dit").influence.values[0, 0]
    found = ik.ceiling(run, runs=runs, moved=MOVED).squeeze(["query", "window"])
    loo = torch.from_numpy(found.effects.values[0].squeeze()).double()
    spearman = {
        "again": found.agreement, "ceiling": found.ceiling.sel(target="loo"),
        "dit": agreement(torch.from_numpy(scores).double(), loo)[[*METRICS].index("spearman")],
    }  # fmt: skip
    values = {k: float(v if k == "dit" else v.sel(metric="spearman")) for k, v in spearman.items()}
    return {"lr": lr, "epochs": epochs, "accuracy": run.attrs["accuracy"], **values}


@click.option("--seeds", default=2)
@click.option("--runs", default=4)
@click.option("--processes", default=1)
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=FOLDER)
def answer(
    seeds: int, runs: int, processes: int, cases: list[str], folder: Path | None, cells: tuple = CELLS
) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp()) if folder is None else folder
    jobs = [(name, *cell, seed, runs, folder) for name in cases for cell in cells for seed in range(seeds)]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in cases}
    rows = at_once(one, jobs, processes)
    for name in cases:
        for rate, length in cells:
            each = [next(rows) for _ in range(seeds)]
            print(name, rate, length, each, flush=True)
            figures = {k: spread([row[k] for row in each]) for k in ("accuracy", "again", "ceiling", "dit")}
            about = {"rate": rate, "length": length, "lr": each[0]["lr"], "epochs": each[0]["epochs"]}
            found[name].append(about | figures)
    return {"seeds": seeds, "runs": runs, "moved": MOVED, "workloads": found}
