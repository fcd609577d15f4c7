"""Does `suspects` find wrong labels as well as the best single score, and does it know how well it does?

Wrong labels are put into clean data: random ones; or class-dependent ones, where of two classes three of four
wrong labels are of the same class, and of more classes each goes to one neighbour. Of the regression (the
diabetes table of scikit-learn) targets change places. For every score, the combination, and the one that
`suspects` chose: precision among as many as are wrong, and AUC. Expected precision there, and the expected
number of wrong labels, beside the truth. `cifar` needs `--data`, an .npz file as of `wrong_labels_cnn`;
`minilm` what the question `minilm` needs. A cell is a task, a fraction, a kind and a seed: it is kept in
`--folder`, and a call that was stopped continues where it was.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn

import influencekit as ik
from benchmarks.shared.larger import larger, pool_size
from benchmarks.shared.photographs import photographs
from benchmarks.shared.results import kept, spread
from benchmarks.shared.targets import target_of, with_target
from influencekit.evaluation import detection

TAKES = "3 hours"
MERGES = True
CASES = ("mnist", "kmnist", "cifar", "adult", "20news", "minilm", "diabetes")
FRACTIONS, KINDS = (0.03, 0.1, 0.2), ("random", "class-dependent")
TRAIN, TRUSTED = 1000, 10_000
FOLDER = Path(tempfile.gettempdir()) / "influencekit-suspects"
QUICK = {
    "seeds": 1,
    "cases": ["adult"],
    "fractions": (0.1,),
    "kinds": KINDS[:1],
    "folder": None,
    "repeats": 2,
}


def bundled(case: str) -> Callable[..., ik.Workload]:
    """1,000 examples of the pool are trained on, or two thirds; up to 10,000 of the others are trusted."""

    def made(seed: int, data: Path | None) -> ik.Workload:
        pool = pool_size(case)
        trusted = min(max(pool // 3, pool - TRAIN), TRUSTED)
        workload = larger(case, seed, min(pool - trusted, TRAIN), trusted)
        return replace(workload, test=workload.validation, test_ids=None, validation=None)

    return made


def cifar(seed: int, data: Path | None) -> ik.Workload:
    """1,000 images of two classes, Adam, eight epochs; 500 trusted ones."""
    return photographs(data, seed, train=1000, test=500)


def minilm(seed: int, data: Path | None) -> ik.Workload:
    """The last layer of MiniLM on the hardware newsgroups, AdamW; the validation set is trusted."""
    from benchmarks.minilm.last_layer import last_layer

    workload = last_layer(seed)
    return replace(workload, test=workload.validation)


def diabetes(seed: int, data: Path | None) -> ik.Workload:
    """A network of 32 units on 300 rows of ten numbers; the other 142 are trusted."""
    from sklearn.datasets import load_diabetes

    x, y = (torch.tensor(a, dtype=torch.float32) for a in load_diabetes(return_X_y=True))
    x, y = x / x.std(0), (y - y.mean()) / y.std()
    torch.manual_seed(seed)
    train, test = torch.randperm(len(y)).split([300, 142])
    return ik.Workload(
        model=nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0)),
        loss=lambda outputs, y: (outputs - y) ** 2, train=(x[train], y[train]), test=(x[test], y[test]),
        optimizer=ik.SGD(lr=0.02), epochs=30, batch_size=32, seed=seed, name="diabetes",
    )  # fmt: skip


TASKS: dict[str, Callable[..., ik.Workload]] = {
    "mnist": bundled("mnist-1v7-dnn"), "kmnist": bundled("kmnist-dnn"), "cifar": cifar,
    "adult": bundled("adult-dnn"), "20news": bundled("20news-dnn"), "minilm": minilm, "diabetes": diabetes,
}  # fmt: skip


def corrupted(work: ik.Workload, fraction: float, kind: str, seed: int) -> tuple[ik.Workload, np.ndarray]:
    """The workload with wrong targets, and whose they are [train]."""
    y = target_of(work)
    generator = np.random.default_rng((seed, 11))
    n, count = len(y), round(fraction * len(y))
    if work.name == "diabetes":
        chosen = generator.permutation(n)[:count]
        wrong = y[torch.from_numpy(np.roll(chosen, 1))]
    else:
        classes, own = torch.unique(y, return_inverse=True)
        weight = np.ones(n)
        if kind == "class-dependent" and len(classes) == 2:
            weight = np.where(own.reshape(-1).numpy() == seed % 2, 3.0, 1.0)
        chosen = generator.choice(n, count, replace=False, p=weight / weight.sum())
        random = torch.from_numpy(generator.integers(1, len(classes), count))
        further = torch.ones_like(random) if kind == "class-dependent" else random
        wrong = classes[(own[torch.from_numpy(chosen)].reshape(-1) + further) % len(classes)]
    changed = y.clone()
    changed[torch.from_numpy(chosen)] = wrong.reshape(changed[torch.from_numpy(chosen)].shape)
    mask = np.zeros(n, dtype=bool)
    mask[chosen] = True
    return with_target(work, changed), mask


def cell(task: str, fraction: float, kind: str, seed: int, data: Path | None, repeats: int) -> dict[str, Any]:
    """One run: what every score finds, and what `suspects` said of it."""
    clean = TASKS[task](seed, data)
    work, wrong = corrupted(clean, fraction, kind, seed)
    run, count = ik.record(work), int(wrong.sum())
    found = ik.suspects(run, repeats=repeats, verify=0, seed=seed)
    by = {}
    for name in found.by.values.tolist():
        one = detection(found.score.sel(by=name), wrong)
        by[name] = {"precision": float(one.found) / count, "auc": float(one.auc)}
    at = found.sel(k=count)
    return {
        "accuracy": run.attrs["accuracy"],
        "lead": found.attrs["lead"],
        "by": {**by, "suspects": by[found.attrs["lead"]]},
        "expected": {n: float(at[f"expected_{n}"]) for n in ("precision", "low", "high")},
        "issues": {n: float(found[n]) for n in ("issues", "issues_low", "issues_high")},
        "wrong": count,
        "verdict": found.verdict,
    }


def summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and how often the expectation was right."""
    names = list(cells[0]["by"])
    truth = np.array([each["by"]["suspects"]["precision"] for each in cells])
    hope = np.array([[each["expected"][n] for n in ("precision", "low", "high")] for each in cells])
    issues = np.array(
        [[each["issues"][n] for n in ("issues", "issues_low", "issues_high")] for each in cells]
    )
    wrong = np.array([each["wrong"] for each in cells])
    return {
        "seeds": len(cells),
        "accuracy": spread([np.nan if (a := each["accuracy"]) is None else a for each in cells]),
        "leads": [each["lead"] for each in cells],
        "by": {
            n: {
                m: spread([each["by"][n][m] for each in cells if n in each["by"]])
                for m in ("precision", "auc")
            }
            for n in names
        },
        "expected_precision": float(hope[:, 0].mean()),
        "within_5_points": float((np.abs(hope[:, 0] - truth) <= 0.05).mean()),
        "interval_covers": float(((hope[:, 1] <= truth) & (truth <= hope[:, 2])).mean()),
        "issues": float(issues[:, 0].mean()),
        "wrong": float(wrong.mean()),
        "issues_cover": float(((issues[:, 1] <= wrong) & (wrong <= issues[:, 2])).mean()),
    }


