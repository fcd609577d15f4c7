"""Which texts made a fine-tuned Gemma 3 270M say this, does retraining agree, and what does it cost?

Adapters (LoRA) in the last blocks, AdamW with warm-up, float32, on short texts with planted ones: facts that
contradict each other, one author's style, a canary. The vocabulary is cut to the pieces that occur. Asked
for: the losses of six texts that say these things. `costs`: CPU seconds and peak memory of the loop alone,
with a tape, of opening and of a sweep. `top ten`: a training without the ten texts that helped most, of each
question; `top pieces`: without the ten pieces of texts. `lds`: scores against retrainings on random halves.
`again`: these retrainings against those from a start that is moved by a thousandth, and the ceiling.
`differences`: the scores of three texts against central differences of whole trainings; `in float64`: the
same of the same run in float64, its norms too, which Gemma else computes in float32.

Every part is kept in `--folder`: the same command goes on from there. Needs peft, transformers, gguf, the
weights, `influencekit-baselines`, traker and kronfluence.
"""

import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch
import xarray as xr

import influencekit as ik
from benchmarks.gemma.case import BATCH, EPS, LAYERS, LR, RANK, Case, optimizer
from benchmarks.gemma.texts import ASKED, KINDS, TRAIN
from benchmarks.language_model.scores import BM25
from benchmarks.shared.processes import count_the_peak_from_here
from benchmarks.shared.results import kept
from influencekit._effects.retrain import Weighting, changes
from influencekit._repeatability import attainable
from influencekit._trajectory.by_part import by_part
from influencekit.evaluation import LDS
from influencekit.metrics import spearman

TAKES = "60 min"
MOVED, STEPS, QUERY = 0.001, (0.01,), "test-losses"
DEFAULT_EPS = 1e-8  # of AdamW
SMALL = (1e-4,)  # in float64
ESTIMATORS = ("dit", "dit:centre=0.5", "grad-cos", "ekfac:labels=drawn", "trak")
FOLDER = Path(tempfile.gettempdir()) / "influencekit-gemma"


