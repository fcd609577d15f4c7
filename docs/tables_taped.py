"""The tables about taped runs; docs/tables.py writes them."""

from collections.abc import Callable
from pathlib import Path

from tables_words import cells_row, link, load_result, source


def overhead(page: Path) -> str:
    report = load_result("tape_overhead")
    lines = [
        f"{source(page, 'tape_overhead', report)}. Time with the tape relative to the loop "
        f"without it, side by side, k = steps per epoch, {report['threads']} thread.",
        "",
        cells_row(
            ["model", "parameters", "steps", "plain step", "wall-clock time", "processor time", "checks"]
        ),
        cells_row(["---"] * 7),
    ]
    for name, found in report["cases"].items():
        cells = [name, f"{found['parameters']:,}", str(found["steps"]), f"{found['plain step, ms']:.1f} ms"]
        ratios = [f"{found[f'{kind} ratio']:.3f}" for kind in ("wall-clock", "processor")]
        lines.append(cells_row([*cells, *ratios, found["checks"]]))
    return "\n".join(lines)


def exactness(page: Path) -> str:
    report = load_result("tape_exactness")
    heads = [
        "loop",
        "error along a random direction",
        "error, single examples",
        "recorded bitwise",
        "replayed bitwise",
    ]
    lines = [
        f"{source(page, 'tape_exactness', report)}.",
        "",
        cells_row(heads),
        cells_row(["---"] * len(heads)),
    ]
    for name, found in report["cases"].items():
        errors = [f"{found[key]:.1e}" for key in ("along_a_direction", "single_examples")]
        same = [
            f"{found[key]} of {found['states']} states" for key in ("recorded_bitwise", "replayed_bitwise")
        ]
        lines.append(cells_row([name, *errors, *same]))
    return "\n".join(lines)


def mislabelled(page: Path) -> str:
    report = load_result("mislabelled")
    lines = [
        f"{source(page, 'mislabelled', report)}. {report['seeds']} seeds, mean ± deviation; 10 % "
        "of the labels flipped. AUC: how often a flipped example is more suspicious than others (chance .5); "
        "found: the share of flipped ones among the k most suspicious, k = their number (chance .1).",
        "",
        cells_row(["data", "test accuracy", "ranked by", "AUC", "found"]),
        cells_row(["---"] * 5),
    ]
    for name, found in report["workloads"].items():
        for method, figures in found["scores"].items():
            cells = [f"{figures[f]['mean']:.3f} ± {figures[f]['sd']:.3f}" for f in ("auc", "found")]
            lines.append(cells_row([name, f"{100 * found['accuracy']['mean']:.1f} %", method, *cells]))
    return "\n".join(lines)


def kills(page: Path) -> str:
    campaigns = load_result("kills")["campaigns"]
    commands = dict.fromkeys(f"`{found['command']}`" for found in campaigns)
    heads = ["recorded by", "recorder", "kills", "before the first commit", "within a commit",
             "committed steps lost", "wrong bits", "runs continued to the end"]  # fmt: skip
    lines = [
        f"`kill -9` at random moments, often very early; after each, all that was committed is "
        f"compared with the run that was never killed, and the run is continued. {', '.join(commands)}, "
        f"{campaigns[0]['machine']}: {link(page, 'benchmarks/results/kills.json', 'figures')}.",
        "",
        cells_row(heads),
        cells_row(["---"] * len(heads)),
    ]
    for found in campaigns:
        name = {"record": "`ik.record`", "tape": "`ik.Tape`"}[found["run"]]
        counts = [found[key] for key in ("kills", "before_the_first_commit", "in_the_middle_of_a_commit")]
        cells = [
            *map(str, counts),
            str(found["lost_steps"]),
            str(len(found["faults"])),
            str(found["completed"]),
        ]
        lines.append(cells_row([name, f"`{found['recorder']}`", *cells]))
    return "\n".join(lines)


TABLES: dict[str, Callable[[Path], str]] = {
    "kills": kills,
    "mislabelled": mislabelled,
    "tape-exactness": exactness,
    "tape-overhead": overhead,
}
