"""Which cells a table is made of: its rows, and for each of them a cell for every seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influencekit.errors import InputError
from influencekit_paper.reproduce.cells import Cell
from influencekit_paper.reproduce.vit import digest_of

__all__ = ["FLIPPED", "PLANS", "Extent", "Images", "Row", "Rows", "in_order"]

FLIPPED = (0.05, 0.1, 0.15, 0.2)
FLIPPED_OF_POOL = (0.1, 0.2, 0.3)  # of Table VI, where the paper flips 100 to 300 of 1,000
# EMNIST is not bundled; what stands in its place is another set of hand-written letters
DATA = {"adult": "adult", "20news": "20news", "mnist": "mnist-1v7", "emnist": "kmnist"}
SMALL = [(model, data) for model in ("lr", "dnn") for data in DATA]
LARGE = [("cnn", "mnist"), ("cnn", "emnist")]
# at the paper's learning rate the dnn hardly trains, so that even retraining finds few flipped labels
SETTINGS = [("lr", "paper"), ("dnn", "paper"), ("dnn", "trained"), ("cnn", "paper")]

Row = tuple[str, ...]  # such as ("lr", "adult")
Rows = Mapping[Row, list[Cell]]


@dataclass(frozen=True)
class Images:
    """What Table VI is run on: `data`, .npz files of two classes each; `weights`, the folder of a pre-trained
    vision transformer; `examples` of them, resized to `size` pixels a side."""

    data: tuple[str, ...] = ()
    weights: str = ""
    examples: int = 240
    size: int = 28


@dataclass(frozen=True)
class Extent:
    """How much is run: `seeds`, and of the CNN `cnn_seeds` (None: as many).

    `quick`: leave-one-out of the CNN on one seed and a sixteenth of the examples. `ceiling`: Tables II and
    III also say how well leave-one-out agrees with itself over `ceiling_runs` runs moved by this fraction.
    `images`: what Table VI is run on.
    """

    seeds: int = 16
    quick: bool = False
    device: str = "cpu"
    cnn_seeds: int | None = None
    ceiling: float | None = None
    ceiling_runs: int = 8
    images: Images = Images()

    def of(self, model: str) -> int:
        """How many seeds of a model are run."""
        return self.cnn_seeds if model == "cnn" and self.cnn_seeds is not None else self.seeds

    def retrained(self) -> tuple[int, int]:
        """Seeds and examples (0: all) of leave-one-out of the CNN: all on a GPU, a part on a CPU."""
        seeds = self.of("cnn")
        if self.quick:
            return min(1, seeds), 16
        return (seeds, 0) if self.device == "cuda" else (min(2, seeds), 64)


def spec(model: str, data: str, setting: str = "paper") -> str:
    """The workload of a model and a data set as the paper calls them."""
    return f"{DATA[data]}-{model}:setting={setting}"


def table1(extent: Extent) -> Rows:
    """Patterns by model and data set."""
    return {(m, d): _cells("patterns", spec(m, d), extent.of(m)) for m, d in SMALL + LARGE}


def table2(extent: Extent) -> Rows:
    """Agreement with leave-one-out by model and data set; its ceiling, where that is asked for."""
    some = [(m, d) for m, d in SMALL if d != "emnist"]
    rows: dict[Row, list[Cell]] = {(m, d): _cells("agreement", spec(m, d), extent.seeds) for m, d in some}
    return rows | _ceilings("ceiling", some, extent)


def table3(extent: Extent) -> Rows:
    """Agreement by pattern, of one problem; its ceiling, where that is asked for."""
    rows = {("dnn", "mnist"): _cells("by-pattern", spec("dnn", "mnist"), extent.seeds)}
    return rows | _ceilings("ceiling-by-pattern", [("dnn", "mnist")], extent)


def table4(extent: Extent) -> Rows:
    """Stages by model and data set."""
    return {(m, d): _cells("stages", spec(m, d), extent.seeds) for m, d in SMALL}


def table5(extent: Extent) -> Rows:
    """Flipped labels by model, setting and fraction flipped; leave-one-out of the CNN by itself."""
    rows: dict[Row, list[Cell]] = {}
    for model, setting in SETTINGS:
        for fraction in FLIPPED:
            name, key = spec(model, "mnist", setting), (model, setting, f"{fraction:.0%}")
            more: dict[str, Any] = {"every_epoch": False, "loo": False} if model == "cnn" else {}
            rows[key] = _cells("detection", name, extent.of(model), flipped=fraction, **more)
            if model == "cnn":
                seeds, examples = extent.retrained()
                rows[(*key, "loo")] = _cells("retraining", name, seeds, flipped=fraction, examples=examples)
    return rows


def seeds(extent: Extent) -> Rows:
    """The runs of Table I once more, on the same examples: in another order, from another start, both."""
    rows: dict[Row, list[Cell]] = {}
    for model, data in SMALL:
        for again in ("", "order", "start", "both"):
            rows[model, data, again or "first"] = _cells("patterns", spec(model, data), extent.seeds, again)
    return rows


def windows(extent: Extent) -> Rows:
    """The runs of Table V that have a window for every epoch."""
    return {row: cells for row, cells in table5(extent).items() if row[0] != "cnn"}


def table6(extent: Extent) -> Rows:
    """Flipped labels in a vision transformer by data file and fraction of the pool; --quick takes a tiny
    model at random, and drawn stripes where there is no file."""
    given = extent.images
    if not extent.quick and not (given.data and given.weights):
        raise InputError(
            "table6 needs --data FILE.npz (images of two classes) and --weights FOLDER (a vision transformer "
            "as transformers saves it); --quick shows the table with a tiny model, on drawn stripes"
        )
    weights = "" if extent.quick else given.weights
    size, examples = (14, 64) if extent.quick else (given.size, given.examples)
    rows: dict[Row, list[Cell]] = {}
    for data in given.data or ("",):
        name = "".join(c if c.isalnum() else "-" for c in Path(data).stem) or "stripes"
        said = {"size": size, "examples": examples, "data": digest_of(data), "weights": digest_of(weights)}
        for fraction in FLIPPED_OF_POOL:
            options = tuple({"flipped": fraction, **said}.items())
            rows[name, f"{fraction:.0%}"] = [
                Cell("fine-tuning", name, s, options, sources=(data, weights)) for s in range(extent.seeds)
            ]
    return rows


PLANS = {
    "table1": table1, "table2": table2, "table3": table3, "table4": table4, "table5": table5,
    "table6": table6, "seeds": seeds, "windows": windows,
}  # fmt: skip


def in_order(rows: Rows) -> list[Cell]:
    """All cells, each once: the cheap ones first, and seed by seed, so that fewer seeds are whole early."""
    cells = list(dict.fromkeys(cell for row in rows.values() for cell in row))
    return sorted(cells, key=lambda c: (c.experiment == "retraining", "-cnn" in c.workload, c.seed))


def _ceilings(experiment: str, problems: Sequence[tuple[str, str]], extent: Extent) -> dict[Row, list[Cell]]:
    """The rows of ceilings, if they are asked for."""
    if extent.ceiling is None:
        return {}
    how: dict[str, Any] = {"moved": extent.ceiling, "runs": extent.ceiling_runs}
    return {(m, d, "ceiling"): _cells(experiment, spec(m, d), extent.seeds, **how) for m, d in problems}


def _cells(experiment: str, workload: str, seeds: int, again: str = "", **options: Any) -> list[Cell]:
    return [Cell(experiment, workload, s, tuple(options.items()), again) for s in range(seeds)]
