"""Write the tables of README and docs anew from the files they come from.

    python docs/tables.py            # rewrites every block between markers
    python docs/tables.py --check    # changes nothing; exit code 1 if a block is stale

A block stands between `<!-- table: NAME -->` and `<!-- end of table -->`. Sources: benchmarks/results/*.json
and the settings of the registered workloads. tests/test_docs.py holds every page to what this script writes.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
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
        report = _load(f"table2-{setting}")
        lines = [
            f"`{report['command']}`, {report['seeds']} seeds, {report['machine']}: "
            f"{_link(page, f'benchmarks/results/table2-{setting}.json', 'figures')}. DIT reaches the paper's "
            f"figure (in brackets) in {report['cells_at_least_printed']} cells.",
            "",
            _row(["workload", "test accuracy", "estimator", *METRICS.values()]),
            _row(["---"] * 7),
        ]
        for name, found in report["workloads"].items():
            for method, printed in found["printed"].items():
                values = [found["estimators"][method][m]["mean"] for m in METRICS]
                cells = [f"{v:.3f} [{p:.2f}]" for v, p in zip(values, printed, strict=True)]
                lines.append(_row([name, f"{100 * found['accuracy']['mean']:.1f} %", method, *cells]))
        return "\n".join(lines)

    return table


def rough(page: Path) -> str:
    """What the trained setting does to first order, per workload: one small table."""
    paper, trained = _load("table2-paper")["workloads"], _load("table2-trained")["workloads"]
    lines = [
        _row(
            [
                "workload",
                "accuracy, `paper`",
                "Spearman, `paper`",
                "accuracy, `trained`",
                "Spearman, `trained`",
            ]
        ),
        _row(["---"] * 5),
    ]
    for name in paper:
        cells = []
        for report in (paper, trained):
            spearman = report[name]["estimators"]["dit"]["spearman"]
            cells += [f"{100 * report[name]['accuracy']['mean']:.1f} %"]
            cells += [f"{spearman['mean']:.3f} ± {spearman['std']:.3f}"]
        lines.append(_row([name, *cells]))
    return "\n".join(lines)


def smoothness(page: Path) -> str:
    """The same runs with ReLU and with a smooth activation."""
    report = _load("smoothness")
    lines = [
        f"`{report['command']}`, {report['workload']}, {report['seeds']} seeds, {report['machine']}: "
        f"{_link(page, 'benchmarks/results/smoothness.json', 'figures')}. DIT against `loo`:",
        "",
        _row(["setting", "activation", "test accuracy", *METRICS.values()]),
        _row(["---"] * 7),
    ]
    for row in report["rows"]:
        cells = [f"{row[m]['mean']:.3f} ± {row[m]['std']:.3f}" for m in METRICS]
        lines.append(_row([row["setting"], row["activation"], f"{100 * row['accuracy']:.1f} %", *cells]))
    return "\n".join(lines)


def speed(page: Path) -> str:
    report = _load("speed")
    lines = [
        f"`{report['command'].strip()}`, {report['machine']}, {report['threads']} threads: "
        f"{_link(page, 'benchmarks/results/speed.json', 'figures')}. Times are ratios to a plain eager "
        "PyTorch loop over the same steps.",
        "",
        _row(
            [
                "MNIST 1 against 7",
                "plain step",
                "recording `full`",
                "DIT, all examples",
                "LOO speed-up",
                "tracing, once",
            ]
        ),
        _row(["---"] * 6),
    ]
    for kind, found in report["models"].items():
        ratio = found["ratio_to_plain"]
        once = sum(max(0.0, s) for s in found["tracing_seconds"].values())
        cells = [
            f"{kind}, {found['parameters']} parameters",
            f"{found['plain_ms_a_step']:.2f} ms",
            f"{ratio['recording full']:.2f}",
            f"{ratio['dit sweep']:.2f}",
            f"{found['loo_speed_up']:.1f} times",
            f"{once:.1f} s",
        ]
        lines.append(_row(cells))
    return "\n".join(lines)


def exactness(page: Path) -> str:
    report = _load("exactness")
    lines = [
        f"`{report['command'].strip()}`, {report['machine']}, float64: "
        f"{_link(page, 'benchmarks/results/exactness.json', 'figures')}.",
        "",
        _row(["optimizer", "relative error against unrolled autodiff", "Taylor slope"]),
        _row(["---"] * 3),
    ]
    for name, found in report["optimizers"].items():
        lines.append(_row([name, f"{found['relative_error']:.1e}", f"{found['taylor_slope']:.2f}"]))
    return "\n".join(lines)


def default_run(page: Path) -> str:
    report = _load("default_run")
    found = report["runs"]["compare"]
    return (
        f"Start-up included it takes {found['seconds']:.0f} s and {found['memory_gb']:.1f} GB of memory "
        f"(`{report['command'].strip()}`, {report['machine']}: "
        f"{_link(page, 'benchmarks/results/default_run.json', 'figures')})."
    )


def settings(page: Path) -> str:
    from influencekit.registry import load, names

    lines = [
        _row(
            ["workload", "training examples", "L2", "decay", "`paper`: lr, epochs", "`trained`: lr, epochs"]
        ),
        _row(["---"] * 6),
    ]
    for name in names("workload"):
        found = getattr(load("workload", name), "settings", None)
        if found is None:
            continue  # a plugin's
        paper, trained = found["paper"], found["trained"]
        cells = [name, str(paper.n_train), f"{paper.l2:g}", "1/sqrt(t + 1)" if paper.decay else "none"]
        lines.append(_row([*cells, *(f"{each.lr:g}, {each.epochs}" for each in (paper, trained))]))
    return "\n".join(lines)


def tracing(page: Path) -> str:
    report = _load("tracing")
    models = report["milliseconds_a_step"]
    jobs = list(next(iter(models.values())))
    lines = [
        f"`{report['command']}`, {report['machine']}: "
        f"{_link(page, 'benchmarks/results/tracing.json', 'figures')}. Milliseconds a step:",
        "",
        _row(["workload", *jobs]),
        _row(["---"] * (len(jobs) + 1)),
    ]
    return "\n".join([*lines, *(_row([n, *(f"{f[j]:.2f}" for j in jobs)]) for n, f in models.items())])


def tuned(page: Path) -> str:
    report = _load("tune_trained")
    lines = [
        f"`{report['command']}`, {report['machine']}, torch {report['torch']}: "
        f"{_link(page, 'benchmarks/results/tune_trained.json', 'the whole grid')}. Means over the seeds.",
        "",
        _row(["workload", "seeds", "lr", "epochs", "validation", "best validation", "test", "best test"]),
        _row(["---"] * 8),
    ]
    for name, found in report["workloads"].items():
        chosen = found["chosen"]
        shares = (chosen["validation"], found["best_validation"], chosen["test"], found["best_test"])
        cells = [name, "{}-{}".format(*found["seeds"]), f"{chosen['lr']:g}", str(chosen["epochs"])]
        lines.append(_row([*cells, *(f"{100 * share:.1f} %" for share in shares)]))
    return "\n".join(lines)


TABLES: dict[str, Callable[[Path], str]] = {
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


def _load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _link(page: Path, target: str, words: str) -> str:
    return f"[{words}]({'' if page.parent == ROOT else '../'}{target})"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


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
