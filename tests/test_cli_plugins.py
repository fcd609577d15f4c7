"""Commands of plugins: imported when they are called and not before, and never in the way of others."""

import json
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers_cli import fails, run

from influencekit import registry
from influencekit.cli import cli
from influencekit.cli.reference import reference, reference_of
from influencekit.errors import InputError

ROOT = Path(__file__).parents[1]
COMMAND = """
import click

@click.command(short_help="Says hello.")
@click.option("--name", default="you", help="Whom.")
def hello(name):
    "Say hello."
    click.echo(f"hello {name}")
"""


@pytest.fixture
def install_command(install):
    """The fixture `install`, of commands."""
    return partial(install, group="influencekit.commands", summary="Greets politely.")


def test_a_command_is_listed_without_its_import_and_runs(install_command):
    module = install_command("acme-hello", COMMAND, {"hello": "hello"})
    shown = run("--help").stdout
    assert any(line.split() == ["hello", "Greets", "politely."] for line in shown.splitlines())
    run("compare", "--help")
    assert module not in sys.modules
    listed = "COMMANDS\n  hello  [acme-hello 1.2]\n      Says hello.\n"
    assert run("list", "commands").stdout.startswith(listed)
    assert run("hello", "--name", "world").stdout == "hello world\n"
    assert "Usage: influencekit hello" in run("hello", "--help").stdout
    assert "see 'influencekit hello --help'" in fails("hello", "--nmae", "x", code=2)
    assert "did you mean 'hello'" in fails("helo", code=2)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no luck\\nat all')", "RuntimeError: no luck"),
        ("import not_there_at_all", "No module named 'not_there_at_all'"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("other = 1", "has no attribute 'hello'"),
        ("hello = print", "expected a click.Command"),
        ("raise BaseException('no luck')", "BaseException: no luck"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("print('loud'); 1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_broken_command_is_one_line_for_its_user_and_nothing_to_others(install_command, source, reason):
    install_command("acme-broken", source, {"hello": "hello"})
    assert "hello" in run("--help").stdout and run("list", "recorders").stderr == ""
    assert reason in run("list", "commands").stdout and "COMMANDS" in run("list").stdout
    said = run("hello", code=1)
    assert said.stdout == ""
    line = said.stderr.removeprefix("loud\n").removesuffix("\n")
    assert line.startswith("error: ") and line.isprintable()
    assert "command 'hello' (acme-broken 1.2, acme_broken:hello) is broken" in line and reason in line


def test_two_owners_are_an_error_for_whoever_uses_the_name(install_command):
    install_command("acme-one", COMMAND, {"hello": "hello"})
    install_command("acme-two", COMMAND, {"hello": "hello", "bye": "hello"})
    assert "'hello' has 2 owners: acme-one 1.2 (acme_one:hello) and acme-two 1.2" in fails("hello", code=2)
    assert run("bye").stdout == "hello you\n"


def test_a_plugin_cannot_replace_a_command_of_ours(install_command):
    install_command("acme-bold", COMMAND, {"list": "hello"})
    shown = run("--help")
    assert shown.stdout.count("  list ") == 1
    assert (
        shown.stderr == "warning: the command 'list' of acme-bold 1.2 is left out: influencekit has its own\n"
    )
    assert "RECORDERS" in run("list", "recorders").stdout


def test_the_reference_has_a_plugins_command_on_its_own_page_only(install_command):
    before = reference()
    install_command("acme-hello", COMMAND, {"hello": "hello"})
    assert reference() == before and "hello" not in before
    page = reference_of("hello")
    assert page.startswith("<!-- generated: python -m influencekit.cli.reference hello -->\n\n## hello\n")
    assert "--name TEXT" in page and "## compare" not in page
    with pytest.raises(InputError, match="no command named 'helo'; did you mean 'hello'"):
        reference_of("helo")


def test_what_is_not_installed_says_which_package_brings_it(monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    monkeypatch.setattr(registry, "BUILTINS", {"workload": {}, "estimator": {}})
    registry._entries.cache_clear()
    try:
        for name, package, args in (
            ("reproduce", "influencekit-paper", ["reproduce", "table1"]),
            ("kmnist-lr", "influencekit-paper", ["record", "kmnist-lr", "--store", "x.zarr"]),
            ("trak", "influencekit-baselines", ["compare", "--estimators", "trak"]),
            ("dvemb", "influencekit-dvemb", ["compare", "--estimators", "dvemb"]),
        ):
            line = fails(*args, code=2)
            assert line == f"error: {name} comes with the package {package}: pip install {package}"
    finally:
        registry._entries.cache_clear()


@pytest.mark.parametrize("package", registry.PACKAGES)
def test_the_table_of_packages_is_what_they_say(package):
    file = ROOT / "plugins" / package / "pyproject.toml"
    if not file.exists():
        pytest.skip(f"no {package} in this checkout")
    points = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["entry-points"]
    groups = dict(registry.KINDS) | {"command": "influencekit.commands"}
    brought = {kind: set(points[group]) for kind, group in groups.items() if group in points}
    assert {kind: set(names.split()) for kind, names in registry.PACKAGES[package].items()} == brought


def test_help_imports_no_plugin_and_no_library_of_the_edge():
    code = (
        "import sys\nfrom influencekit.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'rich', 'pandas', 'influencekit_baselines', 'influencekit_paper'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


QUERY = """
import time
from dataclasses import dataclass
import influencekit as ik

print("loud")

@dataclass(frozen=True)
class Norm(ik.Query):
    def labels(self, workload): return ["norm"]
    def evaluate(self, workload, theta): return (theta @ theta)[None]
"""


def test_what_a_plugin_prints_does_not_come_between_json(install, recorded):
    install("acme-norm", QUERY, {"acme-norm": "Norm"})
    result = run(
        "compare",
        recorded,
        "--estimators",
        "if",
        "--loo-examples",
        "4",
        "--query",
        "acme-norm",
        "--json",
        "-",
    )
    assert json.loads(result.stdout)["reference"] == "loo" and result.stderr == "loud\n"


def test_a_plugin_that_takes_long_is_imported_by_those_alone_who_name_it(install, recorded):
    module = install("acme-slow", "raise AssertionError('imported')", {"acme-slow": "Slow"})
    for words in (
        ("--help",),
        ("--version",),
        ("compare", "--help"),
        ("verify", recorded),
        ("list", "recorders"),
    ):
        run(*words)
    run("estimate", recorded, "--trust", "none")
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("entry_points.txt", b"[influencekit.commands]\nhello\n= x\n"),
        ("entry_points.txt", b"\xff\xfe\x00"),
        ("METADATA", b"\xff\xfe\x00"),
        ("METADATA", b"Version: 1.2\n"),
        ("METADATA", None),
        ("entry_points.txt", b"[influencekit.commands]\nhello = :::\n"),
        ("entry_points.txt", b"[influencekit.commands]\n\x1b[31mhello = a:b\n"),
    ],
)
def test_bad_metadata_is_at_most_one_line_and_the_rest_works(install_command, tmp_path, file, content):
    module = install_command("acme-bad", COMMAND, {"hello": "hello"})
    path = tmp_path / f"{module}-1.2.dist-info" / file
    path.unlink() if content is None else path.write_bytes(content)
    registry._entries.cache_clear()
    if content in (b"\xff\xfe\x00", b"[influencekit.commands]\nhello\n= x\n") and file != "METADATA":
        with pytest.warns(RuntimeWarning, match="cannot be read"):
            assert "hello" not in registry.names("query") and "dit" in registry.names("estimator")
    for words in (("--help",), ("list", "commands"), ("list", "recorders")):
        registry._entries.cache_clear()
        result = run(*words)
        assert result.stderr.count("\n") <= 1
        assert "reproduce" in result.stdout or "RECORDERS" in result.stdout
        assert result.output.replace("\n", "").isprintable()
    help_ = CliRunner().invoke(cli, ["--help"], color=True).stdout
    assert help_.replace("\n", "").isprintable()


def test_a_file_that_ends_too_early_is_no_interruption(install_command):
    """As a cache of Python's does that a full disk has cut off; click says `interrupted`."""
    code = COMMAND.replace("    click.echo(", "    raise EOFError('marshal data too short')\n    click.echo(")
    install_command("acme-hello", code, {"hello": "hello"})
    said = fails("hello", code=1)
    assert "a file ended too early (marshal data too short)" in said and "__pycache__" in said
