"""Write the API reference, docs/api/*.md, from the docstrings of the public names.

    python docs/api.py            # writes every page
    python docs/api.py --check    # writes nothing; exit code 1 if a page is not current

tests/test_public.py runs the examples and holds the pages to this script.
"""

import argparse
import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "api"
PAGES: dict[str, tuple[str, str, tuple[str, ...]]] = {  # page: (first line, module, names; all if none)
    "verbs": (
        "What is done with a run: record it, ask it, compare methods, verify by retraining.", "influencekit",
        ("record", "open", "plan", "estimate", "compare", "ceiling", "contributions", "sum_over_windows",
         "verify_top", "remove", "curate", "suspects", "report", "verify", "trust", "evaluate", "make",
         "spec"),
    ),
    "objects": (
        "What verbs take and give: workloads, runs, windows, optimizers, schedules, errors.", "influencekit",
        ("Workload", "Trajectory", "Tape", "Parts", "Window", "Workers", "Report", "Optimizer", "SGD", "Adam",
         "AdamW",
         "RMSprop", "Adagrad", "Adadelta", "NAdam", "RAdam", "Adamax", "Adafactor", "Muon", "Group",
         "Schedule", "Constant", "Cosine", "InverseSqrt", "Factors", "InfluenceKitError", "InputError",
         "StoreError", "DivergedError"),
    ),
    "interfaces": (
        "What a plugin implements.", "influencekit",
        ("Estimator", "Claim", "Query", "Recorder", "Evaluation", "Average", "Table"),
    ),
    "extend": ("What plugins use beside the other public names.", "influencekit.extend", ()),
    "estimators": ("Methods that score training examples.", "influencekit.estimators", ()),
    "queries": ("Numbers of the model whose change is asked for.", "influencekit.queries", ()),
    "recorders": ("Which states of a run are stored.", "influencekit.recorders", ()),
    "averages": ("Which average of states a query is asked of.", "influencekit.averages", ()),
    "evaluation": ("What scores are worth, found by retraining.", "influencekit.evaluation", ()),
    "metrics": ("How well two sets of scores agree.", "influencekit.metrics", ()),
    "plot": ("Pictures of results.", "influencekit.plot", ()),
    "workloads": ("What a registered problem is built of.", "influencekit.workloads", ()),
    "windows": (
        "Windows from text, and what removal can mean.", "influencekit.windows",
        ("REMOVALS", "Removal", "parse_windows"),
    ),
    "registry": ("What is installed, by name.", "influencekit.registry", ()),
    "progress": ("What long loops announce.", "influencekit.progress", ()),
    "testing": ("The laws that every plugin is tested by.", "influencekit.testing", ()),
}  # fmt: skip


def public(page: str) -> dict[str, Any]:
    """The objects of a page by name, in its order."""
    _, module, names = PAGES[page]
    home = import_module(module)
    return {name: getattr(home, name) for name in names or getattr(home, "_HOME", home.__all__)}


def text_of(page: str, name: str) -> str:
    """What the docstring of a public name says; of a constant, the string below its assignment."""
    thing = public(page)[name]
    return (inspect.getdoc(thing) or "") if has_docstring(thing) else _constant_text(PAGES[page][1], name)


def rendered(page: str) -> str:
    """The text of a page, or of the index."""
    if page == "index":
        head = "# API reference\n\nThe public names, from their docstrings. Everything else may be renamed.\n"
        rows = [f"- [{each}]({each}.md): {about[0]}" for each, about in PAGES.items()]
        return f"{head}\n<!-- written by docs/api.py -->\n\n" + "\n".join(rows) + "\n"
    words, module, _ = PAGES[page]
    parts = [f"# {page.capitalize()}\n\n{words}\n\n<!-- written by docs/api.py from docstrings -->\n"]
    parts += [_entry(page, module, name, thing) for name, thing in public(page).items()]
    return "\n".join(parts)


def _entry(page: str, module: str, name: str, thing: Any) -> str:
    full = f"ik.{name}" if module == "influencekit" else f"{module}.{name}"
    if not has_docstring(thing):
        return f"## {name}\n\n```text\n{full} = {_value(thing)}\n```\n\n{text_of(page, name)}\n"
    lines = [f"## {name}\n", f"```text\n{full}{_signature(thing)}\n```\n", _markdown(text_of(page, name))]
    if inspect.isclass(thing):
        if rows := list(_attributes(thing)):
            lines.append("| attribute | type | what |\n|---|---|---|\n" + "\n".join(rows) + "\n")
        for method, value in vars(thing).items():
            plain = getattr(value, "__wrapped__", value)
            if not method.startswith("_") and callable(plain) and plain.__doc__:
                call = re.sub(r"\((\s*)(?:self|cls)(?:,\s*|(?=\)))", r"(\1", _signature(plain))
                lines += [f"### {name}.{method}\n", f"```text\n{name}.{method}{call}\n```\n"]
                lines.append(_markdown(inspect.cleandoc(plain.__doc__)))
    return "\n".join(lines)


