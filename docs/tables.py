"""Write the tables of README and docs anew from the files they come from.

    python docs/tables.py            # rewrites every block between markers
    python docs/tables.py --check    # changes nothing; exit code 1 if a block is stale

A block stands between `<!-- table: NAME -->` and `<!-- end of table -->`. Sources: benchmarks/results/*.json
and the settings of the registered workloads. tests/test_docs.py holds every page to what this script writes.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))  # docs is no package

from tables_dvemb import TABLES as DVEMB  # noqa: E402
from tables_evaluation import TABLES as EVALUATION  # noqa: E402
from tables_memory import TABLES as MEMORY  # noqa: E402
from tables_minilm import TABLES as MINILM  # noqa: E402
from tables_peers import TABLES as PEERS  # noqa: E402
from tables_reproduce import TABLES as REPRODUCED  # noqa: E402
from tables_taped import TABLES as TAPED  # noqa: E402
from tables_torch_nn import TABLES as TORCH_NN  # noqa: E402
from tables_trust import TABLES as TRUST  # noqa: E402
from tables_words import cells_row, link, load_result  # noqa: E402

BLOCK = re.compile(r"(<!-- table: ([a-z0-9-]+) -->\n).*?(<!-- end of table -->)", re.S)
METRICS = {"pearson": "Pearson", "spearman": "Spearman", "kendall": "Kendall", "jaccard": "Jaccard"}


def pages() -> list[Path]:
    """README and every page of docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rewritten(page: Path) -> str:
    """The text of a page with every table as it should be now."""
    return BLOCK.sub(
        lambda found: f"{found[1]}\n{TABLES[found[2]](page)}\n\n{found[3]}", page.read_text(encoding="utf-8")
    )


def agreement(setting: str) -> Callable[[Path], str]:
    def table(page: Path) -> str:
        report = load_result(f"table2-{setting}")
        lines = [
            f"`{report['command']}`, {report['seeds']} seeds, {report['machine']}: "
            f"{link(page, f'benchmarks/results/table2-{setting}.json', 'figures')}. DIT reaches the paper's "
            f"figure (in brackets) in {report['cells_at_least_printed']} cells.",
            "",
            cells_row(["workload", "test accuracy", "estimator", *METRICS.values()]),
            cells_row(["---"] * 7),
        ]
        for name, found in report["workloads"].items():
            for method, printed in found["printed"].items():
                values = [found["estimators"][method][m]["mean"] for m in METRICS]
                cells = [f"{v:.3f} [{p:.2f}]" for v, p in zip(values, printed, strict=True)]
                lines.append(cells_row([name, f"{100 * found['accuracy']['mean']:.1f} %", method, *cells]))
        return "\n".join(lines)

    return table


def rough(page: Path) -> str:
    """What the trained setting does to first order, per workload: one small table."""
    paper, trained = load_result("table2-paper")["workloads"], load_result("table2-trained")["workloads"]
    lines = [
        cells_row(
            [
                "workload",
                "accuracy, `paper`",
                "Spearman, `paper`",
                "accuracy, `trained`",
                "Spearman, `trained`",
            ]
        ),
        cells_row(["---"] * 5),
    ]
    for name in paper:
        cells = []
        for report in (paper, trained):
            spearman = report[name]["estimators"]["dit"]["spearman"]
            cells += [f"{100 * report[name]['accuracy']['mean']:.1f} %"]
            cells += [f"{spearman['mean']:.3f} ± {spearman['std']:.3f}"]
        lines.append(cells_row([name, *cells]))
    return "\n".join(lines)


def smoothness(page: Path) -> str:
    """The same runs with ReLU and with a smooth activation."""
    report = load_result("smoothness")
    lines = [
        f"`{report['command']}`, {report['workload']}, {report['seeds']} seeds, {report['machine']}: "
        f"{link(page, 'benchmarks/results/smoothness.json', 'figures')}. DIT against `loo`:",
        "",
        cells_row(["setting", "activation", "test accuracy", *METRICS.values()]),
        cells_row(["---"] * 7),
    ]
    for row in report["rows"]:
        cells = [f"{row[m]['mean']:.3f} ± {row[m]['std']:.3f}" for m in METRICS]
        lines.append(cells_row([row["setting"], row["activation"], f"{100 * row['accuracy']:.1f} %", *cells]))
    return "\n".join(lines)


