"""`influencekit reproduce`: cells done once and kept, tables in four forms, beside the paper's figures.

On a tiny problem in place of the paper's; the experiments themselves are held to the verbs they are made of.
"""

import csv
import json
import math
import multiprocessing
import os
import re
from itertools import combinations

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from influencekit_paper.command import BEYOND, GIVEN, PAPER, reproduce
from influencekit_paper.patterns import PATTERNS, patterns
from influencekit_paper.reproduce import Extent, cells, experiments, plan, running, runs, wrong_labels
from influencekit_paper.reproduce import reproduce as in_python
from influencekit_paper.reproduce.baselines import gradient_norm, tracin
from influencekit_paper.reproduce.cells import Cell
from torch.func import grad

import influencekit as ik
from influencekit.errors import InputError
from influencekit.evaluation import flipped
from influencekit.metrics import agreement, pearson
from influencekit.progress import listen

TINY = "mnist-1v7-lr:setting=paper:epochs=6:n_train=24:batch_size=8"


@pytest.fixture
def tiny(monkeypatch):
    """Every table of one tiny row or two, which take no second."""
    monkeypatch.setattr(plan, "spec", lambda model, data, setting="paper": TINY)
    monkeypatch.setattr(plan, "SMALL", [("lr", "mnist")])
    monkeypatch.setattr(plan, "LARGE", [])
    monkeypatch.setattr(plan, "SETTINGS", [("lr", "paper"), ("cnn", "paper")])
    monkeypatch.setattr(plan, "FLIPPED", (0.2,))
    monkeypatch.setattr(Extent, "retrained", lambda self: (1, 10))


@pytest.fixture
def forbidden(monkeypatch):
    """From here on no cell may be done."""

    def fail(cell, device):
        raise AssertionError(f"{cell} was done again")

    return lambda: monkeypatch.setattr(cells, "run", fail)


