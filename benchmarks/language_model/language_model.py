"""How well do scores foretell retraining of a small language model that AdamW trained?

A causal transformer learns the next piece in newsgroup posts, in batches of 64 and of 16. Asked for: the mean
test loss, and the losses of single test sequences. Linear datamodeling score (LDS) of random halves and of
random sets of 90 %: Spearman's correlation of summed scores with what retraining gives. `again`: two
retrainings of the same sets, one from a start that is moved by a thousandth; `ceiling`: what the expected
effect would reach against one run. `other seed`: the scores of one run against retrainings with another start
and order of batches.

Scores and retrained models are kept in `--folder`: the same command goes on from there. Needs
`influencekit-baselines[trak,ekfac]`.
"""

import hashlib
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import xarray as xr

import influencekit as ik
from benchmarks.language_model.case import MOVED, RUNS, Size, problem
from benchmarks.language_model.model import unigram_loss
from benchmarks.language_model.scores import BM25, SingleLosses
from benchmarks.language_model.text import PIECES
from benchmarks.shared.results import each, load, save
from influencekit._repeatability import attainable
from influencekit.evaluation import LDS
from influencekit.metrics import spearman

TAKES = "80 min"
CASES = ("batch-64", "batch-16")
MERGES = True
QUERIES: dict[str, ik.Query | str] = {"mean test loss": "test-loss", "single sequences": SingleLosses()}
FRACTIONS = {"halves": 0.5, "sets of 90 %": 0.9}
ESTIMATORS: dict[str, ik.Estimator | str] = {
    **{name: name for name in ("dit", "dit:centre=0.5", "dit:centre=0.9", "dit:curvature=gauss-newton")},
    **{f"ekfac:damping={d}": f"ekfac:labels=drawn:damping={d}" for d in ("none", "0.1", "0.01", "0.001")},
    **{f"trak:damping={d}": f"trak:damping={d}" for d in ("none", "0.1", "0.01", "0.001")},
    "grad-cos": "grad-cos", "bm25": BM25(), "final loss": "final-loss",
}  # fmt: skip
FULL = Size()
SMALL = Size(train=64, test=8, length=8, width=16, heads=2, epochs=3)
QUICK = {
    "sets": 10, "folder": None, "size": SMALL,
    "estimators": {k: v for k, v in ESTIMATORS.items() if k in ("dit", "dit:centre=0.5", "grad-cos", "bm25")},
}  # fmt: skip
FOLDER = Path(tempfile.gettempdir()) / "influencekit-language-model"


