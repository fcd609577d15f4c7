"""Every code block of README and docs runs, every table is the results' own, every link leads somewhere.

Blocks of a page run in order, in one temporary directory:

- ```python blocks share a namespace; a ```text block right after one is what it prints.
- ```bash blocks hold `influencekit` commands; a ```console block also shows what each of them prints.
- `<!-- needs LIBRARY -->`: the page's blocks run only where this library, an extra, is installed.
- A bash block that installs something or runs a benchmark has the line
  `<!-- not run by tests/test_docs.py: REASON -->` above it, and the reason says what covers it instead.

Printed words must be the same; numbers may differ between machines, but agreement figures (three decimals)
are held to AGREEMENT.
"""

import contextlib
import importlib.util
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from influencekit.cli import main
from influencekit.cli.reference import reference

ROOT = Path(__file__).parents[1]


def script(name: str):
    """A script of docs as a module; docs is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = script("tables")
PAGES = tables.pages()
AGREEMENT = 0.05  # of a trained network, which rounding of another CPU can move; the words are exact
FENCE = re.compile(r"(?ms)^```(\w*)[^\n]*\n(.*?)^```$")
NEEDS = re.compile(r"<!-- needs (\w+) -->")
NOT_RUN = re.compile(r"<!-- not run by tests/test_docs\.py: \S[^\n]+ -->\n\Z")
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int  # of its first line in the page
    run: bool  # False where the page says that it is not
    output: str | None  # the text block right after it


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    result = []
    for fence, after in zip(found, [*found[1:], None], strict=False):
        before, line = text[: fence.start()], text[: fence.start(2)].count("\n") + 1
        adjoining = after and after[1] == "text" and not text[fence.end() : after.start()].strip()
        output = after[2] if after and adjoining else None
        result.append(Block(fence[1], fence[2], line, NOT_RUN.search(before) is None, output))
    return result


def commands(block: Block) -> list[tuple[list[str], str | None]]:
    """(arguments of influencekit, what it should print or None) for every command of a block."""
    found: list[tuple[list[str], str | None]] = []
    if block.language == "bash":
        for line in block.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                found.append((words, None))
    else:
        for part in re.split(r"(?m)^\$ ", block.text)[1:]:
            line, _, output = part.partition("\n")
            found.append((shlex.split(line, comments=True), output))
    for words, _ in found:
        assert words[0] == "influencekit", (
            f"{' '.join(words)}: only influencekit is run; mark the block if it is not"
        )
    return [(words[1:], output) for words, output in found]


def run_command(arguments: list[str]) -> str:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code, f"influencekit {shlex.join(arguments)}: {err.getvalue()}"
    return out.getvalue()


def same_words(printed: str, shown: str) -> None:
    """Equal but for blanks and numbers; agreement figures near each other."""

    def words(text: str) -> list[str]:
        return [" ".join(NUMBER.sub("#", line).split()) for line in text.strip().splitlines()]

    assert words(printed) == words(shown)
    for found, expected in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
        if re.fullmatch(r"-?\d\.\d{3}", expected):
            assert float(found) == pytest.approx(float(expected), abs=AGREEMENT)


@each_page
def test_every_block_runs(page, tmp_path, monkeypatch):
    for library in NEEDS.findall(page.read_text(encoding="utf-8")):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}  # as in a script of the reader's
    for block in blocks(page):
        if not block.run:
            assert block.language == "bash", (
                f"{page.name}, line {block.line}: only bash blocks may be left out"
            )
            continue
        if block.language == "python":
            printed = io.StringIO()
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)
            if block.output is not None:
                same_words(printed.getvalue(), block.output)
        elif block.language in ("bash", "console"):
            for arguments, output in commands(block):
                printed_text = run_command(arguments)
                if output is not None:
                    same_words(printed_text, output)
        else:
            assert block.language in ("text", "toml", "bibtex"), (
                f"{page.name}, line {block.line}: which language?"
            )


@each_page
def test_tables_are_what_the_results_say(page):
    assert page.read_text(encoding="utf-8") == tables.rewritten(page), "run python docs/tables.py"


def test_every_table_is_shown_somewhere():
    shown = {name for page in PAGES for _, name, _ in tables.BLOCK.findall(page.read_text(encoding="utf-8"))}
    assert shown == set(tables.TABLES)


def test_the_command_line_reference_is_current():
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference()


def test_the_figures_are_drawn_by_their_script(tmp_path):
    drawn = script("figures").draw(tmp_path)
    assert {file.name for file in drawn} == {file.name for file in (ROOT / "docs" / "figures").iterdir()}
    assert all("<svg" in file.read_text(encoding="utf-8") for file in drawn)


@each_page
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists() and file.is_relative_to(ROOT), (
            f"{page.name} links to {target}, which is not there"
        )
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}, which has no such heading"


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"(?m)^#+ +(.+)$", text)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def test_every_page_is_reached_from_the_index():
    linked = set(re.findall(r"\]\(([\w-]+\.md)", (ROOT / "docs" / "index.md").read_text(encoding="utf-8")))
    assert linked == {page.name for page in PAGES if page.parent.name == "docs"} - {"index.md"}


@each_page
def test_no_page_names_a_machine_or_a_registry_host(page):
    text = page.read_text(encoding="utf-8")
    found = re.findall(
        r"(?<![\w.])/(?:home|root|tmp|work|Users|opt|mnt)/\S*|\b\w*\.?pypi\.\w+|pythonhosted", text
    )
    assert not found, found
