"""How large is a report, how long does it take, and how soon is it on the screen?

MNIST digits, repeated with a little noise where there are not enough, a linear model, ten epochs, scores of
each epoch by `dit`, which is not timed. In headless Chromium: first paint (median of three), complaints on
the console, requests, and what axe says against the page.
"""

import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from torch import nn

import influencekit as ik
from benchmarks.shared.results import ROOT
from benchmarks.shared.timing import timed

sys.path.insert(0, str(ROOT / "tests"))
import helpers_browser as chromium  # noqa: E402

TAKES = "5 min"
QUICK = {"counts": "256"}
EPOCHS = 10


def workload(count: int) -> ik.Workload:
    few = ik.make("workload", "mnist-1v7-lr:n_train=1000")
    x, y = few.train
    rows = torch.arange(count) % len(y)
    noise = 0.1 * torch.randn(count, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 1), nn.Flatten(0))
    return ik.Workload(
        model=model, loss=few.loss, train=(x[rows] + noise, y[rows]), test=few.test,
        optimizer=ik.SGD(lr=0.01), epochs=EPOCHS, batch_size=max(64, count // 20), name=f"digits-{count}",
    )  # fmt: skip


def seen(page: Path, folder: Path) -> dict[str, object]:
    """What a browser makes of it."""
    with chromium.browser(folder) as driver:
        chromium.look(driver, 1280)
        paints = []
        for _ in range(3):
            chromium.open_page(driver, page)
            paints.append(chromium.first_paint(driver))
        return {
            "first_paint_ms": statistics.median(paints),
            "console": len(chromium.complaints(driver)),
            "requests": len(chromium.requests(driver)),
            "violations": len(chromium.violations(driver)),
        }


def row(count: int) -> dict[str, object]:
    run = ik.record(workload(count))
    scores = ik.estimate(run, windows="each-epoch")
    ik.report(run, scores)  # identity of the run, and the classes of examples, are found once
    report, seconds = timed(lambda: ik.report(run, scores))
    found = {
        "examples": count,
        "seconds": seconds,
        "mb": len(report.html.encode()) / 1e6,
        "listed": len(report.record.examples),
        "with_content": sum(one.content is not None for one in report.record.examples),
    }
    with TemporaryDirectory() as folder:
        page = report.save(Path(folder) / "report.html")
        there = chromium.CHROMIUM is not None and chromium.DRIVER is not None
        return found | (seen(page, Path(folder)) if there else {})


@click.option("--counts", default="256,1000,10000,100000", help="Numbers of training examples.")
def answer(counts: str) -> dict[str, object]:
    return {"epochs": EPOCHS, "rows": [row(int(each)) for each in counts.split(",")]}