@click.option("--data", type=click.Path(path_type=Path, exists=True), help="The .npz file of images.")
@click.option("--seeds", default=5)
@click.option("--repeats", default=4, help="Plantings.")
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, help="What is done is kept here.")
def answer(
    data: Path | None, seeds: int, repeats: int, folder: Path | None, cases: tuple[str, ...] = CASES,
    fractions: tuple[float, ...] = FRACTIONS, kinds: tuple[str, ...] = KINDS,
) -> dict[str, Any]:  # fmt: skip
    place = Path(tempfile.mkdtemp()) if folder is None else folder
    tasks: dict[str, Any] = {}
    for task in cases:
        found = {}
        for fraction, kind in product(fractions, kinds if task != "diabetes" else kinds[:1]):
            cells = [
                kept(
                    place, f"{task}-{fraction:g}-{kind}-{seed}-{repeats}",
                    lambda task=task, f=fraction, k=kind, seed=seed: cell(task, f, k, seed, data, repeats),
                )
                for seed in range(seeds)
            ]  # fmt: skip
            found[f"{100 * fraction:g} % {kind}"] = summary(cells)
            print(task, f"{fraction:g}", kind, found[f"{100 * fraction:g} % {kind}"], flush=True)
        tasks[task] = found
    return {
        "setting": "setting trained; verify 0. 1,000 examples are trained on (newsgroups 779, diabetes 300, "
        "MiniLM 256), and 10,000 others trusted (KMNIST 999, CIFAR 500, newsgroups 389, MiniLM 256, diabetes "
        "142); of MiniLM the last layer and the head are trained",
        "repeats": repeats,
        "tasks": tasks,
    }
