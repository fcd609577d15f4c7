"""Loop styles: what a file of tests/loops says, and the laws that its loop is held to.

A style is a file `style_NAME.py`. The first line of its docstring is the title on the page
docs/recorded.md (`python docs/loops.py` writes it), further paragraphs are remarks there. It holds:

    GROUP       heading on the page: one of GROUPS
    taped()     the loop as a user writes it, with a tape, in the current folder; returns the opened run
    plain(weights)
                the same loop in PyTorch alone, `weights` [n] on the losses of the examples (a batch keeps its
                divisor); returns the model that is asked. It never calls influencekit.

Each line of `taped`, or of what it uses, that the user adds or changes for the tape ends in the comment
`# tape`. The lines that it replaces stand above it in comments `# was: LINE`; the last line is always
`return ik.open(...)  # tape`, below `# was: return model`. Without the marked lines, and with those that
were, the file must run and end with the same weights: so a style shows its cost honestly. A statement of
several lines is marked on each of them; the block of a marked `with` stays where it is.

Optional: `asked(model)`, the number that is asked (default: the mean test loss of loop_problem.py), and
`ask(run, estimator)`, how a user asks it (default: `ik.estimate(run, "test-loss", estimator)`); constants
NEEDS (libraries, a tuple), FLOAT32 = True (runs in float32: only `loo` is compared, to 1e-3), REPLAY (a
pattern of what the run says of its replays, where they are not all equal bit for bit), H (where central
differences begin), IDS (names of the examples where they are not 0..n-1).

A loop that is refused has `REFUSED`, the whole line of the error, and `taped` alone.
"""

import ast
import importlib.util
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parent
GROUPS = (
    "Loops", "Batches", "Data", "Losses", "Optimizers and schedules", "Precision and wrappers", "Models",
    "Averaged and best weights", "Trainers", "Runs that go on",
)  # fmt: skip
FEW = 6  # lines
ROLES = ("taped", "plain", "ask", "asked")
MARKED = re.compile(r"# tape$", re.M)
MARK, WAS = re.compile(r"\s*# tape$"), re.compile(r"(\s*)# was: (.*)")


@dataclass(frozen=True)
class Style:
    """A file of a loop style, read but not run."""

    file: Path

    @cached_property
    def text(self) -> str:
        return self.file.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def name(self) -> str:
        return self.file.stem.removeprefix("style_")

    @cached_property
    def about(self) -> list[str]:
        """The title, and remarks."""
        paragraphs = (ast.get_docstring(self.tree) or "").split("\n\n")
        return [" ".join(paragraph.split()) for paragraph in paragraphs]

    def constant(self, name: str, default=None):
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
                return ast.literal_eval(node.value)
        return default

    @property
    def refused(self) -> str | None:
        return self.constant("REFUSED")

    @property
    def added(self) -> int:
        """Lines that the user adds or changes, the import with them."""
        return 1 + sum(MARK.search(line) is not None for line in self.text.splitlines())

    @property
    def missing(self) -> list[str]:
        """Libraries that it needs and that are not here."""
        return [name for name in self.constant("NEEDS", ()) if importlib.util.find_spec(name) is None]

    def module(self, text: str | None = None) -> ModuleType:
        module = ModuleType(self.file.stem)
        module.__file__ = str(self.file)
        sys.modules[self.file.stem] = module  # so that its classes can be saved and loaded
        exec(compile(text or self.text, str(self.file), "exec"), module.__dict__)
        return module

    def body(self, name: str) -> str:
        """The lines of one of its functions ("" without it), with their marks."""
        found = function(self.tree, name)
        return self._lines(found.body[0], found.body[-1]) if found else ""

    @property
    def definitions(self) -> list[str]:
        """What the file defines for `taped` above it."""
        own = {name: node for node in self.tree.body if (name := _defined(node)) and name not in ROLES}
        used = {name for name, node in own.items() if MARKED.search(self._lines(node, node))}
        new = {"taped", *used}
        while new:
            used |= new
            nodes = [own.get(name) or function(self.tree, name) for name in new]
            names = {n.id for node in nodes if node for n in ast.walk(node) if isinstance(n, ast.Name)}
            new = (names & set(own)) - used
        return [self._lines(node, node) for name, node in own.items() if name in used]

    def _lines(self, first: ast.stmt, last: ast.stmt) -> str:
        decorators = getattr(first, "decorator_list", [])
        start = min(node.lineno for node in (first, *decorators))
        return "\n".join(self.text.splitlines()[start - 1 : last.end_lineno])

    def without_tape(self) -> str:
        """The file as it was before its marked lines came."""
        lines = []
        for line in self.text.splitlines():
            if found := WAS.fullmatch(line):
                line = found[1] + found[2]
            elif MARK.search(line):
                indent = line[: len(line) - len(line.lstrip())]
                line = f"{indent}if True:" if line.lstrip().startswith("with ") else ""
            lines.append(line)
        text = "\n".join(lines)
        for node in ast.parse(text).body:
            if _defined(node) not in ("", "ask"):
                left = re.search(r"\b(tape|ik)\b", ast.unparse(node))
                assert not left, f"{self.name}, line {node.lineno}: a mark is missing"
        return text


def _defined(node: ast.stmt) -> str:
    """The name that a statement of a module defines; constants of the frame are none."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    name = getattr(node.targets[0], "id", "") if isinstance(node, ast.Assign) else ""
    return "" if name.isupper() else name


def function(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    return next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name), None)


STYLES = [Style(file) for file in sorted(FOLDER.glob("style_*.py"))]
