"""The README's Python runs and prints what stands below it; its table has every workload."""

import contextlib
import io
import re
from importlib.metadata import entry_points
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"-?\d+\.\d+")


def test_what_the_readme_shows_is_what_its_code_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code, shown), *others = re.findall(r"(?s)```python\n(.*?)```\n\n```text\n(.*?)```", README)
    assert not others
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {"__name__": "readme"})
    found = printed.getvalue()
    assert NUMBER.sub("#", found).split() == NUMBER.sub("#", shown).split()
    for a, b in zip(NUMBER.findall(found), NUMBER.findall(shown), strict=True):
        assert abs(float(a) - float(b)) < 0.02  # rounding of another CPU


def test_its_table_has_every_workload():
    mine = {p.name for p in entry_points(group="influencekit.workloads") if "influencekit_paper" in p.value}
    rows = [line.split("|")[1] for line in README.splitlines() if line.startswith("| `")]
    first = [re.findall(r"`([\w-]+)`", row) for row in rows]
    assert {full.rpartition("-")[0] + model for full, *more in first for model in ("-lr", *more)} == mine


def test_the_command_is_found_by_entry_point():
    (point,) = [p for p in entry_points(group="influencekit.commands") if p.name == "reproduce"]
    assert point.load().name == "reproduce"
