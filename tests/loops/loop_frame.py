"""Loop styles: what a file of tests/loops says, and the laws that its loop is held to.

A style is a file `style_NAME.py`. The first line of its docstring is the title on the page
docs/recorded.md (`python docs/loops.py` writes it), further paragraphs are remarks there. It holds:

    GROUP       heading on the page: one of GROUPS
    taped()     the loop as a user writes it, with a tape, in the current folder; returns the opened run
    plain(weights)
                the same loop in PyTorch alone, `weights` [n] on the losses of the examples (a batch keeps its
                divisor); returns the model that is asked. It never calls influencekit.

Each line of `taped` that the user adds or changes for the tape ends in a comment: `# tape`, or
`# tape, was: LINE` where it replaces one (the last line: `return ik.open(...)  # tape, was: return model`).
Without these lines the file must run and end with the same weights: so a style shows its cost honestly.
A statement of several lines is marked on each of them; the block of a marked `with` stays where it is.

Optional: `asked(model)`, the number that is asked (default: the mean test loss of loop_problem.py), and
`ask(run, estimator)`, how a user asks it (default: `ik.estimate(run, "test-loss", estimator)`); constants
NEEDS (libraries, a tuple), FLOAT32 = True (runs in float32: only `loo` is compared, to 1e-3), REPLAY =
"rounded" (equal to rounding, not in every bit), H (where central differences begin), IDS (names of the
examples where they are not 0..n-1).

A loop that is refused has `REFUSED`, the whole line of the error, and `taped` alone.
"""

import ast
import importlib.util
import re
import sys
import tempfile
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import torch
from loop_problem import seed, test_loss
from torch.optim.optimizer import register_optimizer_step_pre_hook

import influencekit as ik

FOLDER = Path(__file__).parent
GROUPS = (
    "Loops", "Batches", "Data", "Losses", "Optimizers and schedules", "Precision and wrappers", "Models",
    "Averaged and best weights", "Trainers", "Runs that go on",
)  # fmt: skip
MARK = re.compile(r"\s*# tape(?:, was: (.*\S))?\s*$")
DIT, LOO, LOO_FLOAT32 = 1e-5, 1e-9, 1e-3  # relative errors
SOME = (0, 5, 7)  # examples that are left out one at a time


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

    def without_tape(self) -> str:
        """The file as it was before its marked lines came."""
        lines = []
        for line in self.text.splitlines():
            if found := MARK.search(line):
                indent = line[: len(line) - len(line.lstrip())]
                begins = line.lstrip().startswith("with ")
                line = indent + (found[1] or ("if True:" if begins else ""))
            lines.append(line)
        text = "\n".join(lines)
        code = ast.unparse(_function(ast.parse(text), "taped"))
        assert not re.search(r"\btape\b|\bik\b|influencekit", code), "a line for the tape without its mark"
        return text


STYLES = [Style(file) for file in sorted(FOLDER.glob("style_*.py"))]


@contextmanager
def alone():
    """A fresh folder and fresh random states, every step of a tape replayed, few states kept, no tracing
    (which takes longer than a tiny loop)."""
    from helpers_step import untraced

    always = {"check": 1.0, "recorder": "every-k:k=4"}
    with tempfile.TemporaryDirectory() as folder, chdir(folder), untraced():
        with patch.dict(ik.Tape.__init__.__kwdefaults__, always):
            seed()
            yield


def check_recorded(style: Style) -> None:
    """The laws of a style that is recorded."""
    module, single = style.module(), style.constant("FLOAT32", False)
    with alone():
        run = module.taped()
        check_unchanged(style, run)
        check_replay(style, run)
        ask = getattr(module, "ask", lambda run, estimator: ik.estimate(run, "test-loss", estimator))
        ids = style.constant("IDS") or list(range(run.workload.n_train))
        dit, loo = (ask(run, name).influence.sel(train=ids).values[0, 0] for name in ("dit", "loo"))

    def f(weights: torch.Tensor) -> float:
        with alone():
            return getattr(module, "asked", test_loss)(module.plain(weights))

    ones = torch.ones(len(ids), dtype=torch.float64)
    direction = torch.randn(len(ids), generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    h = style.constant("H", 0.05 if single else 1e-4)
    slope = -derivative(lambda h: f(ones + h * direction), h)
    assert abs(dit @ direction.numpy() - slope) <= (0.1 if single else DIT) * abs(slope), (
        f"dit {dit @ direction.numpy():.12g}, central differences {slope:.12g}"
    )
    full, some = f(ones), [j for j in SOME if j < len(ids)]
    truth = np.array([f(ones.index_fill(0, torch.tensor(j), 0.0)) - full for j in some])
    error = np.abs(loo[some] - truth).max() / np.abs(truth).max()
    assert error <= (LOO_FLOAT32 if single else LOO), f"loo {loo[some]}, hand loop {truth}"


def check_unchanged(style: Style, run: ik.Trajectory) -> None:
    """The loop without its marked lines ends in the same weights and buffers, bit for bit."""
    with alone():
        model = style.module(style.without_tape()).taped()
    names = run.workload.layout.names
    theta = run.workload.layout.join({n: p.detach() for n, p in model.named_parameters() if n in names})
    assert torch.equal(run.final.theta, theta), "the tape changed the loop, or missed its end"
    buffers = dict(model.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in run.final.buffers.items())


def check_replay(style: Style, run: ik.Trajectory) -> None:
    """Every step was replayed, bit for bit unless the style says otherwise."""
    exact = f"{run.steps} steps replayed, equal bit for bit"
    if style.constant("REPLAY") == "rounded":
        assert re.match(rf"{run.steps} steps replayed, equal", run.attrs["replay"]), run.attrs["replay"]
    else:
        assert run.attrs["replay"] == exact


def derivative(f, h: float) -> float:
    """f'(0) by central differences, once extrapolated: what is left is of order h^4."""
    a, b = ((f(s) - f(-s)) / (2 * s) for s in (h, h / 2))
    return b + (b - a) / 3


def check_refused(style: Style) -> None:
    """One line, known in advance, before any optimizer has made a second step; the loop itself runs."""
    with alone():
        style.module(style.without_tape()).taped()
    steps: dict[int, int] = {}

    def count(optimizer, *_):
        steps[id(optimizer)] = steps.get(id(optimizer), 0) + 1

    hook = register_optimizer_step_pre_hook(count)
    try:
        with alone():
            style.module().taped()
    except ik.InputError as error:
        message = str(error)
    else:
        raise AssertionError("it was recorded")
    finally:
        hook.remove()
    assert message == style.refused
    assert "\n" not in message and "bug" not in message
    assert max(steps.values(), default=0) <= 1, "refused too late"


def _function(tree: ast.Module, name: str) -> ast.FunctionDef:
    return next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
