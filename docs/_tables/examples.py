"""docs/results/examples.md: wrong labels found."""

from statistics import mean, median

from _tables.page import Page, Report, Section, Table, percent


def _mislabelled(report: Report) -> Table:
    rows = []
    for name, found in report["workloads"].items():
        for method, figures in found["scores"].items():
            cells = [f"{figures[f]['mean']:.3f} ± {figures[f]['sd']:.3f}" for f in ("auc", "found")]
            rows.append([name, percent(found["accuracy"]["mean"]), method, *cells])
    return Table(["data", "test accuracy", "ranked by", "AUC", "found"], rows)


def _photographs(report: Report) -> Table:
    epochs = report["epochs"]
    names = list(next(iter(epochs.values()))["found"])
    rows = [[n, percent(f["accuracy"]), *(f"{f['found'][s]:.1f}" for s in names)] for n, f in epochs.items()]
    return Table(["epochs", "test accuracy", *(f"found by {name}" for name in names)], rows)


def _minilm(report: Report) -> Table:
    cells = sorted(report["cells"], key=lambda cell: (cell["optimizer"] != "sgd", cell["lr"]))
    groups: dict[tuple[str, float], list[Report]] = {}
    for cell in cells:
        groups.setdefault((cell["optimizer"], cell["lr"]), []).append(cell)
    columns = list(groups.values())
    rows = []
    for part in ("validation", "test"):
        means = [mean(cell["accuracy"][part] for cell in some) for some in columns]
        rows.append([f"{part} accuracy", *map(percent, means), ""])
    for title, part in (("training, CPU seconds", "training"), ("all sweeps, CPU seconds", "three sweeps")):
        times = [median(cell["cpu_seconds"][part] for cell in some) for some in columns]
        rows.append([title, *(f"{value:.0f}" for value in times), ""])
    trust = [mean(cell["trust"] for cell in some) for some in columns]
    rows.append(["figure of trust", *(f"{value:.2f}" for value in trust), ""])
    for method in cells[0]["detection"]:
        row = [method]
        for some in columns:
            found = [cell["detection"][method] for cell in some]
            row.append(f"{mean(f['auc'] for f in found):.3f} ({mean(f['found'] for f in found):.1f})")
        wins = sum(
            c["detection"][method]["auc"] > c["detection"]["final training loss"]["auc"] for c in cells
        )
        rows.append([*row, "" if method == "final training loss" else f"{wins} of {len(cells)}"])
    return Table(["", *(f"{optimizer}, {lr:g}" for optimizer, lr in groups), "beats final loss"], rows)


def _halves(report: Report) -> Table:
    runs = report["runs"]
    heads = [f"{run['optimizer']}, {run['lr']:g}: {query}" for run in runs for query in run["correlation"]]
    columns = [by for run in runs for by in run["correlation"].values()]
    return Table(["score", *heads], [[name, *(f"{by[name]:.2f}" for by in columns)] for name in columns[0]])


def _tried(report: Report) -> Table:
    run = report["runs"][0]
    ranked = sorted(run["tried"].items(), key=lambda item: -item[1]["auc"])
    return Table(
        ["ranked by", "AUC", "found"],
        [[n, f"{f['auc']:.3f}", f"{f['found']} of {f['k']}"] for n, f in ranked],
    )


def _setting(report: Report) -> str:
    seeds = len({cell["seed"] for cell in report["cells"]})
    return (
        f"All-MiniLM-L6-v2 with a linear head, fine-tuned as a whole on {report['training']} texts of two "
        f"newsgroups, one label in ten flipped, {report['epochs']} epochs in batches of {report['batch']}; "
        f"means over {seeds} seeds. Cells have the AUC and, in brackets, how many of the 26 flipped texts "
        "are among the 26 most suspect. The query is minus the mean margin of clean validation texts. "
        "*Over orders* asks every eighth state for the contributions of all texts, not only of the "
        "batch's. *Loss after a clean epoch* trains one more epoch on the validation texts and ranks by "
        "loss: it has the same clean labels and no influence. *All sweeps* is the time of the three "
        "curvatures and *over orders* together. Learning rates and methods were fixed on other seeds."
    )


PAGE = Page(
    "Wrong labels",
    "Labels are flipped on purpose, and rankings of the training examples are judged by how well they "
    "find them. [Examples](../examples.md) has the code and what to conclude.",
    {
        "mislabelled": Section(
            "A taped run",
            ("mislabelled",),
            lambda report: (
                f"{report['seeds']} seeds, mean ± deviation; 10 % of the labels flipped. AUC: how often a "
                "flipped example is more suspicious than another (chance .5); found: the fraction of "
                "flipped ones among the k most suspicious, k = their number (chance .1). AdamW, learning "
                "rate .001, 10 epochs: one of four settings that were tried on the first seed. The order "
                "of the methods was the same under three of them; under SGD with a large rate the whole "
                "run's influence had AUC .46, and the loss found all."
            ),
            _mislabelled,
        ),
        "wrong-labels-cnn": Section(
            "Photographs and a small CNN",
            ("wrong_labels_cnn",),
            lambda report: (
                f"{report['setting']}, two classes of CIFAR-10 (not bundled), means over {report['seeds']} "
                "seeds. How many of the wrong labels are among as many most suspicious images, after each "
                "number of epochs."
            ),
            _photographs,
        ),
        "minilm": Section("A fine-tuned transformer", ("minilm",), _setting, _minilm),
        "minilm-lds": Section(
            "Do these scores predict retraining?",
            ("minilm_lds",),
            lambda report: (
                f"{report['runs'][0]['subsets']} times a random half of the texts is left out and the run "
                "trained again. The table has Spearman's correlation of summed scores with what retraining "
                f"gave, one seed, test accuracy {percent(report['runs'][0]['accuracy'])}; a score of no "
                "value strays by about .18. The gradient norm knows no query and comes close: leaving out "
                "half of the texts changes the query mostly by how many hard ones are among them."
            ),
            _halves,
        ),
        "minilm-explore": Section(
            "Everything that was tried",
            ("minilm_explore",),
            lambda report: (
                f"Seed {report['runs'][0]['seed']}, {report['runs'][0]['optimizer']} at "
                f"{report['runs'][0]['lr']:g}, {report['training']} texts, test accuracy "
                f"{percent(report['runs'][0]['accuracy'])}. The methods above were chosen from this list."
            ),
            _tried,
        ),
    },
)