def speed(page: Path) -> str:
    report = load_result("speed")
    lines = [
        f"`{report['command'].strip()}`, {report['machine']}, {report['threads']} "
        f"thread{'s' * (report['threads'] != 1)}: "
        f"{link(page, 'benchmarks/results/speed.json', 'figures')}. Times are ratios to a plain eager "
        "PyTorch loop over the same steps.",
        "",
        cells_row(
            [
                "MNIST 1 against 7",
                "plain step",
                "recording `full`",
                "DIT, all examples",
                "each of 21 epochs, relative to that",
                "LOO speed-up",
                "tracing, once",
            ]
        ),
        cells_row(["---"] * 7),
    ]
    for kind, found in report["models"].items():
        ratio = found["ratio_to_plain"]
        once = sum(max(0.0, s) for s in found["tracing_seconds"].values())
        cells = [
            f"{kind}, {found['parameters']} parameters",
            f"{found['plain_ms_a_step']:.2f} ms",
            f"{ratio['recording full']:.2f}",
            f"{ratio['dit sweep']:.2f}",
            f"{found['each_epoch_to_dit_sweep']:.2f}",
            f"{found['loo_speed_up']:.1f} times",
            f"{once:.1f} s",
        ]
        lines.append(cells_row(cells))
    return "\n".join(lines)


def exactness(page: Path) -> str:
    report = load_result("exactness")
    lines = [
        f"`{report['command'].strip()}`, {report['machine']}, float64: "
        f"{link(page, 'benchmarks/results/exactness.json', 'figures')}.",
        "",
        cells_row(["optimizer", "relative error against unrolled autodiff", "Taylor slope", "2 below h"]),
        cells_row(["---"] * 4),
    ]
    for name, found in report["optimizers"].items():
        slope = [f"{found['taylor_slope']:.2f}", f"{found['smooth_below']:g}"]
        lines.append(cells_row([name, f"{found['relative_error']:.1e}", *slope]))
    return "\n".join(lines)


def default_run(page: Path) -> str:
    report = load_result("default_run")
    found = report["runs"]["compare"]
    return (
        f"Start-up included it takes {found['seconds']:.0f} s and {found['memory_gb']:.1f} GB of memory "
        f"(`{report['command'].strip()}`, {report['machine']}: "
        f"{link(page, 'benchmarks/results/default_run.json', 'figures')})."
    )


def settings(page: Path) -> str:
    from influencekit.registry import load, names

    lines = [
        cells_row(
            ["workload", "training examples", "L2", "decay", "`paper`: lr, epochs", "`trained`: lr, epochs"]
        ),
        cells_row(["---"] * 6),
    ]
    for name in names("workload"):
        found = getattr(load("workload", name), "settings", None)
        if found is None:
            continue  # a plugin's
        paper, trained = found["paper"], found["trained"]
        cells = [name, str(paper.n_train), f"{paper.l2:g}", "1/sqrt(t + 1)" if paper.decay else "none"]
        lines.append(cells_row([*cells, *(f"{each.lr:g}, {each.epochs}" for each in (paper, trained))]))
    return "\n".join(lines)


def tracing(page: Path) -> str:
    report = load_result("tracing")
    models = report["milliseconds_a_step"]
    jobs = list(next(iter(models.values())))
    lines = [
        f"`{report['command']}`, {report['machine']}: "
        f"{link(page, 'benchmarks/results/tracing.json', 'figures')}. Milliseconds a step:",
        "",
        cells_row(["workload", *jobs]),
        cells_row(["---"] * (len(jobs) + 1)),
    ]
    return "\n".join([*lines, *(cells_row([n, *(f"{f[j]:.2f}" for j in jobs)]) for n, f in models.items())])


def tuned(page: Path) -> str:
    report = load_result("tune_trained")
    lines = [
        f"`{report['command']}`, {report['machine']}, torch {report['torch']}: "
        f"{link(page, 'benchmarks/results/tune_trained.json', 'the whole grid')}. Means over the seeds.",
        "",
        cells_row(
            ["workload", "seeds", "lr", "epochs", "validation", "best validation", "test", "best test"]
        ),
        cells_row(["---"] * 8),
    ]
    for name, found in report["workloads"].items():
        chosen = found["chosen"]
        shares = (chosen["validation"], found["best_validation"], chosen["test"], found["best_test"])
        cells = [name, "{}-{}".format(*found["seeds"]), f"{chosen['lr']:g}", str(chosen["epochs"])]
        lines.append(cells_row([*cells, *(f"{100 * share:.1f} %" for share in shares)]))
    return "\n".join(lines)


TABLES: dict[str, Callable[[Path], str]] = {
    **DVEMB,
    **EVALUATION,
    **MEMORY,
    **MINILM,
    **PEERS,
    **REPRODUCED,
    **TAPED,
    **TORCH_NN,
    **TRUST,
    "agreement-paper": agreement("paper"),
    "agreement-trained": agreement("trained"),
    "default-run": default_run,
    "exactness": exactness,
    "rough": rough,
    "settings": settings,
    "smoothness": smoothness,
    "speed": speed,
    "tracing": tracing,
    "tuned": tuned,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit code 1 if a block is stale"
    )
    check = parser.parse_args().check
    stale = [page for page in pages() if rewritten(page) != page.read_text(encoding="utf-8")]
    for page in stale:
        print(f"{'stale' if check else 'rewritten'}: {page.relative_to(ROOT)}")
        if not check:
            page.write_text(rewritten(page), encoding="utf-8")
    raise SystemExit(1 if check and stale else 0)
