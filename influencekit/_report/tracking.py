"""Reports in the logs of experiments: scalars, and the page, for TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from influencekit._arguments import short
from influencekit._report.record import Record
from influencekit.errors import InputError

__all__ = ["log", "scalars"]

_NAME = "influence-report.html"


def scalars(record: Record, effects: np.ndarray, trust: float | None, issues: int) -> dict[str, float]:
    """What is worth a curve over many runs, by name."""
    known = effects[np.isfinite(effects)]
    found = {
        "influence/issues": float(issues),
        "influence/retrained": float(sum(one.retrained is not None for one in record.examples)),
        f"influence/{record.words.negative}": float((known < 0).sum()),
        f"influence/{record.words.positive}": float((known > 0).sum()),
        "influence/largest": float(np.abs(known).max()) if len(known) else float("nan"),
    }
    if trust is not None and np.isfinite(trust):
        found["influence/trust"] = trust
    if record.agreement is not None:
        found |= {f"influence/{n}": v for n, v, _ in record.agreement.metrics if v is not None}
    return found


def log(target: Any, values: dict[str, float], html: str, title: str, step: int | None) -> None:
    """Into whatever logs experiments, told by what it can do. Errors: it is none of the three."""
    if hasattr(target, "add_scalar") and hasattr(target, "log_dir"):  # SummaryWriter of TensorBoard
        for name, value in values.items():
            target.add_scalar(name, value, step)
        folder = Path(target.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        page = folder / (_NAME if step is None else f"influence-report-{step}.html")
        page.write_text(html, encoding="utf-8")
        target.add_text("influence/report", f"{title}: {page.name}, beside the events of this run", step)
    elif hasattr(target, "log_metrics") and hasattr(target, "log_text"):  # mlflow, or its client's run
        target.log_metrics(values, step=step)
        target.log_text(html, _NAME if step is None else f"influence-report-{step}.html")
    elif type(target).__module__.split(".")[0] == "wandb":
        page_of = sys.modules["wandb"].Html  # whose run this is, so it is there
        target.log({**values, "influence/report": page_of(html)}, step=step)
    else:
        raise InputError(
            "report: log takes a SummaryWriter of TensorBoard, the module mlflow or a run of wandb, got "
            f"{short(target)}; elsewhere, log .scalars and .html yourself"
        )
