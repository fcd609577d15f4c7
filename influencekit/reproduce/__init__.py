"""The paper's tables by one command: cells that are done once and kept, and what is printed of them.

    reproduce(["table4"], "reproduction")     # a report a table, and its files in the folder

`plan` says which cells a table has, `experiments` what is done for one, `cells` keeps them, `running` does
those that are missing, `tables` and `saving` make tables of them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from influencekit import __version__
from influencekit.errors import InputError
from influencekit.reproduce import beyond
from influencekit.reproduce import tables as tables_of
from influencekit.reproduce.plan import PLANS, Extent, in_order
from influencekit.reproduce.running import Progress, complete
from influencekit.reproduce.saving import save
from influencekit.reproduce.tables import Report

__all__ = ["Extent", "Progress", "Report", "reproduce"]

_REPORTS: Mapping[str, Callable[..., Report]] = {
    "table1": tables_of.table1, "table2": tables_of.table2, "table3": tables_of.table3,
    "table4": tables_of.table4, "table5": tables_of.table5,
    "seeds": beyond.seeds, "windows": beyond.windows,
}  # fmt: skip


def reproduce(
    tables: Sequence[str],
    out: str | Path = "reproduction",
    extent: Extent | None = None,
    *,
    workers: int = 1,
    command: str = "influencekit.reproduce",
    hear: Callable[[Progress], None] = lambda _: None,
) -> list[Report]:
    """Run what is missing of these tables, and write them to `out` as CSV, JSON, LaTeX and Markdown.

    Cells are kept below `out`/cells; those made with the same versions and options are not done again.
    Cost: see docs/reproduce.md. Errors: an unknown table, fewer than one seed or worker, an `out` that is a
    file or cannot be written, a cell's file that cannot be read, an experiment that fails.
    """
    import torch

    folder, extent = Path(out), extent or Extent()
    if unknown := [name for name in tables if name not in PLANS]:
        raise InputError(f"no table named {unknown[0]!r}; choose one of {', '.join(PLANS)}")
    if min(extent.seeds, extent.of("cnn"), workers) < 1:
        raise InputError(
            f"seeds, seeds of the CNN and workers must be at least 1, got {extent.seeds}, {extent.of('cnn')} "
            f"and {workers}"
        )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{out} is a file; the cells and tables need a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made: {error.strerror}") from error
    plans = {name: PLANS[name](extent) for name in tables}
    cells = in_order({(name, *row): found for name, rows in plans.items() for row, found in rows.items()})
    kept = complete(
        cells, folder, device=extent.device, workers=1 if extent.device != "cpu" else workers, hear=hear
    )
    reports = []
    for name, rows in plans.items():
        there = [kept[cell] for row in rows.values() for cell in row]
        made: Mapping[str, Any] = {
            "command": command,
            "machine": " and ".join(sorted({each.machine for each in there})),
            "torch": torch.__version__,
            "influencekit": __version__,
            "seeds": extent.seeds,
            "quick": extent.quick,
            "cell_seconds": round(sum(each.seconds for each in there), 1),
        }
        report = _REPORTS[name]({row: [kept[cell].found for cell in found] for row, found in rows.items()})
        save(report, made, folder)
        reports.append(report)
    return reports
