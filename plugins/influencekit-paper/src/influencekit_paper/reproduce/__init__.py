"""The paper's tables by one command: cells that are done once and saved, and what is printed of them.

    reproduce(["table4"], "reproduction")     # a report a table, and its files in the folder

`plan` says which cells a table has, `experiments` what is done for one, `cells` saves them, `running` does
those that are missing, `tables`, `table5`, `table6` and `beyond` make tables of them, `saving` writes these.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import influencekit as ik
from influencekit.errors import InputError
from influencekit.extend import check_executor, hold, local, sweep
from influencekit_paper.reproduce import beyond, tables
from influencekit_paper.reproduce.plan import PLANS, Extent, Images, in_order
from influencekit_paper.reproduce.report import Report
from influencekit_paper.reproduce.running import complete
from influencekit_paper.reproduce.saving import save
from influencekit_paper.reproduce.table5 import table5
from influencekit_paper.reproduce.table6 import table6

__all__ = ["Extent", "Images", "Report", "reproduce"]

_REPORTS: Mapping[str, Callable[..., Report]] = {
    "table1": tables.table1, "table2": tables.table2, "table3": tables.table3, "table4": tables.table4,
    "table5": table5, "table6": table6, "seeds": beyond.seeds, "windows": beyond.windows,
}  # fmt: skip


def reproduce(
    names: Sequence[str],
    out: str | Path = "reproduction",
    extent: Extent | None = None,
    *,
    executor: Any = None,
    command: str = "influencekit_paper.reproduce",
) -> list[Report]:
    """Run what is missing of the named tables, and write them to `out` as CSV, JSON, LaTeX and Markdown.

    Cells are saved below `out`/cells; those made with the same versions and options are not done again.
    `executor`: "processes:4" and the like, or what has `submit`; workers return results, and see no folder.
    Errors: an unknown table, fewer than one seed, an `out` that is a file, cannot be written or is
    written by another process, a cell's file that is not what was written, an experiment that fails.
    """
    folder, extent = local(out), extent or Extent()
    if unknown := [name for name in names if name not in PLANS]:
        raise InputError(f"no table named {unknown[0]!r}; choose one of {', '.join(PLANS)}")
    if min(extent.seeds, extent.of("cnn")) < 1:
        raise InputError(
            f"seeds and seeds of the CNN must be at least 1, got {extent.seeds} and {extent.of('cnn')}"
        )
    if executor is not None:
        check_executor(executor)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{out} is a file; the cells and tables need a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made: {error.strerror}") from error
    release = hold(folder)
    try:
        for each in (folder, *folder.glob("cells/*/")):
            sweep(each)
        return _reports(names, folder, extent, executor, command)
    finally:
        release()


def _reports(names: Sequence[str], folder: Path, extent: Extent, executor: Any, command: str) -> list[Report]:
    plans = {name: PLANS[name](extent) for name in names}
    cells = in_order({(name, *row): found for name, rows in plans.items() for row, found in rows.items()})
    results = complete(cells, folder, device=extent.device, executor=executor)
    reports = []
    for name, rows in plans.items():
        report = _REPORTS[name]({row: [results[cell].found for cell in found] for row, found in rows.items()})
        mine = [results[cell] for row in rows.values() for cell in row]
        if unchecked := sum(not each.checked for each in mine):
            report.notes.append(
                f"{unchecked} of {len(mine)} cells were kept by a version that wrote no digests: they are of "
                "the right form, and whether they were changed since is not known. Delete them, and they are "
                "done again."
            )
        made = {
            "command": command,
            "machine": " and ".join(sorted({each.machine for each in mine})),
            **_versions(),
            "seeds": extent.seeds,
            "quick": extent.quick,
            "cell_seconds": round(sum(each.seconds for each in mine), 1),
        }
        save(report, made, folder)
        reports.append(report)
    return reports


def _versions() -> dict[str, Any]:
    import torch

    return {"torch": torch.__version__, "influencekit": ik.__version__}
