"""What the tables of README and docs are written with."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def load_result(name: str) -> dict:
    """benchmarks/results/NAME.json."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def link(page: Path, target: str, words: str) -> str:
    """A link from a page to a file, named from the root."""
    return f"[{words}]({'' if page.parent == ROOT else '../'}{target})"


def cells_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def source(page: Path, name: str, report: dict) -> str:
    """Command, machine and link of a result."""
    return f"`{report['command'].strip()}`, {report['machine']}: " + link(
        page, f"benchmarks/results/{name}.json", "figures"
    )
