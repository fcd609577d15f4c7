"""Every code block of README and docs runs, every figure is the results' own, every link leads somewhere.

Blocks of a page run in order, in one temporary directory:

- ```python blocks share a namespace; a ```text block right after one is what it prints. One below a line
  `<!-- file: NAME -->` is also a file of that name, for the commands.
- ```bash blocks hold `influencekit` commands; a ```console block also shows what each of them prints.
- `<!-- needs LIBRARY -->`: the blocks of its section (above the first one: all) run only where this
  library, an extra or a plugin, is installed.
- ```diff blocks are loop styles, which tests/loops runs.
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
BY_HAND = [page for page in PAGES if page.parent != tables.FOLDER]
DOCS = ROOT / "docs"
AGREEMENT = 0.05  # of a trained network, which rounding of another CPU can move; the words are exact
FENCE = re.compile(r"(?ms)^```(\w*)[^\n]*\n(.*?)^```$")
NEEDS = re.compile(r"<!-- needs (\w+) -->")
NOT_RUN = re.compile(r"<!-- not run by tests/test_docs\.py: \S[^\n]+ -->\n\Z")
FILE = re.compile(r"<!-- file: (\w+\.py) -->\n\Z")
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def name(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix().removeprefix("docs/")


each_page = pytest.mark.parametrize("page", PAGES, ids=name)
each_page_by_hand = pytest.mark.parametrize("page", BY_HAND, ids=name)


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int  # of its first line in the page
    run: bool  # False where the page says that it is not
    needs: tuple[str, ...]  # libraries
    output: str | None  # the text block right after it
    file: str | None  # which it is, too


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    whole_page = NEEDS.findall(text.partition("\n## ")[0])
    result = []
    for fence, after in zip(found, [*found[1:], None], strict=False):
        before, line = text[: fence.start()], text[: fence.start(2)].count("\n") + 1
        adjoining = after and after[1] == "text" and not text[fence.end() : after.start()].strip()
        output = after[2] if after and adjoining else None
        file = named[1] if (named := FILE.search(before)) else None
        needs = (*whole_page, *NEEDS.findall(before.rpartition("\n## ")[2]))
        result.append(Block(fence[1], fence[2], line, NOT_RUN.search(before) is None, needs, output, file))
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


@each_page_by_hand
def test_every_block_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    missing = set()
    namespace = {"__name__": "__main__"}  # as in a script of the reader's
    for block in blocks(page):
        if not block.run:
            assert block.language == "bash", (
                f"{page.name}, line {block.line}: only bash blocks may be left out"
            )
            continue
        if absent := [library for library in block.needs if importlib.util.find_spec(library) is None]:
            missing.update(absent)
        elif block.language == "python":
            if block.file:
                with (tmp_path / block.file).open("a") as file:
                    file.write(block.text)
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
            assert block.language in ("text", "toml", "bibtex", "diff"), (
                f"{page.name}, line {block.line}: which language?"
            )
    if missing:
        pytest.skip(f"all but the blocks that need {', '.join(sorted(missing))} ran")


@each_page
def test_tables_and_figures_are_what_the_results_say(page):
    if page == tables.FOLDER / "workloads.md":
        pytest.importorskip("influencekit_paper")  # most of the settings are its own
    assert tables.is_current(page), "run python docs/tables.py"


def test_a_changed_figure_is_noticed():
    text = (DOCS / "trust.md").read_text(encoding="utf-8")
    changed = re.sub(r"(<!-- figure: trust[^>]+-->)", r"\g<1>1", text)
    assert changed != text == tables.quoted.rewritten(changed)


def test_no_page_of_results_is_left_over():
    assert {page for page in PAGES if page.parent == tables.FOLDER} == set(tables.FOLDER.iterdir())
    assert len(tables.TABLES) == sum(len(page.sections) for page in tables.PAGES.values()), "a name twice"


def test_every_result_has_its_command_and_the_code_that_it_measures():
    assert set(tables.age.SOURCES) == set(tables.age.files()), "docs/_tables/sources.py lists every result"
    for name, source in tables.age.SOURCES.items():
        lost = [path for path in source.code if not (ROOT / path).exists()]
        assert not lost, f"{name} measures {lost}, which is not there"


def test_the_age_of_results_needs_no_history(monkeypatch):
    """Old results fail nothing; without git, or in a shallow checkout, the page says so."""
    monkeypatch.setattr(tables.age, "history", lambda: [])
    assert "unknown" in tables.age.summary() and tables.is_current(tables.FOLDER / "age.md")
    parsed = tables.age._parsed(
        "commit 2\n\nM\tnew/a.py\n\ncommit 1\n\nR100\told/a.py\tnew/a.py\n\ncommit 0\n\nA\told/a.py\n"
    )
    assert [(c.date, set(c.changed)) for c in parsed] == [
        ("2", {"new/a.py"}),
        ("1", set()),
        ("0", {"new/a.py"}),
    ]


def test_benchmark_commands_of_pages_are_those_of_the_results():
    known = {command for source in tables.age.SOURCES.values() for command in source.commands}
    for page in BY_HAND:
        text = page.read_text(encoding="utf-8")
        for command in re.findall(r"(python -m benchmarks (?!NAME)[^`\n#]*[^`\n# ])", text):
            assert command in known, f"{page.name}: {command} is not in docs/_tables/sources.py"


def test_the_command_line_reference_is_current():
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference()


def test_the_figures_are_drawn_by_their_script(tmp_path):
    pytest.importorskip("influencekit_paper")
    drawn = script("figures").draw(tmp_path)
    assert {file.name for file in drawn} == {file.name for file in (ROOT / "docs" / "figures").iterdir()}
    assert all("<svg" in file.read_text(encoding="utf-8") for file in drawn)


@pytest.mark.parametrize("page", [*PAGES, *sorted(ROOT.glob("plugins/*/README.md"))], ids=name)
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
    """The index leads to every page beside it and to the results and design, and these lead on."""
    starts = [DOCS / "index.md", DOCS / "results" / "index.md", DOCS / "dev" / "design.md"]
    linked = set()
    for start in starts:
        targets = re.findall(r"\]\(([\w/.-]+\.md)", start.read_text(encoding="utf-8"))
        linked |= {(start.parent / target).resolve() for target in targets}
    assert set(PAGES) - linked <= {ROOT / "README.md", DOCS / "index.md"}


@each_page
def test_no_page_names_a_machine_or_a_registry_host(page):
    text = page.read_text(encoding="utf-8")
    found = re.findall(
        r"(?<![\w.])/(?:home|root|tmp|work|Users|opt|mnt)/\S*|\b\w*\.?pypi\.\w+|pythonhosted", text
    )
    assert not found, found
