"""Tables of `reproduce`: the paper's figures in their places, means, kappa."""

import math

import numpy as np
import pytest
from influencekit_paper.reproduce import beyond, plan, report, tables
from influencekit_paper.reproduce.table5 import table5


def test_a_figure_is_mean_and_deviation_of_what_is_there():
    values = [1.0, 4.0, float("nan"), None, 7.0]
    figure = report.mean_of(values, 3.5)
    assert (figure.mean, figure.std, figure.seeds) == (4.0, np.std([1, 4, 7]), 3)
    assert str(figure) == "4.00 ± 2.45 [3.50]" and figure.reached
    assert str(report.mean_of([])) == "-" and not report.mean_of([], 1.0).reached
    assert str(report.mean_of([0.5])) == "0.50"


def judged(value):
    return {"found": value, "auc": 0.5}


def test_the_papers_figures_stand_where_they_belong():
    """Against figures read off the paper's pages, one or two a column."""
    detection = {
        "accuracy": 0.9, "flipped": 12, "epochs": [0, 1, 2],
        "found": {n: judged(k) for k, n in enumerate(("if", "full", "loo", "tracin", "gradient-norm"))},
        "each": {r: [judged(10), judged(11), judged(12)] for r in ("global", "window", "occurrence")},
    }  # fmt: skip
    rows = {(m, "paper", f"{s:.0%}"): [detection] for m in ("lr", "dnn") for s in plan.FLIPPED}
    found = {line.labels: line.figures for line in table5(rows).lines}
    for labels, column, mean, paper in (
        (("dnn", "paper", "if"), 0, 0, 2.94),
        (("dnn", "paper", "full"), 3, 1, 45.31),
        (("lr", "paper", "loo"), 1, 2, 23.50),
        (("dnn", "paper", "first window"), 2, 10, 32.19),
        (("lr", "paper", "middle global"), 3, 11, 46.56),
        (("dnn", "paper", "last occurrence"), 0, 12, 9.38),
        (("dnn", "paper", "tracin"), 0, 3, None),
    ):
        assert (found[labels][column].mean, found[labels][column].printed) == (mean, paper)
    stages = {"accuracy": 0.9, "tau": {r: dict.fromkeys(tables.PAIRS, 0.5) for r in detection["each"]}}
    stages["tau"]["global"] = stages["tau"]["global"] | {"early-late": 0.1}
    fourth = tables.table4({("dnn", "mnist"): [stages, {"accuracy": 0.5, "failed": "..."}]})
    first = dict(zip(fourth.columns, fourth.lines[0].figures, strict=True))
    assert (first["early-late"].mean, first["early-late"].printed, first["early-late"].seeds) == (
        0.1,
        0.18,
        1,
    )
    assert first["early-late lowest, % of runs"].mean == 100 and first["late-full"].printed == 0.20
    assert "1 of 1 rows (global), 1 of 1 rows (window)" in fourth.notes[0] and "1 of 2" in fourth.notes[1]
    one = {"accuracy": 0.5, "share": dict(zip(tables.PATTERNS, (0.7, 0.1, 0.2, 0.0), strict=True))}
    both = one | {"share_by_p": dict(zip(tables.PATTERNS, (0.2, 0.3, 0.4, 0.1), strict=True))}
    line, alone = tables.table1({("cnn", "mnist"): [both]}).lines
    assert line.labels[-1] == "p and size" and alone.labels[-1] == "p alone"
    assert [f.mean for f in alone.figures] == pytest.approx([50, 20, 30, 40, 10])
    assert [f.printed for f in alone.figures] == [f.printed for f in line.figures]
    assert (
        "p and size in 1 of 1 rows, by p alone in 0 of 1"
        in tables.table1({("cnn", "mnist"): [both]}).notes[0]
    )
    assert [f.printed for f in line.figures[1:]] == [83.76, 0.34, 11.74, 4.15]
    assert [f.mean for f in line.figures] == pytest.approx([50, 70, 10, 20, 0])
    metrics = dict(zip(("pearson", "spearman", "kendall", "jaccard"), (0.9, 0.8, 0.7, 0.6), strict=True))
    both = {"dit": metrics, "if": metrics}
    line = tables.table2({("dnn", "20news"): [{"accuracy": 0.5, "agreement": both}]}).lines[1]
    assert line.labels[-1] == "if" and [f.printed for f in line.figures[1:]] == [0.77, 0.80, 0.62, 0.55]
    one = {"accuracy": 0.5, "agreement": {"late": both}, "examples": dict.fromkeys(tables.PATTERNS, 9)}
    late = {line.labels: line for line in tables.table3({("dnn", "mnist"): [one]}).lines}
    assert [f.printed for f in late["late", "dit"].figures[1:]] == [0.98, 0.98, 0.90, 0.85]
    assert [f.mean for f in late["late", "if"].figures] == [9, *metrics.values()]
    assert late["early", "dit"].figures[1].seeds == 0
    assert str(late["late", "dit"].figures[-1]) == "0.60 [0.85]"
    tied = tables.table3({("dnn", "mnist"): [one, one | {"ties": {"late": {"dit": 2, "if": 0}}}]})
    late = {line.labels: str(line.figures[-1]) for line in tied.lines}
    assert late["late", "dit"] == "0.60 ± 0.00~ [0.85]" and "~" not in late["late", "if"]
    assert "~: rounding decides who is in a top 30 % (dit of late in 1 seeds)." in tied.notes


