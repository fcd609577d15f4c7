"""docs/results/selected.md: what sums of the scores that chose are worth, and who finds what matters."""

from collections.abc import Callable

import numpy as np

from _tables.page import Page, Report, Section, Table, percent

PART = 0.1  # of the examples, in the table of sums
SUMS = {
    "plain": "sum", "held_out": "on moved runs", "crossfitted": "cross-fitted", "shrunk": "shrunk",
    "retrained": "retrained", "retrained_moved": "retrained, moved runs",
}  # fmt: skip


def _sums(report: Report) -> Table:
    rows = []
    for name, found in report["workloads"].items():
        where = f"{name}, {percent(found['accuracy']['mean'])}"
        for one in found["sums"]:
            if one["part"] == PART:
                cells = [
                    where,
                    f"`{one['estimator']}`",
                    one["end"],
                    f"{found['icc'][one['estimator']]['mean']:.3f}",
                ]
                rows.append([*cells, *(f"{1000 * one[key]['mean']:+.1f}" for key in SUMS)])
    return Table(["workload, test accuracy", "chosen by", "end", "ICC", *SUMS.values()], rows)


def _covered(report: Report) -> str:
    every = [one for found in report["workloads"].values() for one in found["sums"]]
    means = {
        key: percent(float(np.mean([one[key] for one in every])), 0)
        for key in ("holds_one_more_run", "holds_retrained")
    }
    return (
        "Over all three sizes, both ends and all seeds the interval of one more run's sum holds the sum of "
        f"a run that was used for nothing else in {means['holds_one_more_run']} of cases, and what "
        f"retraining without the whole set shows in {means['holds_retrained']}: it is an interval of the "
        "sum, and single effects do not add up."
    )


def _qld(report: Report) -> Table:
    fractions = next(iter(report["workloads"].values()))["qld"]["fraction"]
    rows = []
    for name, found in report["workloads"].items():
        for method, each in found["qld"]["estimators"].items():
            cells = [
                f"{1000 * one['mean']:+.1f} [{1000 * one['low']:+.1f}, {1000 * one['high']:+.1f}]"
                for one in each["qld"]
            ]
            rows.append([name, f"`{method}`", *cells])
    return Table(["workload", "most helpful by", *(percent(f, 0) for f in fractions)], rows)


def _seeds(words: str) -> Callable[[Report], str]:
    return lambda report: f"{words} Mean over {report['seeds']} seeds, in thousandths of a nat."


PAGE = Page(
    "Sums of selected scores, measured",
    "What [Sums of selected scores](../selected-sums.md) says of sums over examples that their own scores "
    "chose. Mean test loss, whole run, setting `trained`.",
    {
        "selected-sums": Section(
            "The most harmful and the most helpful tenth",
            ("selected",),
            _seeds(
                "*Sum*: of the scores of the run that chose. *On moved runs*: the same examples, on runs "
                "whose start was moved by a thousandth; *cross-fitted*: every run chooses in turn and the "
                "others sum; *shrunk*: by the ICC. *Retrained*: without all of them at once, the run itself "
                "and the moved ones. Negative: the loss is lower without them."
            ),
            _sums,
            _covered,
        ),
        "selected-qld": Section(
            "Who finds the examples that matter?",
            ("selected",),
            _seeds(
                "Query loss difference: how much more the loss rises by retraining without the most helpful "
                "examples of an estimator than without as many random ones, with its 95 % interval."
            ),
            _qld,
        ),
    },
)
