"""Flipped labels found from other initial parameters: does Table V depend on what the paper does not print?

    python benchmarks/initial.py

Table V's runs at 10 % flipped labels, in the setting `paper`, from PyTorch's own initial weights and from
others: of how many labels are among the most negative scores of full DIT and of its last epoch.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from influencekit_paper.reproduce.experiments import EXPERIMENTS
from machine import machine
from torch import nn

import influencekit as ik

RESULT = Path(__file__).parent / "results" / "initial.json"
FLIPPED = 0.1
CASES = [("mnist-1v7-dnn:setting=paper", 16), ("mnist-1v7-cnn:setting=paper", 6)]
STARTS = ("torch", "xavier", "kaiming")


def started(problem: ik.Workload, start: str, seed: int) -> ik.Workload:
    """The problem from other initial weights; biases are then 0."""
    problem = replace(problem)  # with a model of its own
    if start == "torch":
        return problem
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), torch.random.fork_rng():
        for module in problem.model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                if start == "xavier":
                    nn.init.xavier_uniform_(module.weight, generator=generator)
                else:
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                nn.init.zeros_(module.bias)
    return problem


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for spec, seeds in CASES:
        for start in STARTS:
            runs = []
            for seed in range(seeds):
                problem = started(ik.make("workload", spec, seed=seed), start, seed)
                found = EXPERIMENTS["detection"].run(
                    problem, seed, flipped=FLIPPED, every_epoch=False, loo=False
                )
                last = [found["each"][removal][-1]["found"] for removal in ("global", "window", "occurrence")]
                runs.append([found["accuracy"], found["found"]["full"]["found"], *last])
            names = ("accuracy", "full", "last global", "last window", "last occurrence")
            mean = dict(zip(names, np.mean(runs, 0).tolist(), strict=True))
            rows.append({"workload": spec, "start": start, "seeds": seeds, **mean})
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    report = {
        "command": "python benchmarks/initial.py",
        "machine": machine(),
        "flipped": FLIPPED,
        "rows": rows,
    }
    RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