def costs(folder: Path) -> dict[str, Any]:
    """CPU seconds, and peak memory in GB, of each stage in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_costs, (folder,))


def _costs(folder: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    case = Case(folder)

    def stage(name: str, work: Callable[[], Any]) -> Any:
        count_the_peak_from_here()
        began = time.process_time()
        result = work()
        found[name] = {"seconds": time.process_time() - began, "peak_gb": _memory("VmHWM")}
        print(name, found[name], flush=True)
        return result

    with tempfile.TemporaryDirectory() as place:
        store = Path(place) / "run.zarr"
        _alone(case, stage)
        model = case.model()
        found["weights"] = sum(p.numel() for p in model.parameters())
        stage("tape", lambda: case.record(store, model))
        run = stage("open", lambda: case.open(store, model))
        stage("sweep", lambda: ik.estimate(run, "test-loss", "dit"))
        stage("sweep again", lambda: ik.estimate(run, "test-loss", "dit"))
        found["trained"] = run.workload.n_params
        found["stored_gb"] = sum(f.stat().st_size for f in store.rglob("*") if f.is_file()) / 1e9
    return found


def _alone(case: Case, stage: Callable[[str, Callable[[], Any]], Any]) -> None:
    """The loop without us; its model is gone afterwards."""
    model = stage("load", case.model)
    stage("loop", lambda: case.train(model, enumerate(case.loader()), optimizer(model)))


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e6 for line in lines if line.startswith(name))


def recorded(case: Case, folder: Path, name: str, moved: float = 0.0, eps: float = EPS) -> ik.Trajectory:
    """The run, recorded once."""
    store = folder / f"{name}.zarr"
    if not store.exists():
        case.record(store, case.model(moved), eps)
    return case.open(store, case.model(moved))


def losses(case: Case, run: ik.Trajectory) -> dict[str, Any]:
    """Before and after: the losses of the questions, the mean loss and the accuracy (the fraction of pieces
    that are rightly predicted) of the training texts."""
    train = run.workload.examples(torch.arange(len(case.data)))
    labels = train["labels"]
    found: dict[str, Any] = {name: [] for name in ("train", "accuracy", *ASKED)}
    with torch.no_grad():
        for t in (0, run.steps):
            theta = run.state(t).theta
            right = run.workload.outputs(theta, train)["logits"].argmax(-1) == labels
            found["accuracy"].append(float(right[labels >= 0].float().mean()))
            found["train"].append(float(run.workload.losses(theta, train).mean()))
            for name, value in zip(ASKED, run.workload.losses(theta, case.test).tolist(), strict=True):
                found[name].append(value)
    return found


def scores(folder: Path, run: ik.Trajectory, name: str) -> xr.Dataset:
    """Scores, computed once and kept."""

    def made() -> dict[str, Any]:
        began = time.process_time()
        found = bm25() if name == "bm25" else ik.estimate(run, QUERY, name)
        found = found.assign_attrs(seconds=time.process_time() - began)
        print(name, f"{found.attrs['seconds']:.0f} s", flush=True)
        return found.to_dict()

    def bm25() -> xr.Dataset:
        like = scores(folder, run, "dit")
        texts = [[text.lower().split() for text in part] for part in ([t for t, _ in TRAIN], ASKED.values())]
        return like.assign(
            influence=like.influence.copy(data=torch.tensor(BM25().relevance(*texts))[:, None].numpy())
        )

    return xr.Dataset.from_dict(kept(folder, f"scores-{name}".replace(":", "-"), made))


def in_float64(case: Case, folder: Path) -> dict[str, Any]:
    """`differences` of the same run in float64."""
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * (1 + self.weight)

    with mock.patch.object(Gemma3RMSNorm, "forward", forward):
        store = folder / "float64.zarr"
        if not store.exists():
            case.record(store, case.model().double())
        run = case.open(store, case.model().double())
        return differences(run, ik.estimate(run, QUERY, "dit"), SMALL)


def differences(run: ik.Trajectory, dit: xr.Dataset, steps: tuple[float, ...] = STEPS) -> dict[str, Any]:
    """The scores of three texts, one that matters much, and two others, against central differences of whole
    trainings; removal is a step of -1."""
    strength = abs(dit.influence.isel(window=0)).mean("query").values
    rows = [int(k) for k in strength.argsort()[[-1, -5, len(strength) // 2]]]
    mine = torch.from_numpy(dit.influence.values[:, 0, rows])
    gaps = {}
    for step in steps:
        values = effects(run, [Weighting(torch.tensor([k]), 1 + s * step) for k in rows for s in (1, -1)])
        slopes = (values[:, 1::2] - values[:, ::2]) / (2 * step)
        gaps[f"{step:g}"] = ((slopes - mine).norm(dim=0) / mine.norm(dim=0)).tolist()
        print("differences", step, gaps[f"{step:g}"], flush=True)
    return {"texts": [TRAIN[k][0] for k in rows], "gaps": gaps}


def effects(run: ik.Trajectory, weightings: list[Weighting]) -> torch.Tensor:
    """What these trainings change of the questions' losses [question, training]."""
    query, windows = ik.make("query", QUERY), [ik.Window(0, run.steps)]
    values = torch.zeros(len(ASKED), len(weightings), dtype=run.workload.dtype)
    for change in changes(run, query, weightings, windows):
        values[:, change.models.members] = change.values
    return values


def top_ten(run: ik.Trajectory, dit: xr.Dataset) -> dict[str, Any]:
    """Of each question the ten texts that helped most, and a training without them."""
    scores = torch.from_numpy(dit.influence.values[:, 0])
    tens = scores.topk(10).indices
    retrained = effects(run, [Weighting(ten) for ten in tens]).diagonal()
    return {
        name: {
            "texts": [TRAIN[k][0] for k in ten.tolist()],
            "planted": [TRAIN[k][1] == name for k in ten.tolist()],
            "of": len(KINDS[name]), "estimate": float(mine[ten].sum()), "retrained": float(after),
        }
        for name, mine, ten, after in zip(ASKED, scores, tens, retrained, strict=True)
    }  # fmt: skip


def top_pieces(case: Case, run: ik.Trajectory) -> dict[str, Any]:
    """Of each question the ten pieces of texts that helped most, and a training without them."""
    found = ik.estimate(run, QUERY, "dit", parts=True).influence.values[:, 0]
    by_piece = by_part(run)
    number = by_piece.found.number
    pieces = [case.names(row) for row in case.data]
    result = {}
    tens = [torch.from_numpy(mine.flatten()).nan_to_num(-math.inf).topk(10).indices for mine in found]
    places = [[divmod(k, found.shape[2]) for k in ten.tolist()] for ten in tens]
    sets = [torch.stack([number[place] for place in ten]) for ten in places]
    retrained = effects(by_piece.retrained(), [Weighting(ten) for ten in sets]).diagonal()
    for name, mine, ten, after in zip(ASKED, found, places, retrained, strict=True):
        result[name] = {
            "pieces": [{"text": TRAIN[j][0], "position": p, "piece": pieces[j][p]} for j, p in ten],
            "estimate": float(sum(mine[place] for place in ten)), "retrained": float(after),
        }  # fmt: skip
    return result


