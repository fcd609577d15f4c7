"""How much does a removal at each step of a long run matter at its end? Warm-up, basin, ascent.

mnist-1v7-dnn on many more examples, plain SGD. Mean |effect| on the mean test loss of dropping an example at
one step: by data value embeddings for all steps, by `dit` for all steps, and exactly (`tsloo`) for the whole
batches of some steps.
"""

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import xarray as xr
from influencekit_dvemb import embed, phases, plot_phases, scores
from matplotlib.figure import Figure

import influencekit as ik
from benchmarks.shared.results import RESULTS as FOLDER
from benchmarks.shared.results import load
from benchmarks.shared.timing import timed

TAKES = "10 min"
RESULTS = ("dvemb_phases.json", "dvemb_phases.svg")
OPTIONS = {"n_train": 10240, "batch_size": 32, "epochs": 16, "lr": 0.02}
QUICK = {"options": OPTIONS | {"n_train": 640, "epochs": 4}, "draws": 1}
BINS, EXACT, EACH = 80, 12, 5  # bins of the curves; bins of exact effects, and steps drawn in each


def measured(options: dict, draws: int) -> dict:
    """Magnitudes by bin of `dvemb` and `dit`, and exact ones of some steps."""
    workload = ik.make("workload", "mnist-1v7-dnn", setting="trained", seed=0, **options)
    run = ik.record(workload)
    with TemporaryDirectory() as folder:
        store = Path(folder) / "embeddings.zarr"
        embeddings, embedding = timed(lambda: embed(run, store, dim=256))
        mine, scoring = timed(lambda: phases(scores(embeddings, "test-loss", workload), BINS))
        features = embeddings.sizes["feature"]
    dit, sweeping = timed(lambda: phases(ik.contributions(run, "test-loss", "dit", at=[run.steps]), BINS))
    generator, borders = np.random.default_rng(0), np.linspace(0, run.steps, EXACT + 1).astype(int)
    drawn = [generator.choice(np.arange(a, b), draws, False) for a, b in itertools.pairwise(borders)]
    steps = sorted(int(t) for t in np.concatenate(drawn))
    windows = [ik.Window(t, t + 1, "occurrence") for t in steps]
    exact, retraining = timed(lambda: ik.estimate(run, "test-loss", "tsloo", windows).influence.values[0])
    batches = zip(steps, exact, strict=True)
    magnitudes = [float(np.abs(effects[run.plan.batch(t)]).mean()) for t, effects in batches]
    return {
        "options": options,
        "accuracy": run.attrs["accuracy"],
        "steps": run.steps,
        "features": features,
        "seconds": {"embed": embedding, "scores": scoring, "dit": sweeping, "tsloo": retraining},
        "dvemb": described(mine),
        "dit": described(dit),
        "tsloo": {"borders": borders.tolist(), "step": steps, "magnitude": magnitudes},
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


def picture(report: dict) -> None:
    """The picture, from the figures."""
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
    figure.savefig(FOLDER / "dvemb_phases.svg", metadata={"Date": None, "Creator": None})


@click.option("--draw", is_flag=True, help="Only draw the picture anew, from the figures.")
def answer(draw: bool, options: dict = OPTIONS, draws: int = EACH) -> dict:
    report = load(FOLDER / "dvemb_phases.json") if draw else measured(options, draws)
    if options is OPTIONS:
        picture(report)
    return report
