"""How much a removal at each step of a long run still matters at its end: warm-up, basin, ascent.

    python benchmarks/dvemb_phases.py            # writes results/dvemb_phases.json and .svg
    python benchmarks/dvemb_phases.py --draw     # only the picture, from the figures

mnist-1v7-dnn on many more examples, plain SGD. Mean |effect| on the mean test loss of dropping an example at
one step: by data value embeddings for all steps, by `dit` for all steps, and exactly (`tsloo`) for the whole
batches of some steps.
"""

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import xarray as xr
from influencekit_dvemb import embed, phases, plot_phases, scores
from machine import machine
from matplotlib.figure import Figure

import influencekit as ik

RESULTS = Path(__file__).parent / "results"
OPTIONS = {"n_train": 10240, "batch_size": 32, "epochs": 16, "lr": 0.02}
BINS, EXACT, EACH = 80, 12, 5  # bins of the curves; bins of exact effects, and steps drawn in each


def measured() -> dict:
    """Magnitudes by bin of `dvemb` and `dit`, and exact ones of some steps."""
    workload = ik.make("workload", "mnist-1v7-dnn", setting="trained", seed=0, **OPTIONS)
    run, seconds = ik.record(workload), {}
    with TemporaryDirectory() as folder:
        began = time.perf_counter()
        embeddings = embed(run, Path(folder) / "embeddings.zarr", dim=256)
        seconds["embed"] = time.perf_counter() - began
        began = time.perf_counter()
        mine = phases(scores(embeddings, "test-loss", workload), BINS)
        seconds["scores"] = time.perf_counter() - began
        features = embeddings.sizes["feature"]
    began = time.perf_counter()
    dit = phases(ik.contributions(run, "test-loss", "dit", at=[run.steps]), BINS)
    seconds["dit"] = time.perf_counter() - began
    generator, borders = np.random.default_rng(0), np.linspace(0, run.steps, EXACT + 1).astype(int)
    drawn = [generator.choice(np.arange(a, b), EACH, False) for a, b in itertools.pairwise(borders)]
    steps = sorted(int(t) for t in np.concatenate(drawn))
    began = time.perf_counter()
    windows = [ik.Window(t, t + 1, "occurrence") for t in steps]
    exact = ik.estimate(run, "test-loss", "tsloo", windows).influence.values[0]
    seconds["tsloo"] = time.perf_counter() - began
    batches = zip(steps, exact, strict=True)
    magnitudes = [float(np.abs(effects[run.plan.batch(t)]).mean()) for t, effects in batches]
    return {
        "command": "python benchmarks/dvemb_phases.py " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "options": OPTIONS,
        "accuracy": run.attrs["accuracy"],
        "steps": run.steps,
        "features": features,
        "seconds": seconds,
        "dvemb": described(mine),
        "dit": described(dit),
        "tsloo": {
            "borders": borders.tolist(),
            "step": steps,
            "magnitude": magnitudes,
        },
    }


def described(found: xr.Dataset) -> dict:
    """Magnitudes, phases and borders as plain data."""
    names = found.phase.values
    return {
        "magnitude": found.magnitude.values.tolist(),
        "start": found.start.values.tolist(),
        "stop": found.stop.values.tolist(),
        "phase": names.tolist(),
        "warm-up ends": int(found.stop.values[names == "warm-up"].max(initial=0)),
        "ascent begins": int(found.start.values[names == "ascent"].min(initial=int(found.stop[-1]))),
    }


def binned(exact: dict) -> list[float]:
    """The mean magnitude of the exact effects between two borders."""
    steps, m = np.array(exact["step"]), np.array(exact["magnitude"])
    pairs = itertools.pairwise(exact["borders"])
    return [float(m[(steps >= a) & (steps < b)].mean()) for a, b in pairs]


def draw(report: dict) -> None:
    """results/dvemb_phases.svg."""
    figure = Figure(figsize=(7.6, 4.2), layout="constrained", dpi=120)
    ax = figure.subplots()
    mine = report["dvemb"]
    coords = {k: ("bin", mine[k]) for k in ("start", "stop", "phase")}
    plot_phases(xr.Dataset({"magnitude": ("bin", mine["magnitude"])}, coords), ax)
    middle = (np.array(report["dit"]["start"]) + report["dit"]["stop"]) / 2
    ax.plot(
        middle, report["dit"]["magnitude"], "--", color="#D55E00", linewidth=1.3, label="dit (true Hessian)"
    )
    exact = report["tsloo"]
    ax.plot(exact["step"], exact["magnitude"], ".", color="0.6", label="tsloo (exact), single batches")
    ax.stairs(
        binned(exact), exact["borders"], color="black", linewidth=1.3, label="tsloo, mean of five batches"
    )
    ax.legend(frameon=False, fontsize="small", loc="upper center")
    figure.savefig(RESULTS / "dvemb_phases.svg", metadata={"Date": None, "Creator": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draw", action="store_true", help="draw the picture from the figures")
    path = RESULTS / "dvemb_phases.json"
    torch.set_num_threads(1)
    if not parser.parse_args().draw:
        path.write_text(json.dumps(measured(), indent=1) + "\n")
    draw(json.loads(path.read_text()))


if __name__ == "__main__":
    main()
