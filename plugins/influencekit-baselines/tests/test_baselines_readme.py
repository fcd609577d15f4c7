"""The README's Python runs and prints what stands below it; its table has every estimator."""

import contextlib
import io
import re
from importlib.metadata import entry_points
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"-?\d+\.\d+")


def test_what_the_readme_shows_is_what_its_code_prints():
    (code, shown), *others = re.findall(r"(?s)```python\n(.*?)```\n\n```text\n(.*?)```", README)
    assert not others
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {"__name__": "readme"})
    found = printed.getvalue()
    assert NUMBER.sub("#", found).split() == NUMBER.sub("#", shown).split()
    for a, b in zip(NUMBER.findall(found), NUMBER.findall(shown), strict=True):
        assert abs(float(a) - float(b)) < 0.02  # rounding of another CPU


def test_its_table_has_every_estimator():
    mine = {p.name for p in entry_points(group="influencekit.estimators") if "baselines" in p.value}
    table = [line.split("|")[1] for line in README.splitlines() if line.startswith("| `")]
    assert {name for cell in table for name in re.findall(r"`([\w-]+)`", cell)} == mine
