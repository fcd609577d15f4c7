"""The tutorial's plugin: the page makes its files, the suite finds planted bugs, anyone can install it."""

import importlib.util
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import influencekit
from influencekit.testing import check_estimator, parametrize_with_checks

HOME = str(Path(influencekit.__file__).parents[1])
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "plugins" / "influencekit-example"
SOURCE = (FOLDER / "influencekit_example.py").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BUGS = re.findall(r"(?m)^\| ([^|]+) \| `([^`]+)` \| `([^`]+)` \| ([^|`]+) \|$", PAGE)


def plugin(source=SOURCE):
    """The plugin's module, made of this text."""
    spec = importlib.util.spec_from_loader("influencekit_example", loader=None)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:  # dataclasses look their module up
        patch.setitem(sys.modules, "influencekit_example", module)
        exec(compile(source, str(FOLDER / "influencekit_example.py"), "exec"), module.__dict__)
    return module


def test_the_page_makes_the_files():
    written = {}
    for name, text in re.findall(r"(?ms)^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", PAGE):
        written.setdefault(name, []).append(text)
    files = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.*")}
    assert {name: "\n\n".join(parts) for name, parts in written.items()} == files
    assert sum(len(text.splitlines()) for text in files.values()) <= 60


@parametrize_with_checks([plugin().WeightNorm()])
def test_it_conforms(subject, check):
    """Its estimator is checked by the page itself."""
    check(subject)


def test_five_bugs_are_on_the_page():
    assert len(BUGS) == 5


@pytest.mark.parametrize(("bug", "old", "new", "law"), BUGS, ids=[bug for bug, *_ in BUGS])
def test_the_suite_finds_a_planted_bug(bug, old, new, law):
    assert SOURCE.count(old) == 1
    with pytest.raises(AssertionError) as found:
        check_estimator(plugin(SOURCE.replace(old, new)).Forward())
    assert str(found.value).partition(":")[0] == law


def test_it_is_built_installed_into_a_fresh_environment_and_run(tmp_path):
    def run(*words):
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    run(sys.executable, "-m", "venv", "--without-pip", "fresh")
    python = tmp_path / "fresh" / "bin" / "python"
    here = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "fresh")})
    # influencekit and torch are this environment's own; the plugin is nowhere but in the new one
    packages = [p for p in sys.path if p.endswith("-packages")]
    (Path(here) / "this.pth").write_text("\n".join([*packages, HOME]), encoding="utf-8")
    run(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(FOLDER))
    listed = run(str(python), "-m", "influencekit.cli", "list", "estimators")
    assert re.search(r"forward .*influencekit-example 0\.1\.0", listed)
    words = ["compare", "mnist-1v7-lr:epochs=2", "--estimators", "dit,forward", "--query", "weight-norm"]
    shown = run(str(python), "-m", "influencekit.cli", *words)
    rows = {line.split()[0]: line.split()[1:5] for line in shown.splitlines() if line.strip()}
    assert rows["dit"] == rows["forward"]  # one derivative, by two ways
