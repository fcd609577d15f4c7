"""Write docs/recorded.md, "What can be recorded", from the loop styles of tests/loops.

    python docs/loops.py            # writes the page
    python docs/loops.py --check    # writes nothing; exit code 1 if the page is not current

tests/loops/test_loops.py runs every style, compares it with a loop in PyTorch alone, and holds the page to
this script.
"""

import argparse
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "recorded.md"
sys.path.insert(0, str(ROOT / "tests" / "loops"))

from loop_style import FEW, GROUPS, MARK, STYLES, WAS, Style  # noqa: E402

INTRODUCTION = """\
# What can be recorded

<!-- generated: python docs/loops.py -->

Find your loop here, and what to add to it. [Your own loop](tape.md) and
[Losses and batches](losses.md) explain the lines.

{recorded} of these {all} loop styles are recorded, {refused} are refused in one line at their first step.
{few} of the {recorded} need {limit} lines or fewer, the import and the opening of the run included.

Each style is a file of [tests/loops](../tests/loops), and each is compared with the same loop written in
PyTorch alone, with weights on the losses of its examples:

- the loop without the added lines ends in the same weights, bit for bit, and so does every replayed step,
- `dit` equals central differences of the hand loop to 1e-5 (float64),
- `loo` equals the hand loop without the example to 1e-9 in float64, to 1e-3 in float32.
"""


def page() -> str:
    recorded = [style for style in STYLES if style.refused is None]
    refused = [style for style in STYLES if style.refused is not None]
    few = sum(style.added <= FEW for style in recorded)
    figures = {"all": len(STYLES), "recorded": len(recorded), "refused": len(refused)}
    parts = [INTRODUCTION.format(few=few, limit=FEW, **figures)]
    for group in GROUPS:
        if members := [style for style in recorded if style.constant("GROUP") == group]:
            rows = [(title(s), str(s.added), exactness(s)) for s in members]
            parts += [f"## {group}\n", table(("loop", "lines added", "checked in"), rows)]
            parts += [folded(style) for style in members]
    parts += ["## Refused\n", "These are refused before their second step, with these words.\n"]
    parts += [table(("loop", "what is said"), [(title(s), code(s.refused or "")) for s in refused])]
    return "\n".join(parts)


def title(style: Style) -> str:
    return style.about[0].rstrip(".").replace("|", "\\|")


def code(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<")


def exactness(style: Style) -> str:
    return "float32" if style.constant("FLOAT32") else "float64"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def folded(style: Style) -> str:
    """A style's remarks and its loop, as what changes in it."""
    shown = "\n".join(difference(style)).strip("\n")
    remarks = "".join(f"{text}\n\n" for text in style.about[1:])
    return f"<details><summary>{title(style)}</summary>\n\n{remarks}```diff\n{shown}\n```\n\n</details>\n"


def difference(style: Style) -> Iterator[str]:
    """What a style defines and its loop, with + and - at the lines that change."""
    yield "+import influencekit as ik"
    for text in (
        *(f"{text}\n\n" for text in style.definitions),
        textwrap.dedent(style.body("taped")),
        *asking(style),
    ):
        for line in text.splitlines():
            line = re.sub(r"\s*# (fmt: skip|noqa.*)$", "", line)
            if found := WAS.fullmatch(line):
                if not found[2].startswith("return "):
                    yield f"-{found[1]}{found[2]}"
            elif mark := MARK.search(line):
                yield "+" + line[: mark.start()].replace("return ik.open(", "run = ik.open(")
            else:
                yield f" {line}".rstrip()


def asking(style: Style) -> list[str]:
    """How the run is asked, where that differs from other styles (a choice of estimators is the test's)."""
    body = textwrap.dedent(style.body("ask"))
    shown = body.replace("return ", "scores = ").replace("estimator", '"dit"')
    return [shown] if body and " if " not in body else []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 if it is not current"
    )
    check, new = parser.parse_args().check, page()
    current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == new
    if not check and not current:
        PAGE.write_text(new, encoding="utf-8")
    print(f"{'current' if current else 'not current' if check else 'written'}: {PAGE.relative_to(ROOT)}")
    raise SystemExit(1 if check and not current else 0)
