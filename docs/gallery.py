"""Make the reports of docs/gallery.md from bundled data: `python docs/gallery.py [NAME ...]`.

docs/gallery/NAME.html is written anew; python docs/screenshots.py then takes the pictures. `gemma` needs
the weights and ten minutes, the others four minutes on 2 cores.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from torch import Tensor, nn

import influencekit as ik
from influencekit.evaluation import flipped

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "gallery"
WRONG = 0.1  # of the labels are flipped


def digits() -> ik.Report:
    """Pictures: ones and sevens, 25 of 256 labels flipped; everything that can be known of them."""
    work, _ = flipped(ik.make("workload", "mnist-1v7-dnn", setting="trained"), WRONG)
    return everything("digits", ik.record(work), work.validation, title="Ones and sevens", points=16)


def texts() -> ik.Report:
    """Texts: newsgroup posts, read by MiniLM, 25 of 256 labels flipped; examples/minilm_clean.py."""
    sys.path.insert(0, str(HERE.parent / "examples"))
    from minilm_clean import main

    with TemporaryDirectory() as folder:
        return main(str(Path(folder) / "texts.zarr"))


COLUMNS = ("age", "education-num", "hours-per-week", "capital-gain", "capital-loss")
GROUPS = {
    "married": ("marital-status", "Married-civ-spouse"), "male": ("sex", "Male"),
    "manager": ("occupation", "Exec-managerial"), "specialist": ("occupation", "Prof-specialty"),
    "own business": ("workclass", "Self-emp-not-inc"),
}  # fmt: skip


class Income(nn.Module):
    """A logistic regression on columns that it standardises itself, so that a row stays as people know it."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        x = self.flat(x)
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("deviation", x.std(0))
        self.linear = nn.Linear(x.shape[1], 2)

    def flat(self, x: Tensor) -> Tensor:
        """Gains and losses have long tails."""
        return torch.cat([x[:, :3], x[:, 3:5].log1p(), x[:, 5:]], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear((self.flat(x) - self.mean) / self.deviation)


def table() -> ik.Report:
    """A table: 300 people of UCI Adult with the names of the columns, as they are."""
    from influencekit_paper.files import bundled_file

    def part(split: str, count: int) -> tuple[Tensor, Tensor]:
        rows = pd.read_csv(bundled_file(f"adult-{split}.csv.gz"), nrows=count)
        flags = [rows[column].eq(value).astype(float) for column, value in GROUPS.values()]
        x = torch.tensor(pd.concat([rows[list(COLUMNS)], *flags], axis=1).to_numpy("float32"))
        return x, torch.tensor(rows["income"].str.startswith(">").to_numpy("int64"))

    train, held = part("train", 300), part("test", 600)
    torch.manual_seed(0)
    work = ik.Workload(
        model=Income(train[0]), loss=nn.CrossEntropyLoss(reduction="none"), train=train,
        test=tuple(x[:300] for x in held), validation=tuple(x[300:] for x in held),
        optimizer=ik.SGD(lr=0.5), epochs=12, batch_size=30, name="adult", info={"classes": ["<=50K", ">50K"]},
    )  # fmt: skip
    return everything(
        "table", ik.record(work), work.validation, title="Who earns above 50K", names=[*COLUMNS, *GROUPS]
    )


def language() -> ik.Report:
    """A language model: a small transformer learns the next piece in newsgroup posts, by document."""
    sys.path.insert(0, str(HERE.parent))
    from benchmarks.language_model.case import Size, problem
    from benchmarks.language_model.text import words

    run = ik.record(problem(Size(train=256, test=64, width=64, heads=2, epochs=8), 16))
    scores, whole = ik.estimate(run, windows="each-epoch"), ik.estimate(run)
    ends = [ik.verify_top(run, "test-loss", whole, 10, which) for which in ("harmful", "helpful")]
    return ik.report(
        run, scores, ends, ik.trust(run, "test-loss", whole), points=16,
        show=lambda example: " ".join(words(example[0])), title="A small language model",
        command="python docs/gallery.py language",
    )  # fmt: skip


def gemma() -> ik.Report:
    """Pieces of texts: adapters of Gemma 3 270M, asked for one sentence; five texts retrained."""
    sys.path.insert(0, str(HERE.parent))
    from benchmarks.gemma.case import Case
    from benchmarks.gemma.gemma import FOLDER, recorded
    from benchmarks.gemma.texts import ASKED, TRAIN

    FOLDER.mkdir(exist_ok=True)
    case, asked = Case(FOLDER), "the river ends in the marsh"
    recorded(case, FOLDER, "recorded")
    run = case.open(FOLDER / "recorded.zarr", case.model(), [asked])
    scores, pieces = ik.estimate(run), ik.estimate(run, parts=True)
    return ik.report(
        run, scores, ik.verify_top(run, "test-loss", scores, 5, "helpful"), parts=pieces,
        part_names=case.names, show={k: text for k, (text, _) in enumerate(TRAIN)},
        title=f"Gemma 3 270M: who made it say “{ASKED[asked]}”?", command="python docs/gallery.py gemma",
    )  # fmt: skip


def everything(name: str, run: ik.Trajectory, trusted: object, **more: object) -> ik.Report:
    """What suspects, curate, trust and leave-one-out of all examples say, on one page."""
    return ik.report(
        run, ik.estimate(run, windows="each-epoch"), ik.estimate(run, estimator="loo"),
        ik.trust(run, "test-loss", ik.estimate(run)), curated=ik.curate(run, trusted=trusted),
        suspected=ik.suspects(run, trusted=trusted), command=f"python docs/gallery.py {name}", **more,
    )  # fmt: skip


REPORTS: dict[str, Callable[[], ik.Report]] = {
    "digits": digits, "texts": texts, "table": table, "language": language, "gemma": gemma,
}  # fmt: skip


def main(names: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in names or REPORTS:
        page = FOLDER / f"{name}.html"
        found = REPORTS[name]()
        page.unlink(missing_ok=True)
        print(found.save(page).relative_to(HERE), found)


if __name__ == "__main__":
    main(sys.argv[1:])
