"""The border: what is public, that it is documented with an example that runs, and that plugins use no more."""

import ast
import doctest
import importlib.util
import inspect
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(p for p in ROOT.glob("plugins/**/*.py") if "tests" not in p.parts)
# the documented modules; everything else of the package may be renamed at any time
PUBLIC = {
    "errors", "estimators", "evaluation", "extend", "interfaces", "metrics", "plot", "progress", "queries",
    "recorders", "registry", "testing", "trainers", "windows", "workloads",
}  # fmt: skip
RETURNS_SCORES = {"estimate", "contributions", "sum_over_windows", "verify_top", "remove"}


def _api():
    spec = importlib.util.spec_from_file_location("docs_api", ROOT / "docs" / "api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


api = _api()
NAMES = [(page, name) for page in api.PAGES for name in api.public(page)]
each_name = pytest.mark.parametrize(("page", "name"), NAMES, ids=lambda x: x)


@each_name
def test_every_public_name_is_explained_by_an_example_that_runs(page, name):
    thing = api.public(page)[name]
    if not callable(thing):
        return  # a constant
    text = inspect.getdoc(thing) or ""
    assert len(text) > 40, "a public name says what it is"
    if page in {"verbs", "objects", "interfaces", "estimators", "queries", "recorders", "metrics"}:
        assert ">>>" in text, "a public name has a runnable example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    found = doctest.DocTestFinder(recurse=False).find(thing, name, globs={})
    said: list[str] = []
    for test in found:
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("name", api.PAGES["verbs"][2])
def test_verbs_say_their_errors_cost_and_sign(name):
    text = inspect.getdoc(api.public("verbs")[name]) or ""
    assert "Errors:" in text
    assert "Cost:" in text or name in {"make", "spec", "open"}
    assert "Sign:" in text or name not in RETURNS_SCORES


def test_the_reference_is_current():
    stale = [
        page
        for page in api.PAGES
        if (ROOT / "docs" / "api" / f"{page}.md").read_text(encoding="utf-8") != api.rendered(page)
    ]
    assert not stale, "run python docs/api.py"


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT / "plugins")))
def test_plugins_use_public_names_only(path):
    wrong = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "influencekit":
                import influencekit

                names = [f"influencekit.{a.name}" for a in node.names if a.name not in influencekit.__all__]
        else:
            continue
        for name in names:
            room = name.split(".")[1:]
            if name.split(".")[0] == "influencekit" and room and (room[0] not in PUBLIC or len(room) > 1):
                wrong.append(name)
    assert not wrong, f"plugins use influencekit, influencekit.extend and {sorted(PUBLIC)}; not {wrong}"


def test_public_names_cost_nothing_to_list():
    import subprocess

    code = "import influencekit, sys; dir(influencekit); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
