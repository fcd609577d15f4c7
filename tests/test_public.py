"""The border: what is public is documented by examples that run, and plugins use nothing else."""

import ast
import doctest
import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").exists())
# the public modules; everything else of the package may be renamed at any time
PUBLIC = {
    "averages", "errors", "estimators", "evaluation", "extend", "interfaces", "metrics", "plot", "progress",
    "queries", "recorders", "registry", "testing", "trainers", "windows", "workloads",
}  # fmt: skip
RETURNS_SCORES = {"estimate", "contributions", "sum_over_windows", "verify_top", "remove", "curate"}


def script(name):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


api = script("api")
NAMES = [(page, name) for page in api.PAGES for name in api.public(page)]


@pytest.mark.parametrize(("page", "name"), NAMES, ids=lambda x: x)
def test_every_public_name_is_explained_by_an_example_that_runs(page, name):
    thing, text = api.public(page)[name], api.text_of(page, name)
    assert len(text) > 40, "a public name says what it is"
    if not api.has_docstring(thing):
        return  # a constant
    assert ">>>" in text, "a public name has a runnable example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    for test in doctest.DocTestFinder(recurse=False).find(thing, name, globs={}):
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("module", ["influencekit", *(f"influencekit.{name}" for name in sorted(PUBLIC))])
def test_every_public_name_stands_in_the_reference(module):
    documented = [thing for page in api.PAGES for thing in api.public(page).values()]
    home = import_module(module)
    names = [n for n in getattr(home, "__all__", []) if not any(getattr(home, n) is x for x in documented)]
    assert not names, f"add {names} of {module} to PAGES of docs/api.py"


@pytest.mark.parametrize("name", api.PAGES["verbs"][2])
def test_verbs_say_their_errors_cost_and_sign(name):
    text = api.text_of("verbs", name)
    assert "Errors:" in text
    assert "Cost:" in text or name in {"make", "spec", "open"}
    assert "Sign:" in text or name not in RETURNS_SCORES


@pytest.mark.parametrize("page", ["index", *api.PAGES])
def test_the_reference_is_current(page):
    written = (api.FOLDER / f"{page}.md").read_text(encoding="utf-8")
    assert written == api.rendered(page), "run python docs/api.py"


def imported(plugin, tests=False):
    """(file, module, name or None) of every import of a plugin, with or without those of its tests."""
    for path in sorted(plugin.rglob("*.py")):
        if tests or "tests" not in path.relative_to(plugin).parts:
            yield from ((path.name, *found) for found in imports(path.read_text(encoding="utf-8")))


def imports(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)


def over_the_border(module, name):
    """Whether this import takes what is not public."""
    top, *rooms = module.split(".")
    if top != "influencekit":
        return False
    if len(rooms) > 1 or (rooms and rooms[0] not in PUBLIC):
        return True
    if name is None:
        return False
    names = getattr(import_module(module), "__all__", [])
    return name not in names and (bool(rooms) or name not in PUBLIC)


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_plugins_use_public_names_only(plugin):
    wrong = [found for found in imported(plugin, tests=True) if over_the_border(*found[1:])]
    assert not wrong, f"plugins use influencekit, influencekit.extend and {sorted(PUBLIC)}; not {wrong}"


@pytest.mark.parametrize("code", [
    "from influencekit._training.batch import select",
    "import influencekit._training",
    "from influencekit import training",
    "from influencekit.plot.style import COLOURS",
    "from influencekit.errors import nothing",
    "def late():\n    from influencekit._effects import backward",
])  # fmt: skip
def test_imports_over_the_border_are_seen(code):
    assert all(over_the_border(*found) for found in imports(code))


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_plugins_declare_what_they_import(plugin):
    project = tomllib.loads((plugin / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [d for each in project.get("optional-dependencies", {}).values() for d in each]
    named = {re.split(r"[^\w-]", d)[0].replace("-", "_") for d in [*project["dependencies"], *extras]}
    assert "influencekit" in named
    # those of influencekit; matplotlib and click, too, where something is drawn or a command
    brought = {"torch", "numpy", "xarray", "zarr", "matplotlib", "pandas", "click"}
    own = {plugin.name.replace("-", "_"), *sys.stdlib_module_names}
    assert not {module.split(".")[0] for _, module, _ in imported(plugin)} - named - brought - own


@pytest.mark.parametrize("module", ["influencekit", "influencekit.extend", "influencekit.estimators"])
def test_public_names_cost_nothing_to_list(module):
    code = f"import {module}, sys; dir({module}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
