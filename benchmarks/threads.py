"""Do calls in several threads give the bits of the same calls in a row?

Every verb, estimators and single states, on runs that the threads share and on runs of their own, some calls
that fail, and tapes. While a tape is open, calls in other threads are refused by name; they are made again
until they are not. What torch keeps for the process must be as it was before, whatever failed meanwhile.
"""

import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import xarray as xr
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from benchmarks.shared.results import machine

TAKES = "2 min"
QUICK = {"calls": 20}

SEEDS = (0, 1)
ESTIMATORS = ("dit", "dit:curvature=fisher", "if", "sgd-influence", "loo")
REFUSED = "that all threads share"


class Attentive(nn.Module):
    """What torch has process-wide switches for: attention, a recurrent layer, checkpoints, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.recurrent = nn.LSTM(8, 8, batch_first=True)
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> Any:
        found = self.recurrent(checkpoint(self.attention, x, use_reentrant=False))[0]
        return self.head(self.norm(found[:, -1]))


def _data() -> TensorDataset:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(16, 3, 8, generator=draw)
    return TensorDataset(x, (x[:, 0, 0] > 0).long())


def _seeded(model: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(2)
        return model()


ATTENTIVE = _seeded(Attentive)  # drawn here, since whatever draws from torch's generator is of one thread
PLAIN = _seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(24, 2)))
LOSS = nn.CrossEntropyLoss(reduction="none")


def _taped(path: Path | None) -> ik.Tape:
    """A loop that draws shuffles and dropout from torch's own generator."""
    model = deepcopy(ATTENTIVE)
    optimizer, data = torch.optim.SGD(model.parameters(), lr=0.05), _data()
    tape = ik.Tape(path, model, optimizer, loss=LOSS, data=data, recorder="every-k:k=2", check=0.2)
    with tape, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        loader = DataLoader(data, batch_size=4, shuffle=True)
        for _, (x, y) in tape.batches(loader):
            optimizer.zero_grad()
            LOSS(model(x), y).mean().backward()
            optimizer.step()
    return tape


def calls(folder: Path) -> dict[str, Callable[[], Any]]:
    """What the threads call, by name; the runs that they share are made here."""
    specs = ["mnist-1v7-lr:n_train=16:epochs=2", "mnist-1v7-dnn:n_train=16:epochs=2"]
    works = [ik.make("workload", spec) for spec in specs]
    runs = [ik.record(work, "every-k:k=2", folder / f"{k}.zarr") for k, work in enumerate(works)]
    runs.append(_taped(folder / "taped.zarr").trajectory(test=_data()))
    found: dict[str, Callable[[], Any]] = {}
    for k, run in enumerate(runs):
        for name in ESTIMATORS[: 5 if k < 2 else 1]:
            windows = None if name in ("if", "sgd-influence") else "each-epoch"
            found[f"estimate {k} {name}"] = partial(ik.estimate, run, "test-loss", name, windows)
        found[f"verify {k}"] = partial(ik.verify, run)
        found[f"state {k}"] = lambda run=run: run.state(run.last - 1).theta
        found[f"losses {k}"] = lambda run=run: run.workload.losses(run.final.theta, run.workload.test)
        found[f"contributions {k}"] = partial(ik.contributions, run)
    for k, (spec, work) in enumerate(zip(specs, works, strict=True)):
        found[f"make {k}"] = lambda spec=spec: ik.make("workload", spec).theta0
        found[f"record {k}"] = lambda work=work: ik.record(work, "full").dataset.theta
        found[f"open {k}"] = lambda work=work, k=k: ik.open(folder / f"{k}.zarr", work).final.theta
        found[f"gradient {k}"] = lambda run=runs[k]: run.step.gradient(
            run.state(0), run.step.coefficients(0)
        )[0]
    found["compare"] = partial(ik.compare, specs[0], ["dit", "if"], seeds=SEEDS)
    found["evaluate"] = lambda: ik.evaluate(runs[0], "lds:m=8")["lds:m=8"]
    found["remove"] = lambda: ik.remove(runs[0], ids=runs[0].workload.train_ids[:2])
    found["verify_top"] = partial(ik.verify_top, runs[0], top=2)
    found["trust"] = partial(ik.trust, runs[0], examples=4)
    found["tape"] = lambda: _taped(None).trajectory(test=_data()).final.theta
    found["fails"] = partial(ik.estimate, runs[1], "test-loss", "dit", [ik.Window(0, 99)])
    found["diverges"] = lambda: ik.record(_workload(PLAIN, 1e38))
    found["is random"] = lambda: ik.record(_workload(ATTENTIVE, 0.1))
    found["trains"] = lambda: ik.record(_workload(PLAIN, 0.1)).final.theta
    return found


def _workload(model: nn.Module, lr: float) -> ik.Workload:
    data = _data().tensors
    return ik.Workload(
        model=model, loss=LOSS, train=data, test=data, optimizer=ik.SGD(lr=lr), batch_size=4, epochs=2
    )


def digest(call: Callable[[], Any]) -> str:
    """What it gives, as a digest; or the error."""
    while True:
        try:
            found = call()
        except ik.InfluenceKitError as error:
            if REFUSED in str(error):
                REFUSALS.append(threading.current_thread().name)
                time.sleep(0.01)
                continue
            return f"{type(error).__name__}: {error}"
        if isinstance(found, xr.Dataset):
            names = sorted(n for n in found.variables if "seconds" not in n)
            parts = [np.asarray(found[n].values) for n in names]
        else:
            parts = [np.asarray(found.values if isinstance(found, xr.DataArray) else found)]
        text = [repr(p.tolist()).encode() if p.dtype.kind not in "fiub" else p.tobytes() for p in parts]
        return sha256(b"".join(text)).hexdigest()


REFUSALS: list[str] = []


def switches() -> dict[str, Any]:
    """What torch and Python keep for the process."""
    import warnings

    from torch.utils import checkpoint as module

    return {
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "oneDNN": torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled(),
        "attention": (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()),
        "checkpoints": module._checkpoint_without_reentrant_generator,
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "generator": torch.get_rng_state().numpy().tobytes(),
        "warnings": list(warnings.filters),
    }


@click.option("--calls", default=200, help="In all threads together.")
@click.option("--threads", default=4)
@click.option("--seed", default=0)
def answer(calls: int, threads: int, seed: int) -> dict:
    REFUSALS.clear()
    with tempfile.TemporaryDirectory() as folder:
        known = _calls(Path(folder))
        draw = random.Random(seed)
        names = [name for _ in range(-(-calls // len(known))) for name in draw.sample([*known], len(known))]
        expected = {name: digest(known[name]) for name in dict.fromkeys(names[:calls])}
        before = switches()
        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(lambda name: digest(known[name]), names[:calls]))
        seconds = time.perf_counter() - began
        changed = [k for k, v in switches().items() if v != before[k]]
    wrong = [name for name, value in zip(names, found, strict=False) if value != expected[name]]
    return {
        "command": f"python -m benchmarks threads --calls {calls} --threads {threads}",
        "machine": machine(), "calls": len(found), "threads": threads, "kinds": len(expected),
        "wrong": dict(Counter(wrong)), "switches_changed": changed,
        "refused_while_a_tape_was_open": len(REFUSALS), "seconds": round(seconds, 1),
        "failed_as_they_should": sum(": " in value for value in found),
    }  # fmt: skip


_calls = calls


def wrong(report: dict) -> list[str]:
    return [*(f"{n} calls of {name} gave other bits" for name, n in report["wrong"].items()),
            *(f"{name} was changed" for name in report["switches_changed"])]  # fmt: skip
