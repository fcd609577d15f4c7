"""docs/results/language-model.md: a small language model trained with Adam."""

from collections.abc import Callable
from math import exp

from _tables.page import Page, Report, Section, Table

SETS = ("halves", "sets of 90 %")
QUERIES = ("mean test loss", "single sequences")
TUNED = ("ekfac", "trak")  # of each one row: the damping that does best on these very sets


def _models(report: Report) -> Table:
    heads = ["batch", "steps", "run", "training loss", "test loss", "perplexity", "of frequencies alone"]
    rows = []
    for case in report["cases"].values():
        for run, loss in case["losses"].items():
            cells = [str(case["batch"]), str(case["steps"]), run]
            cells += [f"{loss[f'{part}, after']:.3f}" for part in ("train", "test")]
            rows.append([*cells, f"{exp(loss['test, after']):.1f}", f"{exp(loss['unigram']):.1f}"])
    return Table(heads, rows)


def _lds(batch: int) -> Callable[[Report], Table]:
    """The table of one batch size."""

    def table(report: Report) -> Table:
        case = next(case for case in report["cases"].values() if case["batch"] == batch)
        heads = ["sets", "score"]
        heads += [f"{query}: {what}" for query in QUERIES for what in ("LDS", "of ceiling", "other seed")]
        rows = []
        for part in SETS:
            found = [case["queries"][query][part] for query in QUERIES]
            cells = [part, "*retraining again*"]
            for one in found:
                cells += [f"{one['again']['moved']:.3f}", f"ceiling {one['ceiling']:.3f}"]
                cells.append(f"{one['again']['other seed']:.3f}")
            rows.append(cells)
            for name in _shown(found):
                cells = [part, f"`{name}`" if name[0].islower() else name]
                for one in found:
                    figures = one["estimators"][name]
                    interval = f"[{_number(figures['low'])}, {_number(figures['high'])}]"
                    cells += [f"{figures['lds']:.3f} {interval}", _number(figures["of ceiling"])]
                    cells.append(f"{figures['other seed']:.3f}")
                rows.append(cells)
        return Table(heads, rows)

    return table


def _shown(found: list[Report]) -> list[str]:
    """The scores in their order; of those with a damping the best by the mean of both queries."""
    names = list(found[0]["estimators"])
    best = {
        family: max(mine, key=lambda name: sum(one["estimators"][name]["lds"] for one in found))
        for family in TUNED
        if (mine := [name for name in names if name.startswith(f"{family}:")])
    }
    return [name for name in names if best.get(name.partition(":")[0], name) == name]


def _best(batch: int) -> Callable[[Report], str]:
    """Sentences: for each query and kind of sets, the best `dit` and the best of the others."""

    def words(report: Report) -> str:
        case = next(case for case in report["cases"].values() if case["batch"] == batch)
        said = []
        for query in QUERIES:
            for part in SETS:
                found = case["queries"][query][part]
                values = {name: one["lds"] for name, one in found["estimators"].items()}
                own = max((name for name in values if name.startswith("dit")), key=values.__getitem__)
                other = max((name for name in values if not name.startswith("dit")), key=values.__getitem__)
                said.append(
                    f"{query}, {part}: `{own}` {values[own]:.3f} "
                    f"({values[own] / found['ceiling']:.2f} of the ceiling), `{other}` {values[other]:.3f}"
                )
        return f"The best form of `dit` and the best other score: {'; '.join(said)}."

    return words


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _seconds(report: Report) -> Table:
    cases = list(report["cases"].values())
    heads = ["CPU seconds", *(f"batch {case['batch']}" for case in cases)]
    names = {name: None for case in cases for name in case["seconds"]}
    each = [[case["seconds"].get(name) for case in cases] for name in names]
    return Table(
        heads,
        [
            [name if " " in name else f"`{name}`", *("" if x is None else f"{x:.1f}" for x in row)]
            for name, row in zip(names, each, strict=True)
        ],
    )


def _setting(report: Report) -> str:
    size = report["size"]
    parameters = next(iter(report["cases"].values()))["parameters"]
    blocks = f"{size['blocks']} block{'s' if size['blocks'] > 1 else ''}"
    quick = (
        "**A quick run, which shows no more than that it works.** " if "--quick" in report["command"] else ""
    )
    return quick + (
        f"A causal transformer of {parameters:,} parameters ({blocks}, width {size['width']}, "
        f"{size['heads']} heads, GELU, layer norm, no dropout) learns from nothing the next of "
        f"{report['pieces']} word pieces, in {size['train']} sequences of {size['length']} from the "
        f"beginnings of newsgroup posts; {size['epochs']} epochs. AdamW: learning rate {size['lr']:g} after "
        "linear warm-up over a fifth of the steps, then down linearly; betas .9 and .999, "
        f"eps {size['eps']:g}, weight decay {size['weight_decay']:g}. Losses are in nats a piece, of "
        f"{size['test']} test sequences. Perplexity "
        "*of frequencies alone* foretells every piece by its frequency in training. *Moved*: the start moved "
        f"by {report['moved']:g} of each tensor's root mean square. *Other seed*: another start and order of "
        "batches, the same sequences."
    )


def _words(report: Report) -> str:
    return (
        f"{report['sets']} random halves and {report['sets']} random sets of 90 % of the sequences. LDS with "
        "its 95 % interval. *Single sequences*: eight test sequences, each a query; the mean over them. "
        "*Retraining again*: "
        "retrainings of the recorded run against those from a moved start, and against those of another "
        "seed. *Of ceiling*: LDS divided by what the expected effect would reach against one run "
        "([ceilings](../ceilings.md)). *Other seed*: the scores of one run against retrainings of another. "
        "`ekfac` (labels drawn from the model; linear layers only) and `trak` have the damping of four that "
        "does best on these very sets."
    )


PAGE = Page(
    "A small language model",
    "Scores for a transformer trained with Adam, by the linear datamodeling score (LDS): Spearman's "
    "correlation between summed scores of what is left out and what retraining gives. To stand beside: on "
    "GPT-2 and WikiText, MAGIC has .931, and .829 against retrainings with another seed; there EK-FAC "
    "has .454, BM25 .220, the gradient cosine .156, TRAK .138 (bergson's leaderboard, EleutherAI, 2026). "
    "Model, data and sets are others there, so the figures are neighbours and no race.",
    {
        "language-model": Section("What was trained", ("language_model",), _setting, _models),
        "language-model-64": Section("Batches of 64", ("language_model",), _words, _lds(64), _best(64)),
        "language-model-16": Section("Batches of 16", ("language_model",), "As above.", _lds(16), _best(16)),
        "language-model-cost": Section(
            "What it costs",
            ("language_model",),
            "`record` is one training run with its checks; scores are those of both queries, nine together.",
            _seconds,
        ),
    },
)
