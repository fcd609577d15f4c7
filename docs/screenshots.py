"""Make the pictures of docs/report.md: `python docs/screenshots.py`. Needs chromium and chromium-driver.

The run is MNIST, ones against sevens, with 16 of 256 labels turned round.
"""

import io
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

import influencekit as ik

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from helpers_browser import browser, look, open_page  # noqa: E402

SHOTS = {"report-examples": (1000, "light", "#examples", 900), "report-when": (1000, "dark", "#when", 760)}


def report() -> ik.Report:
    work = ik.make("workload", "mnist-1v7-dnn", setting="trained")
    inputs, target = work.train
    turned = torch.where(torch.arange(len(target)) < 16, 1 - target, target)
    run = ik.record(replace(work, train=(inputs, turned)))
    scores = ik.estimate(run, windows="each-epoch")
    whole = ik.estimate(run)
    retrained = [ik.verify_top(run, "test-loss", whole, 20, which) for which in ("harmful", "helpful")]
    return ik.report(run, scores, retrained, ik.trust(run, "test-loss", whole), points=16)


def main() -> None:
    found = report()
    with TemporaryDirectory() as folder, browser(Path(folder)) as driver:
        page = found.save(Path(folder) / "report.html")
        for name, (width, scheme, where, height) in SHOTS.items():
            look(driver, width, height, scheme)
            open_page(driver, page)
            driver.execute_script("document.querySelector(arguments[0]).scrollIntoView()", where)
            picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
            picture.quantize(64).save(HERE / "screenshots" / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
