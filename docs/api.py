"""Write the API reference, docs/api/*.md, from the docstrings of the public names.

    python docs/api.py            # writes every page
    python docs/api.py --check    # writes nothing; exit code 1 if a page is not current

tests/test_public.py runs the examples and holds the pages to this script.
"""

import argparse
import dataclasses
import inspect
import re
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {  # page: (its first line, module, names or None for the module's own __all__)
    "verbs": (
        "What is done with a run: record it, ask it, compare methods, verify by retraining.", "influencekit",
        ("record", "open", "estimate", "compare", "contributions", "sum_over_windows", "verify_top", "remove",
         "trust", "evaluate", "make", "spec"),
    ),
    "objects": (
        "What the verbs take and give: runs, workloads, windows, optimizers, schedules, errors.", "influencekit",
        ("Workload", "Trajectory", "Tape", "Window", "Optimizer", "SGD", "Adam", "AdamW", "Group", "Schedule",
         "Constant", "Cosine", "InverseSqrt", "Factors", "InfluenceKitError", "InputError", "StoreError",
         "DivergedError"),
    ),
    "interfaces": (
        "What a plugin implements.", "influencekit",
        ("Estimator", "Claim", "Query", "Recorder", "Evaluation", "Table"),
    ),
    "estimators": ("Methods that score training examples.", "influencekit.estimators", None),
    "queries": ("Numbers of the model whose change is asked for.", "influencekit.queries", None),
    "recorders": ("Which states of a run are stored.", "influencekit.recorders", None),
    "evaluation": ("What scores are worth, found by retraining.", "influencekit.evaluation", None),
    "metrics": ("How well two sets of scores agree.", "influencekit.metrics", None),
    "plot": ("Pictures of results.", "influencekit.plot", None),
    "testing": ("The laws that every plugin is tested by.", "influencekit.testing", None),
    "extend": ("What plugins may use beside the public names.", "influencekit.extend", None),
}  # fmt: skip


def public(page: str) -> dict[str, Any]:
    """The objects of a page by name, in its order."""
    _, module, names = PAGES[page]
    home = import_module(module)
    return {name: getattr(home, name) for name in (names or home.__all__)}


def rendered(page: str) -> str:
    """The text of a page."""
    words, module, _ = PAGES[page]
    parts = [f"# {page.capitalize()}\n\n{words}\n\n<!-- written by docs/api.py from docstrings -->\n"]
    parts += [_entry(f"{module}.{name}", thing) for name, thing in public(page).items()]
    return "\n".join(parts)


def _entry(name: str, thing: Any) -> str:
    short = name.replace("influencekit.", "ik.", 1) if name.count(".") == 1 else name
    lines = [f"## {name.rsplit('.', 1)[-1]}\n", f"```text\n{short}{_signature(thing)}\n```\n", _text(thing)]
    if inspect.isclass(thing):
        for method, value in vars(thing).items():
            value = value.fget if isinstance(value, property) else value
            plain = getattr(value, "__wrapped__", value)
            if not method.startswith("_") and callable(plain) and inspect.getdoc(plain):
                lines.append(f"### {name.rsplit('.', 1)[-1]}.{method}\n")
                lines.append(_text(plain))
    return "\n".join(lines)


def _signature(thing: Any) -> str:
    """The parameters of a function, or the fields of a dataclass, one to a line where they are many."""
    if not callable(thing) or (
        inspect.isclass(thing) and not dataclasses.is_dataclass(thing) and _plain(thing)
    ):
        return ""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    text = re.sub(r" at 0x[0-9a-f]+", "", str(signature)).replace("influencekit.", "")
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)  # annotations that are text
    text = re.sub(r"(?:[a-z_]+\.)+([A-Z]\w*)", r"\1", text)
    if len(text) <= 90:
        return text
    body, _, after = text[1:].rpartition(")")
    return "(\n    " + _one_a_line(body) + ",\n)" + after


def _plain(cls: Any) -> bool:
    return cls.__init__ in (object.__init__, Exception.__init__, ValueError.__init__) or issubclass(
        cls, Exception
    )


def _one_a_line(body: str) -> str:
    """Commas outside of brackets become line ends."""
    depth, out = 0, ""
    for c in body:
        depth += (c in "([{") - (c in ")]}")
        out += ",\n   " if c == "," and not depth else c
    return out


def _text(thing: Any) -> str:
    """A docstring as Markdown: indented blocks are code already, examples become blocks of Python."""
    text = inspect.getdoc(thing) or ""

    def fenced(found: re.Match[str]) -> str:
        return f"Example:\n\n```pycon\n{textwrap.dedent(found[1]).strip()}\n```\n"

    return re.sub(r"Example:\n\n((?:    .*\n?|\n)+)", fenced, text) + "\n"


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check, stale = parser.parse_args().check, []
    for page in PAGES:
        path, text = ROOT / "docs" / "api" / f"{page}.md", rendered(page)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.name)
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"docs/api is not current: {', '.join(stale)}; run python docs/api.py", file=sys.stderr)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
