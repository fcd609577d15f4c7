"""Our own plugins are strangers: they import public names of influencekit and declare what they need."""

import ast
import importlib
import re
import sys
import tomllib
from pathlib import Path

import pytest

PLUGINS = sorted((Path(__file__).parents[1] / "plugins").iterdir())
each_plugin = pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)


def imported(plugin):
    """(file, module, name or None) of every import in a plugin's code; its tests are left out."""
    for path in sorted(plugin.rglob("*.py")):
        if "tests" in path.relative_to(plugin).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                yield from ((path.name, node.module, alias.name) for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from ((path.name, alias.name, None) for alias in node.names)


@each_plugin
def test_it_uses_public_names_only(plugin):
    found = [(f, m, n) for f, m, n in imported(plugin) if m.split(".")[0] == "influencekit"]
    assert found
    for file, module, name in found:
        if name is not None:
            public = importlib.import_module(module).__all__
            assert name in public, f"{plugin.name}/{file}: {name} is not public in {module}"


@each_plugin
def test_it_declares_what_it_imports(plugin):
    project = tomllib.loads((plugin / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {re.split(r"[^\w-]", d)[0].replace("-", "_") for d in project["dependencies"]}
    brought = (
        {"torch", "numpy", "xarray", "zarr"} if "influencekit" in named else set()
    )  # its own requirements
    own = {plugin.name.replace("-", "_")} | set(sys.stdlib_module_names)
    # matplotlib is influencekit's requirement, too, and imported where something is drawn
    missing = {m.split(".")[0] for _, m, _ in imported(plugin)} - named - brought - own - {"matplotlib"}
    assert not missing