def lds(folder: Path, run: ik.Trajectory, sets: int) -> dict[str, Any]:
    """The linear datamodeling score of every estimator, by question, and its interval of the mean."""
    names = (*ESTIMATORS, "bm25")
    every = {name: scores(folder, run, name) for name in names}
    none = 0 * every["dit"].influence.isel(train=0, drop=True)
    parts = [
        one.assign(intercept=one.get("intercept", none)).expand_dims(estimator=[name])
        for name, one in every.items()
    ]
    joined = xr.concat(parts, "estimator", combine_attrs="drop_conflicts")
    found = ik.evaluate(run, LDS(m=sets), QUERY, scores=joined, subsets=folder / "halves")
    found = found[f"lds:m={sets}"].isel(window=0)
    rows = {
        name: {
            "mean": float(one["mean"]), "low": float(one["mean_low"]), "high": float(one["mean_high"]),
            "by question": dict(zip(ASKED, one.lds.values.tolist(), strict=True)),
            "seconds": every[name].attrs["seconds"],
        }
        for name in names
        for one in [found.sel(estimator=name)]
    }  # fmt: skip
    return {"estimators": rows, "retrained": found.retrained.values.tolist()}


def again(case: Case, folder: Path, truth: list[list[float]], sets: int) -> dict[str, Any]:
    """The first of these sets from a start that is moved, and what the expected effect would reach against
    one run."""
    run = recorded(case, folder, "moved", MOVED)
    one = ik.estimate(run, QUERY, "final-loss").expand_dims(estimator=["final-loss"])
    found = ik.evaluate(run, LDS(m=sets), QUERY, scores=one, subsets=folder / "moved-halves")
    other = torch.from_numpy(found[f"lds:m={sets}"].retrained.values[:, 0])
    agreement = spearman(torch.tensor(truth).to(other)[:, :sets], other)
    ceiling = attainable("spearman", agreement, 1)
    return {"moved": MOVED, "sets": sets, "agreement": agreement.tolist(), "ceiling": float(ceiling.mean())}


def default_eps(case: Case, folder: Path, sets: int) -> dict[str, Any]:
    """`losses` and `lds` of the run with AdamW's default eps."""
    folder = folder / "default-eps"
    run = recorded(case, folder, "recorded", eps=DEFAULT_EPS)
    found = lds(folder, run, sets)["estimators"]
    return {"eps": DEFAULT_EPS, "sets": sets, "losses": losses(case, run), "estimators": found}


@click.option("--sets", default=24, help="Random halves that the run is retrained on.")
@click.option("--minutes", default=600.0, help="After these, no part is begun.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=FOLDER)
def answer(sets: int, minutes: float, folder: Path) -> dict[str, Any]:
    until = time.time() + 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    case = Case(folder)
    run = recorded(case, folder, "recorded")
    dit = scores(folder, run, "dit")
    halves = kept(folder, f"lds-{sets}", lambda: lds(folder, run, sets), until)
    truth = halves.pop("retrained", None)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "losses": lambda: losses(case, run),
        "top ten": lambda: top_ten(run, dit),
        "top pieces": lambda: top_pieces(case, run),
        "default eps": lambda: default_eps(case, folder, sets),
        "again": lambda: again(case, folder, truth, sets // 2),
        "differences": lambda: differences(run, dit),
        "in float64": lambda: in_float64(case, folder),
        "costs": lambda: costs(folder),
    }
    found = {
        "texts": len(TRAIN), "kinds": {k: len(v) for k, v in KINDS.items()}, "tokens": case.length,
        "batch": BATCH, "steps": run.steps, "rank": RANK, "blocks": LAYERS, "lr": LR, "eps": EPS,
        "sets": sets, "pieces": len(case.pieces), "trained": run.workload.n_params, "lds": halves,
    }  # fmt: skip
    for name, make in parts.items():
        count = f"-{sets}" if name in ("default eps", "again") else ""
        if name != "again" or truth is not None:
            found[name] = kept(folder, name.replace(" ", "-") + count, make, until)
    return {name: value for name, value in found.items() if value != {}}
