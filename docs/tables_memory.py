"""The tables about recorders: time, disk, memory, reduced precision; docs/tables.py writes them."""

from collections.abc import Callable
from pathlib import Path

from tables_words import cells_row, load_result, source


def recorders(page: Path) -> str:
    """A long run under every recorder."""
    report = load_result("memory")
    time, few, many = report["time"], *list(report["memory"].values())[:2]
    plain, own = time["seconds"]["plain PyTorch"], time["seconds"]["record in memory"]
    heads = [
        "recorder",
        "states on disk",
        "disk",
        "steps replayed",
        "sweep / plain PyTorch",
        "sweep / `record`",
    ]
    heads += [f"memory, {steps} steps" for steps in report["memory"]]
    lines = [
        f"mnist-1v7-dnn, {time['steps']} steps ({plain:.1f} s of plain PyTorch, {own:.1f} s of `record` in "
        f"memory, timed beside the sweeps). Memory: the most that recording and the sweep had beyond the "
        f"loaded process. {source(page, 'memory', report)}.",
        "",
        cells_row(heads),
        cells_row(["---"] * len(heads)),
    ]
    for name, row in time["recorders"].items():
        cells = [
            f"`{name}`",
            str(row["states_stored"]),
            f"{row['disk_mb']:.1f} MB",
            str(row["steps_replayed"]),
        ]
        cells += [f"{row[key]:.2f}" for key in ("ratio_to_plain_pytorch", "ratio_to_record_in_memory")]
        for run in (few, many):
            grown = [
                run[name][what]["peak_mb"] - run[name][what]["before_mb"] for what in ("record", "sweep")
            ]
            cells.append(" and ".join(f"{mb:.0f}" for mb in grown) + " MB")
        lines.append(cells_row(cells))
    exact = report["exact"]
    same = exact["states_bitwise"] and exact["scores_bitwise_in_the_same_lists"]
    largest = exact["largest_difference_in_its_own"]
    lines += [
        "",
        f"The states that `revolve` replays {'are' if same else 'are not'} those of `full`, bit for bit, and "
        "so are its scores where a sweep gets the states in the same lists. In its own lists they differ by "
        f"{largest:.0e} of the largest score: sums round in another order.",
    ]
    return "\n".join(lines)


def rounded(page: Path) -> str:
    """Scores from rounded states beside those of exact ones."""
    report = load_result("memory")
    first = next(iter(report["precision"].values()))
    heads = ["workload", "recorder", "bits a number on disk", "relative error of the scores"]
    heads += ["Spearman with `full`", "Spearman with `loo`"]
    lines = [
        f"DIT, trained setting, {first['steps']} steps, means of {first['seeds']} seeds. "
        f"{source(page, 'memory', report)}.",
        "",
        cells_row(heads),
        cells_row(["---"] * len(heads)),
    ]
    for name, found in report["precision"].items():
        for recorder, row in found["recorders"].items():
            cells = [name, f"`{recorder}`", f"{row['bits_a_number']:.1f}", f"{row['relative_error']:.1e}"]
            cells += [f"{row['spearman_with_full']:.5f}", f"{row['spearman_with_loo']:.4f}"]
            lines.append(cells_row(cells))
    return "\n".join(lines)


TABLES: dict[str, Callable[[Path], str]] = {"recorders": recorders, "rounded": rounded}