def case(name: str, size: Size, sets: int, folder: Path, estimators: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one batch size."""
    batch = int(name.removeprefix("batch-"))
    place = folder / f"{name}-{hashlib.sha256(repr(size).encode()).hexdigest()[:8]}"
    place.mkdir(parents=True, exist_ok=True)
    evaluations = {words: LDS(m=sets, fraction=fraction) for words, fraction in FRACTIONS.items()}
    fits, seconds, found = {}, {}, {query: {} for query in QUERIES}
    for which, changes in RUNS.items():
        began = time.process_time()
        run = ik.record(problem(size, batch, **changes))
        seconds.setdefault("record", time.process_time() - began)
        fits[which] = losses(run)
        for words, query in QUERIES.items():
            scores = {}
            for method, estimator in estimators.items() if which == "recorded" else [("random", "random")]:
                file = place / f"{which}-{words}-{method}.json".replace(" ", "-")
                scores[method] = scored(file, run, query, estimator)
            began, fresh = time.process_time(), not (place / which).exists()
            found[words][which] = ik.evaluate(
                run, evaluations, query, scores=joined(scores), subsets=place / which
            )
            if fresh:
                save(place / f"{which}.json", {"retraining": time.process_time() - began})
            print(name, which, words, f"{time.process_time() - began:.0f} s", flush=True)
            if which == "recorded":
                for method, one in scores.items():
                    seconds[method] = seconds.get(method, 0.0) + one.attrs["seconds"]
    spent = [load(place / f"{which}.json").get("retraining", np.nan) for which in RUNS]
    seconds["one retraining"] = float(np.mean(spent)) / (sets * len(FRACTIONS))
    return {
        "batch": batch, "steps": run.steps, "parameters": run.workload.n_params, "losses": fits,
        "seconds": seconds,
        "queries": {
            words: {part: figures({k: v[part] for k, v in one.items()}) for part in FRACTIONS}
            for words, one in found.items()
        },
    }  # fmt: skip


def losses(run: ik.Trajectory) -> dict[str, float]:
    """The mean losses of a run in nats a piece, and that of foretelling each piece by its frequency."""
    workload = run.workload
    with torch.no_grad():
        mean = {
            f"{part}, {when}": float(workload.losses(run.state(t).theta, data).mean())
            for when, t in (("before", 0), ("after", run.steps))
            for part, data in (("train", workload.train), ("test", workload.test))
        }
    return mean | {"unigram": unigram_loss(workload.train[1], workload.test[1], PIECES)}


def scored(
    file: Path, run: ik.Trajectory, query: ik.Query | str, estimator: ik.Estimator | str
) -> xr.Dataset:
    """Scores, computed once and kept; `seconds` of CPU time among their attributes."""
    if not file.exists():
        began = time.process_time()
        found = ik.estimate(run, query, estimator)
        save(file, found.assign_attrs(seconds=time.process_time() - began).to_dict())
        print(file.stem, f"{time.process_time() - began:.0f} s", flush=True)
    return xr.Dataset.from_dict(load(file))


def joined(scores: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """The scores of several estimators, along `estimator`, each with its intercept or with 0."""
    parts = []
    for name, one in scores.items():
        none = 0 * one.influence.isel(train=0, drop=True)
        parts.append(one.assign(intercept=one.get("intercept", none)).expand_dims(estimator=[name]))
    return xr.concat(parts, "estimator", combine_attrs="drop_conflicts")


def figures(found: Mapping[str, xr.Dataset]) -> dict[str, Any]:
    """What is told of the sets of one fraction, from the LDS of every run; means over queries."""
    own = found["recorded"].isel(window=0)
    truth = {which: torch.tensor(one.retrained.values[:, 0]) for which, one in found.items()}
    assert all((one.left_out.values == own.left_out.values).all() for one in found.values())
    again = {which: spearman(truth["recorded"], truth[which]) for which in found if which != "recorded"}
    ceiling = float(attainable("spearman", again["moved"], 1).mean())
    deviation = float(own.retrained.std("subset").mean())
    return {
        "effect": {"mean": float(own.retrained.mean()), "deviation over sets": deviation},
        "again": {which: float(values.mean()) for which, values in again.items()},
        "ceiling": ceiling,
        "estimators": {
            name: {
                "lds": float(one["mean"]),
                "low": float(one["mean_low"]),
                "high": float(one["mean_high"]),
                "of ceiling": float(one["mean"]) / ceiling,
                "other seed": float(spearman(torch.tensor(one.predicted.values), truth["other seed"]).mean()),
            }
            for name in own.estimator.values.tolist()
            for one in [own.sel(estimator=name)]
        },
    }  # fmt: skip


@click.option("--sets", default=100, help="Of each of the two kinds, for each run.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=FOLDER)
def answer(
    sets: int, folder: Path | None, cases: list[str], size: Size = FULL,
    estimators: Mapping[str, ik.Estimator | str] = ESTIMATORS,
) -> dict:  # fmt: skip
    folder = Path(tempfile.mkdtemp()) if folder is None else folder
    return {
        "sets": sets, "moved": MOVED, "pieces": PIECES, "size": vars(size),
        "cases": each(cases, lambda name: case(name, size, sets, folder, estimators)),
    }  # fmt: skip