def command(*words, out, code=0) -> Result:
    """The command without influencekit's own group, so that errors are still Python's."""
    options = ("--out", out, "--workers", "1", "--device", "cpu")
    result = CliRunner().invoke(reproduce, [str(w) for w in (*words, *options)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


# the command ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder that tables share, as a user's."""
    return tmp_path_factory.mktemp("reproduced") / "deep" / "out"


@pytest.mark.parametrize("table", [*PAPER, *BEYOND])
def test_a_table_is_run_printed_and_saved_in_four_forms_that_parse(tiny, forbidden, table, out):
    seeds = "2" if table in ("table4", "table5") else "1"
    shown = command(table, "--seeds", seeds, out=out).stdout
    report = json.loads((out / f"{table}.json").read_text())
    assert shown.startswith(report["title"]) and report["seeds"] == int(seeds) and not report["quick"]
    assert all(note in shown for note in report["notes"])
    assert report["command"] == f"influencekit reproduce {table} --seeds {seeds}"
    figures = [f for line in report["lines"] for f in line["figures"].values()]
    assert figures and all(f["mean"] is None or math.isfinite(f["mean"]) for f in figures)
    assert any(f["seeds"] for f in figures)
    rows = list(csv.DictReader((out / f"{table}.csv").open()))
    assert [float(r["mean"]) if r["mean"] else None for r in rows] == [f["mean"] for f in figures]
    assert [float(r["printed"]) if r["printed"] else None for r in rows] == [f["printed"] for f in figures]
    columns = len(report["lines"][0]) - 1 + len(report["lines"][0]["figures"])
    marked = [x for x in (out / f"{table}.md").read_text().splitlines() if x.startswith("|")]
    assert len(marked) == len(report["lines"]) + 2 and {x.count("|") for x in marked} == {columns + 1}
    latex = (out / f"{table}.tex").read_text()
    body = re.search(r"\\begin\{tabular\}\{([lr]+)\}(.*)\\end\{tabular\}", latex, re.S)
    lines = [x for x in body[2].splitlines() if x.endswith(r"\\")]
    assert len(body[1]) == columns and len(lines) == len(report["lines"]) + 1
    assert {len(re.findall(r"(?<!\\)&", x)) for x in lines} == {columns - 1}
    assert not re.search(r"(?<!\\)[%#_]", latex) and latex.count("{") == latex.count("}")
    forbidden()
    assert command(table, "--seeds", seeds, out=out).stdout == shown


def test_all_is_every_table_of_the_paper(tiny, out):
    shown = command("all", "--quick", "--seeds", "1", out=out).stdout
    assert f"saved in {out}: {', '.join(PAPER)} (csv, json, tex, md)" in shown
    assert json.loads((out / "table4.json").read_text())["quick"]
    assert {*PAPER, *GIVEN, *BEYOND} == set(plan.PLANS)


def test_quick_is_two_seeds_and_less_retraining():
    seeds = [c.seed for row in plan.table5(Extent(2, quick=True)).values() for c in row]
    assert set(seeds) == {0, 1}
    assert Extent(2, quick=True).retrained() == (1, 16) and Extent().retrained() == (2, 64)
    assert Extent(device="cuda").retrained() == (16, 0)


def test_the_cnn_may_have_fewer_seeds():
    rows = plan.table5(Extent(8, cnn_seeds=2))
    assert {len(row) for key, row in rows.items() if key[0] == "cnn"} == {2}
    assert {len(row) for key, row in rows.items() if key[0] != "cnn"} == {8}
    assert len(plan.table1(Extent(8, cnn_seeds=2))["cnn", "mnist"]) == 2


def test_what_stops_a_run_keeps_its_cells_and_the_same_command_continues(tiny, tmp_path, monkeypatch):
    done, do = [], cells.run

    def stopped(cell, device):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(cell)
        return do(cell, device)

    monkeypatch.setattr(cells, "run", stopped)
    result = command("table4", "--seeds", "3", out=tmp_path, code=1)  # 130 below influencekit's own group
    assert f"2 of 3 cells are done and kept in {tmp_path}; the same command continues" in result.stderr
    assert "Traceback" not in result.stderr and not list(tmp_path.glob("table4*"))
    first = [*done]
    monkeypatch.setattr(cells, "run", lambda cell, device: done.append(cell) or do(cell, device))
    command("table4", "--seeds", "3", out=tmp_path)
    assert [c.seed for c in first] == [0, 1] and [c.seed for c in done] == [0, 1, 2]
    assert not list(tmp_path.rglob("*.partial"))


WRONG = [
    (("table9",), ["table9", "table1", "all"]),
    (("table4", "--seeds", "0"), ["--seeds", "0"]),
    (("table4", "--cnn-seeds", "0"), ["--cnn-seeds", "0"]),
]


@pytest.mark.parametrize("words, said", WRONG, ids=lambda x: " ".join(x))
def test_impossible_requests_are_errors_of_usage(words, said, tmp_path):
    shown = command(*words, out=tmp_path, code=2).stderr
    assert all(word in shown for word in said), shown


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    for tables, out, extent, said in (
        (["table4"], tmp_path / "file", Extent(1), "file is a file"),
        (["table4"], tmp_path / "file" / "below", Extent(1), "below cannot be made"),
        (["table0"], tmp_path, Extent(1), "no table named 'table0'"),
        (["table4"], tmp_path, Extent(0), "must be at least 1"),
    ):
        with pytest.raises(InputError, match=said):
            in_python(tables, out, extent)
    assert os.listdir(tmp_path) == ["file"]


# cells ------------------------------------------------------------------------------------------------


def test_different_cells_have_different_files():
    extents = {name: Extent(quick=name == "table6") for name in plan.PLANS}  # which has no data of its own
    all_of = [c for name, make in plan.PLANS.items() for row in make(extents[name]).values() for c in row]
    different = set(all_of)
    assert len({c.file for c in different}) == len(different) > 1000
    assert len({str(c) for c in different}) == len(different)


def test_processes_give_what_one_gives_and_an_error_keeps_what_is_done(tmp_path):
    before = multiprocessing.active_children()
    todo, heard = [Cell("stages", TINY, seed) for seed in range(2)], []
    wrong = Cell("stages", "mnist-1v7-lr:epochs=0", 0)
    with pytest.raises(InputError, match=r"stages, mnist-1v7-lr:epochs=0, seed 0: epochs"):
        with listen(lambda *told: heard.append(told)):
            running.complete([*todo, wrong], tmp_path, executor="processes:2")
    assert multiprocessing.active_children() == before
    saved = {cell: found for cell in todo if (found := cells.load(tmp_path, cell, "cpu"))}
    assert saved and heard == [("cells", done, 3) for done in range(len(saved) + 1)]
    for cell, found in saved.items():
        assert found.found == cells.run(cell, "cpu").found


# experiments ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problem():
    return runs.problem_of(TINY, 0, "cpu")


def test_agreement_is_that_of_compare(problem):
    found = experiments.agreement(problem, 0)
    truth = ik.compare(TINY, ["dit", "if"])
    assert found["accuracy"] == truth.accuracy.item()
    for name, values in found["agreement"].items():
        expected = truth.agreement.sel(estimator=name).values.ravel()
        assert [*values.values()] == pytest.approx(expected.tolist())


def test_a_ceiling_is_that_of_the_verb_and_comes_with_the_command(problem, tiny, tmp_path):
    found = experiments.ceiling(problem, 0, moved=0.01, runs=2)
    truth = ik.compare(TINY, ["dit"], ceiling=0.01, runs=2)
    assert [*found["again"].values()] == pytest.approx(truth.loo_again.values.ravel().tolist())
    assert [*found["ceiling"].values()] == pytest.approx(truth.ceiling.values.ravel().tolist())
    asked = ("--seeds", "1", "--ceiling", "0.01", "--ceiling-runs", "2")
    shown = command("table2", *asked, out=tmp_path / "out").output
    assert "spearman / ceiling" in shown and "loo again" in shown
    assert "--ceiling 0.01 --ceiling-runs 2" in (tmp_path / "out" / "table2.json").read_text()
    refused = command("table4", "--ceiling", out=tmp_path / "none", code=1)
    assert "table2 and table3 have" in str(refused.exception)


def test_a_ceiling_within_a_pattern_is_that_of_its_examples_alone(problem):
    run = experiments.recorded(problem)
    found = experiments.ceiling_by_pattern(problem, 0, moved=0.1, runs=3)["patterns"]
    kinds = experiments.by_pattern(problem, 0)
    effects = ik.ceiling(run, "test-loss", runs=3, moved=0.1).effects[:, 0, 0]
    patterns = experiments.patterns(problem, 0)["pattern"]
    assert found.keys() == kinds["agreement"].keys() and found
    for kind, values in found.items():
        of = [k for k, letter in enumerate(patterns) if letter == kind[0]]
        first, *others = (torch.from_numpy(each.values[of]).double() for each in effects)
        again = torch.stack([agreement(first, other) for other in others]).mean(0)
        assert [*values["again"].values()] == pytest.approx(again.tolist())
        assert values["ceiling"]["pearson"] == pytest.approx(
            np.sqrt(np.mean([pearson(a, b) for a, b in combinations([first, *others], 2)]))
        )


def test_patterns_are_those_of_windows_of_an_epoch(problem):
    found = experiments.patterns(problem, 0)
    run = ik.record(problem)
    scores = ik.estimate(run, windows="each-epoch", removal="window").influence[0]
    kinds = patterns(scores).pattern.values
    assert found["pattern"] == [kind[0] for kind in kinds]
    assert found["share"]["late"] == (kinds == "late").mean()
    by_p = patterns(scores, change=0).pattern.values
    assert found["share_by_p"] == {kind: (by_p == kind).mean() for kind in PATTERNS}
    assert found["full"] == pytest.approx(ik.estimate(run).influence.values.ravel(), rel=1e-4)
    assert found["settled"][-1] == 1 and len(found["settled"]) == 6


def test_detection_counts_flipped_labels_among_the_most_negative(problem):
    found = wrong_labels.detection(problem, 3, flipped=0.2)
    wrong, mask = flipped(problem, 0.2, 3)
    run = ik.record(wrong)
    for name, scores in {
        "full": ik.estimate(run).influence.values.ravel(),
        "loo": ik.estimate(run, estimator="loo").influence.values.ravel(),
        "tracin": tracin(run, "test-loss"),
    }.items():
        lowest = np.argsort(scores)[: mask.sum()]
        assert found["found"][name]["found"] == mask[lowest].sum()
    for k, removal in enumerate(("global", "window", "occurrence")):
        scores = ik.estimate(run, windows="epoch:4", removal=removal).influence.values.ravel()
        assert found["each"][removal][4]["found"] == mask[np.argsort(scores)[: mask.sum()]].sum(), k
    few = wrong_labels.detection(problem, 3, flipped=0.2, every_epoch=False, loo=False)
    assert few["epochs"] == [0, 3, 5] and "loo" not in few["found"]
    assert few["each"]["window"] == [found["each"]["window"][e] for e in (0, 3, 5)]


def test_retraining_a_part_is_leave_one_out_on_it(problem):
    found = wrong_labels.retraining(problem, 1, flipped=0.25, examples=8)
    assert (found["examples"], found["flipped_here"], found["flipped"]) == (8, 2, 6)
    whole = wrong_labels.retraining(problem, 1, flipped=0.25, examples=0)["found"]
    detected = wrong_labels.detection(problem, 1, flipped=0.25)["found"]
    assert whole == {name: detected[name] for name in ("loo", "full")}


def test_a_part_has_flipped_examples_in_proportion():
    mask = np.arange(256) < 51
    for examples, wrong in ((16, 3), (64, 13), (255, 51), (2, 1)):
        part = wrong_labels.part_of(mask, examples, 0)
        assert len(set(part)) == examples and mask[part].sum() == wrong
    assert len(wrong_labels.part_of(mask, 0, 0)) == 256


def test_trained_again_is_the_same_examples_from_another_start_or_in_another_order(problem):
    for again, start, order in (("order", True, False), ("start", False, True), ("both", False, False)):
        other = runs.problem_of(TINY, 0, "cpu", again)
        assert torch.equal(other.train[0], problem.train[0]) and other.train_ids == problem.train_ids
        assert torch.equal(other.theta0, problem.theta0) == start
        assert torch.equal(other.plan.indices, problem.plan.indices) == order


def test_baselines_are_what_autograd_says():
    workload = runs.problem_of("mnist-1v7-dnn:epochs=2:n_train=12:batch_size=5", 0, "cpu")
    run = ik.record(workload)
    x, y = workload.train

    def gradient(theta, j):
        def loss(v):
            return workload.losses(v, (x[j : j + 1], y[j : j + 1]))[0] + workload.l2 / 2 * v @ v

        return grad(loss)(theta)

    norms = [-float(gradient(run.final.theta, j).norm()) for j in range(12)]
    assert gradient_norm(run).tolist() == pytest.approx(norms, rel=1e-4)
    expected = np.zeros(12)
    for t in (2, 5):  # the last steps of the two epochs
        theta = run.state(t + 1).theta
        q = grad(lambda v: workload.losses(v, workload.test).mean())(theta)
        expected += [run.plan.lr[t, 0].item() * float(q @ gradient(theta, j)) for j in range(12)]
    assert tracin(run, "test-loss").tolist() == pytest.approx(expected.tolist(), rel=1e-3)
