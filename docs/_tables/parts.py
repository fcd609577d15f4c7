"""docs/results/parts.md: scores of the tokens of a small language model."""

from _tables.page import Page, Report, Section, Table


def _setting(report: Report) -> str:
    size = report["size"]
    before, after = report["test_loss"]
    return (
        "The transformer of [the small language model](language-model.md), "
        f"{report['parameters']:,} parameters, AdamW, in {report['dtype']}, on {size['train']} sequences of "
        f"{size['length']} tokens for {size['epochs']} epochs in batches of {report['batch']}: "
        f"{report['steps']} steps, after which the test loss is {after:.2f} (before: {before:.2f}). It is a "
        "short run, so that the measurement takes minutes. The query is the mean test loss."
    )


def _sums(report: Report) -> Table:
    heads = ["removal", "largest gap, relative to the largest score"]
    return Table(heads, [[words, f"{gap:.1e}"] for words, gap in report["sums"].items()])


def _cost(report: Report) -> str:
    sequences, tokens = report["seconds"]["sequences"], report["seconds"]["tokens"]
    return (
        f"A sweep for all sequences took {sequences:.2f} s of CPU, for all tokens {tokens:.2f} s "
        f"({tokens / sequences:.2f} times)."
    )


def _loo(report: Report) -> Table:
    rows = []
    for eps, key in ((1e-8, "loo"), (report["eps"], "loo with eps")):
        for name, each in report[key]["agreement"].items():
            cells = [f"{each[k]:.3f}" for k in ("dit", "again", "ceiling")]
            rows.append([f"{eps:g}", name.capitalize(), *cells])
    return Table(["eps of AdamW", "metric", "`dit`", "retraining again", "ceiling"], rows)


def _loo_words(report: Report) -> str:
    found = report["loo"]
    return (
        f"{found['tokens']} random tokens, each left out by training again with weight 0 on it. *Retraining "
        f"again*: the same from a start moved by {report['moved']:g} of each tensor's root mean square. "
        "*Ceiling*: what the expected effect would reach against one run ([ceilings](../ceilings.md))."
    )


def _qld(report: Report) -> Table:
    rows = []
    for unit, found in report["qld"]["units"].items():
        cells = [{"part": "tokens", "example": "whole sequences"}[unit]]
        for name in ("rise", "random", "qld"):
            one = found[name]
            interval = f" [{one['low']:+.4f}, {one['high']:+.4f}]" if "low" in one else ""
            cells.append(f"{one['mean']:+.4f}{interval}")
        rows.append(cells)
    return Table(["left out", "rise without the top ones", "without random ones", "difference"], rows)


def _qld_words(report: Report) -> str:
    found = report["qld"]
    return (
        f"How much the mean test loss rises without the {found['k']} most helpful tokens "
        f"({100 * found['fraction']:g} %), and without about as many in whole sequences, chosen by `dit`; "
        f"{found['draws']} random sets of each kind. 95 % bootstrap intervals over draws and test sequences."
    )


PAGE = Page(
    "Parts of an example",
    "Scores of single tokens ([parts of an example](../parts.md)).",
    {
        "parts-sums": Section("Do they add up?", ("parts",), _setting, _sums, _cost),
        "parts-loo": Section("Do they agree with retraining?", ("parts",), _loo_words, _loo),
        "parts-qld": Section("Tokens or whole sequences?", ("parts",), _qld_words, _qld),
    },
)
