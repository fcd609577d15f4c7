"""What a stranger meets first: start-up, version, public names, declared dependencies."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from test_layers import FILES, PACKAGE, foreign

import influencekit

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = "{'torch', 'numpy', 'scipy', 'pandas', 'xarray', 'zarr', 'matplotlib'}"


def loaded_after(statement: str) -> str:
    """The heavy packages that a fresh Python has loaded after a statement, and the statement's output."""
    code = (
        f"import sys\ntry:\n    {statement}\nexcept SystemExit: pass\n"
        f"print(sorted({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_loads_nothing_heavy():
    out = loaded_after("from influencekit.cli import main; main(['--help'])")
    assert "compare" in out
    assert out.splitlines()[-1] == "[]"


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import influencekit").strip() == "[]"


def test_the_console_script_is_the_command():
    target = PYPROJECT["project"]["scripts"]["influencekit"]
    module, _, attribute = target.partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_one_version_everywhere():
    citation = re.search(r"(?m)^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation and citation[1] == influencekit.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", influencekit.__version__)
    try:
        assert version("influencekit") == influencekit.__version__
    except PackageNotFoundError:
        pytest.skip("influencekit is run from the checkout here, not installed; tox installs it")


def test_the_public_names_are_sorted_and_there():
    names = list(influencekit.__all__)
    assert names == sorted(set(names))
    assert [name for name in names if getattr(influencekit, name, None) is None] == []
    assert set(names) <= set(dir(influencekit))
    with pytest.raises(AttributeError, match="no attribute 'nothing_like_this'"):
        influencekit.nothing_like_this  # noqa: B018


def test_every_public_thing_is_there_and_documented():
    for found in pkgutil.walk_packages([str(PACKAGE)], "influencekit."):
        try:
            module = importlib.import_module(found.name)
        except ModuleNotFoundError as missing:  # an integration, where its library is not installed
            assert found.name == f"influencekit.trainers.{missing.name}"
            continue
        for name in getattr(module, "__all__", []):
            thing = getattr(module, name, None)
            assert thing is not None, f"{found.name} promises {name}"
            if inspect.isclass(thing) or inspect.isfunction(thing):
                assert thing.__doc__, f"{found.name}.{name} needs a docstring"


def test_everything_imported_is_declared():
    declared = {re.match(r"[\w-]+", row)[0] for row in PYPROJECT["project"]["dependencies"]}
    declared |= {"PIL"} if "pillow" in declared else set()  # the name by which it is imported
    optional = {
        re.match(r"[\w-]+", row)[0]
        for rows in PYPROJECT["project"]["optional-dependencies"].values()
        for row in rows
    }
    for path in FILES.values():
        known = set(sys.stdlib_module_names) | declared
        if path.stem == "testing":
            known |= {"pytest"}
        if path.parent.name == "trainers":  # each with the library of its name, which is its extra
            known |= {path.stem} & optional
        if path.stem == "remote":  # which is imported where an address is opened
            known |= {"obstore"}
        assert foreign(path, lazy=False) <= known, path.name
        assert foreign(path) <= known | optional, path.name


def test_the_licence_is_the_one_declared():
    assert PYPROJECT["project"]["license"] == "Apache-2.0"
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence and "END OF TERMS AND CONDITIONS" in licence