def test_a_ceiling_adds_a_row_for_loo_again_and_two_columns():
    metrics = dict(zip(("pearson", "spearman", "kendall", "jaccard"), (0.9, 0.8, 0.7, 0.6), strict=True))
    cell = {"accuracy": 0.5, "agreement": {"dit": metrics, "if": dict.fromkeys(metrics, 0.4)}}
    most = {"accuracy": 0.6, "again": dict.fromkeys(metrics, 0.75), "ceiling": dict.fromkeys(metrics, 0.5)}
    none = most | {"ceiling": dict.fromkeys(metrics, 0.0)}
    row = ("dnn", "20news")
    plain = tables.table2({row: [cell, cell]})
    found = tables.table2({row: [cell, cell], (*row, "ceiling"): [most, none]})
    assert found.columns == (*plain.columns, "ceiling", "spearman / ceiling")
    dit, gradient, again = found.lines
    assert [line.labels[-1] for line in found.lines] == ["dit", "if", "loo again"]
    assert dit.figures[:-2] == plain.lines[0].figures and found.notes[0] == plain.notes[0]
    assert (dit.figures[-2].mean, dit.figures[-1].mean) == pytest.approx((0.25, 1.6))
    assert dit.figures[-1].seeds == 1, "a ceiling of 0 has no part"
    assert gradient.figures[-1].mean == pytest.approx(0.8)
    assert [f.mean for f in again.figures[:5]] == pytest.approx([60, 0.75, 0.75, 0.75, 0.75])
    assert str(again.figures[-1]) == "-" and "loo again: leave-one-out of runs" in found.notes[-1]


def test_a_ceiling_of_a_pattern_stands_beside_it_where_it_has_enough_examples():
    metrics = dict(zip(("pearson", "spearman", "kendall", "jaccard"), (0.9, 0.8, 0.7, 0.6), strict=True))
    both = {"dit": metrics, "if": dict.fromkeys(metrics, 0.4)}
    none = {"accuracy": 0.5, "agreement": {}, "examples": dict.fromkeys(tables.PATTERNS, 2)}
    cell = none | {"agreement": {"late": both}, "examples": dict.fromkeys(tables.PATTERNS, 9)}
    itself = {"again": dict.fromkeys(metrics, 0.75), "ceiling": dict.fromkeys(metrics, 0.5)}
    ceilings = [{"accuracy": 0.5, "patterns": {"late": itself}}, {"accuracy": 0.5, "patterns": {}}]
    row = ("dnn", "mnist")
    found = tables.table3({row: [cell, none], (*row, "ceiling"): ceilings})
    lines = {line.labels: line.figures for line in found.lines}
    assert found.columns[-2:] == ("ceiling", "spearman / ceiling")
    assert [f.mean for f in lines["late", "dit"][-2:]] == pytest.approx([0.5, 1.6])
    assert lines["late", "dit"][-2].seeds == 1 and lines["late", "loo again"][2].mean == 0.75
    assert str(lines["early", "dit"][-1]) == str(lines["late", "loo again"][-1]) == "-"
    assert "loo again" in found.notes[-1] and {len(line) for line in lines.values()} == {7}


def test_every_table_of_the_paper_is_brought_along_whole():
    paper = report.printed()
    assert sum(len(row) for row in paper["table_1_pattern_percent"].values() if isinstance(row, dict)) == 10
    assert all(
        len(v) == 6 for m in ("lr", "dnn") for v in paper["table_4_kendall_between_stages"][m].values()
    )
    assert paper["table_5_flipped_found_mnist"]["flipped"] == [12, 25, 38, 51]


def test_kappa_is_agreement_beyond_chance():
    assert beyond.kappa(list("sels"), list("sels")) == 1
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed .7, by chance .5
    one, other = "y" * 25 + "n" * 25, "y" * 20 + "n" * 5 + "y" * 10 + "n" * 15
    assert beyond.kappa(list(one), list(other)) == pytest.approx(0.4)
    assert math.isnan(beyond.kappa(["s", "s"], ["s", "s"]))


def test_runs_are_compared_on_the_examples_that_both_have():
    one = {
        "accuracy": 1.0,
        "ids": list("abcd"),
        "pattern": list("self"),
        "full": [1, 2, 3, 4],
        "settled": [1],
    }
    other = one | {"ids": list("xcba"), "pattern": list("sles"), "full": [0, 9, 8, 7]}
    assert beyond._kappa(one, other) == 1 and beyond._tau(one, other) == 1
    assert beyond._settled([{"settled": [0.2, 0.95, 0.8, 0.93, 1.0]}]).mean == 80
    assert beyond._settled([{"settled": [0.95, 1.0]}]).mean == 50
