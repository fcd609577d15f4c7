"""Write the result pages and the figures of the docs from the files of benchmarks/results.

    python docs/tables.py            # writes docs/results, and every block and figure between markers
    python docs/tables.py --check    # changes nothing; exit code 1 if a page is not current

docs/results is generated whole, a module of docs/_tables a page. In the other pages a table stands between
`<!-- table: NAME -->` and `<!-- end of table -->`, a figure in a sentence between `<!-- figure: WHERE -->`
and `<!-- end -->` (docs/_tables/quoted.py). tests/test_docs.py holds all pages to what this script writes.
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))  # docs is no package

from _tables import (  # noqa: E402
    age,
    agreement,
    ceilings,
    cost,
    curation,
    dvemb,
    evaluation,
    exactness,
    examples,
    executors,
    gemma,
    internals,
    language_model,
    layers,
    paper,
    parts,
    peers,
    quoted,
    recording,
    selected,
    smooth,
    suspects,
    trust,
    what_a_score_is_worth,
    workloads,
)
from _tables.page import WARNING  # noqa: E402

FOLDER = ROOT / "docs" / "results"
MODULES = (
    *(what_a_score_is_worth, agreement, ceilings, smooth, selected, trust),
    *(curation, suspects, evaluation, exactness, examples, cost),
    *(language_model, gemma, parts, recording, executors, layers),
    *(paper, peers, dvemb, workloads, internals),
)
PAGES = {module.__name__.rpartition(".")[2].replace("_", "-"): module.PAGE for module in MODULES}
TABLES = {name: section for page in PAGES.values() for name, section in page.sections.items()}
BLOCK = re.compile(r"(<!-- table: ([a-z0-9-]+) -->\n).*?(<!-- end of table -->)", re.S)


def pages() -> list[Path]:
    """README and every page of docs that this script writes or looks into."""
    docs = ROOT / "docs"
    by_hand = [*sorted(docs.glob("*.md")), *sorted((docs / "dev").glob("*.md"))]
    return [ROOT / "README.md", *by_hand, *(FOLDER / f"{name}.md" for name in ("index", *PAGES, "age"))]


def _index() -> str:
    lines = [
        f"- [{page.title}]({name}.md): {'; '.join(section.title for section in page.sections.values())}"
        for name, page in PAGES.items()
    ]
    text = (
        "Every figure of the README and the docs comes from a file of "
        "[benchmarks/results](../../benchmarks/results). These pages show them."
    )
    return (
        "\n\n".join(["# Results", WARNING, text, "\n".join([*lines, "- [Age of the results](age.md)"])])
        + "\n"
    )


def rewritten(page: Path) -> str:
    """The text of a page as it should be now."""
    if page.parent == FOLDER:
        if page.stem in PAGES:
            return PAGES[page.stem].written(page)
        return age.written() if page.stem == "age" else _index()
    text = BLOCK.sub(
        lambda found: f"{found[1]}\n{TABLES[found[2]].body(page)}\n\n{found[3]}",
        page.read_text(encoding="utf-8"),
    )
    return quoted.rewritten(text)


def is_current(page: Path) -> bool:
    if not page.exists():
        return False
    text, new = page.read_text(encoding="utf-8"), rewritten(page)
    if page == FOLDER / "age.md":  # its dates change with every commit
        return age.undated(text) == age.undated(new)
    return text == new


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit code 1 if a page is not current"
    )
    check = parser.parse_args().check
    stale = [page for page in pages() if not is_current(page)]
    for page in stale if check else pages():
        if check or not page.exists() or page.read_text(encoding="utf-8") != rewritten(page):
            print(f"{'not current' if check else 'written'}: {page.relative_to(ROOT)}")
            if not check:
                page.parent.mkdir(exist_ok=True)
                page.write_text(rewritten(page), encoding="utf-8")
    print(age.summary())
    raise SystemExit(1 if check and stale else 0)