def _attributes(cls: type) -> Iterator[str]:
    """A row for every public property, and for every annotated name with a string below it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    found: dict[str, tuple[str, str]] = {}
    for node, after in zip(body, body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr):
            found[ast.unparse(node.target)] = (ast.unparse(node.annotation), ast.literal_eval(after.value))
    for name, value in vars(cls).items():
        getter = getattr(value, "fget", None) or getattr(value, "func", None)
        if getter is not None and getter.__doc__ and not name.startswith("_"):
            found[name] = (_bare(str(inspect.signature(getter).return_annotation)), getter.__doc__)
    for name, (kind, text) in found.items():
        cells = (" ".join(cell.split()).replace("|", "\\|") for cell in (f"`{kind}`", text))
        yield f"| `{name}` | " + " | ".join(cells) + " |"


def has_docstring(thing: Any) -> bool:
    """Whether it is a class or a function; else it is a constant."""
    return inspect.isclass(thing) or inspect.isroutine(thing)


def _value(thing: Any) -> str:
    """A constant; of a table, its keys."""
    if isinstance(thing, Mapping):
        return "{" + ", ".join(f"{key!r}: ..." for key in thing) + "}"
    return re.sub(r"\b(?:[a-z_]+\.)+", "", str(thing))


def _constant_text(module: str, name: str) -> str:
    """The string that stands below the assignment of a name, in the module where it is made."""
    home: ModuleType = import_module(module)
    home = import_module(f"influencekit.{home._HOME[name]}") if hasattr(home, "_HOME") else home
    body = ast.parse(inspect.getsource(home)).body
    for node, after in zip(body, body[1:], strict=False):
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if name in [getattr(each, "id", "") for each in targets] and isinstance(after, ast.Expr):
            return inspect.cleandoc(ast.literal_eval(after.value))
        if isinstance(node, ast.ImportFrom) and name in [each.name for each in node.names]:
            return _constant_text(str(node.module), name)
    return ""


def _signature(thing: Any) -> str:
    """The parameters of a function, or the fields of a dataclass, one to a line where they are many."""
    if inspect.isclass(thing) and not dataclasses.is_dataclass(thing) and _plain(thing):
        return ""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    text = _bare(re.sub(r" at 0x[0-9a-f]+", "", str(signature)))
    if len(text) <= 90:
        return text
    body, _, after = text[1:].rpartition(")")
    return "(\n    " + _one_a_line(body) + ",\n)" + after


def _bare(text: str) -> str:
    """An annotation, or a signature, without modules and quotes."""
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text.replace("influencekit.", ""))
    text = re.sub(r"<class '([^']*)'>", r"\1", text)
    text = re.sub(r"(?:[a-z_]+\.)+([A-Z]\w*|dtype|device)", r"\1", text)
    return text.replace("Tensor | tuple[Tensor, ...] | dict[str, Tensor]", "Batch")


def _plain(cls: type) -> bool:
    """Whether a class has no arguments to show: an interface, or an error."""
    return issubclass(cls, Exception) or (cls.__init__ is object.__init__ and not hasattr(cls, "_fields"))


def _one_a_line(body: str) -> str:
    """Commas outside of brackets become line ends."""
    depth, out = 0, ""
    for c in body:
        depth += (c in "([{") - (c in ")]}")
        out += ",\n   " if c == "," and not depth else c
    return out


def _markdown(text: str) -> str:
    """A docstring as Markdown: indented blocks are code already, examples become blocks of Python."""

    def fenced(found: re.Match[str]) -> str:
        return f"Example:\n\n```pycon\n{textwrap.dedent(found[1]).strip()}\n```\n"

    return re.sub(r"Example:\n\n((?:    .*\n?|\n)+)", fenced, text).rstrip() + "\n"


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check, stale = parser.parse_args().check, []
    FOLDER.mkdir(exist_ok=True)
    for page in ("index", *PAGES):
        path, text = FOLDER / f"{page}.md", rendered(page)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.name)
        if not check:
            path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"docs/api is not current: {', '.join(stale)}; run python docs/api.py", file=sys.stderr)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
