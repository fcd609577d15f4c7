"""Questions as commands: the files that say how long an answer takes, read without importing them.

A question is a file with a docstring whose first line asks it, and with
    TAKES      about how long it takes, in words
    RESULTS    the result files, if they are not NAME.json
    CASES      names of its cases, if it can do some of them alone: `--only`
    QUICK      arguments of `answer` for `--quick`: seconds instead of minutes
    MERGES     True if what `--only` gives takes its place in the stored result
    answer     the function, with click's options, that gives what goes into the result; `file` in it
               names another result file, `partial` says that it is a part only; `-> None`: it writes itself
    wrong      of the result, lines that say what is not as it must be, if that is a question
"""

import ast
import datetime
import shlex
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

HERE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Question:
    """A file that answers a question."""

    path: Path
    asks: str
    takes: str
    results: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.stem

    def command(self) -> click.Command:
        """Its command, with the file's own options."""
        try:
            file = self.path.relative_to(HERE).with_suffix("")
            module = import_module(".".join(("benchmarks", *file.parts)))
        except ModuleNotFoundError as error:
            raise click.ClickException(f"{self.name} needs {error.name}, which is not installed") from error

        @click.pass_context
        def run(context: click.Context, out: Path | None = None, **options: Any) -> None:
            _run(self, module, context, out, options)

        return click.Command(
            self.name, params=_parameters(module), callback=run, help=module.__doc__,
            context_settings={"show_default": True},
        )  # fmt: skip


def _parameters(module: Any) -> list[click.Parameter]:
    """The file's own options, and those that the runner adds."""
    found = [*reversed(getattr(module.answer, "__click_params__", []))]
    if hasattr(module, "CASES"):
        said = "This case alone; again for more."
        found.append(click.Option(["--only"], multiple=True, type=click.Choice([*module.CASES]), help=said))
    if hasattr(module, "QUICK"):
        found.append(click.Option(["--quick"], is_flag=True, help="In seconds: does it run at all?"))
    if module.answer.__annotations__["return"] is not None:
        nowhere = "--quick" if getattr(module, "MERGES", False) else "--quick or --only"
        said = f"Write the result here. Default: benchmarks/results/, and nothing with {nowhere}."
        found.append(click.Option(["--out"], type=click.Path(path_type=Path, dir_okay=False), help=said))
    return found


@cache
def questions() -> dict[str, Question]:
    """All of them by name."""
    found = (_read(path) for path in sorted(HERE.rglob("*.py")))
    return {question.name: question for question in found if question is not None}


def _read(path: Path) -> Question | None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    said = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    if "TAKES" not in said:
        return None
    results = ast.literal_eval(said["RESULTS"]) if "RESULTS" in said else (f"{path.stem}.json",)
    asks = (ast.get_docstring(tree) or "").partition("\n")[0]
    return Question(path, asks, ast.literal_eval(said["TAKES"]), results)


def _run(question: Question, module: Any, context: click.Context, out: Path | None, options: dict) -> None:
    import torch

    from benchmarks.shared.results import RESULTS, as_text, load, machine, merged, save
    from influencekit import __version__

    only, quick = options.pop("only", ()), options.pop("quick", False)
    torch.set_num_threads(options.get("threads", 1))
    if hasattr(module, "CASES"):
        options["cases"] = [*(only or module.CASES)]
    if quick:
        given = {n for n in options if context.get_parameter_source(n) is ParameterSource.COMMANDLINE}
        given |= {"cases"} if only else set()
        options |= {name: value for name, value in module.QUICK.items() if name not in given}
    merges = bool(only) and getattr(module, "MERGES", False)
    words = _words(context, "out", *(["only"] if merges else []))  # the whole result is made without
    head = {
        "command": " ".join(["python -m benchmarks", question.name, *words]),
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "influencekit": __version__,
    }
    found = module.answer(**options)
    if found is None:
        return
    report = head | found
    file, part = report.pop("file", question.results[0]), report.pop("partial", bool(only))
    path = out or RESULTS / file
    if merges:
        report = merged(load(path), report)
    if out or not quick and (merges or not part):
        save(path, report)
        click.echo(f"written: {path}")
    else:
        click.echo(as_text(report), nl=False)
    if odd := module.wrong(report) if hasattr(module, "wrong") else []:
        click.echo("\n".join(odd), err=True)
        raise SystemExit(1)


def _words(context: click.Context, *unsaid: str) -> list[str]:
    """The options as they were given, but for some."""
    words = []
    for option in context.command.params:
        given = context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
        if given and option.name not in unsaid:
            value = context.params[option.name]
            for one in value if option.multiple else [value]:
                words += [option.opts[0]] if option.is_flag else [option.opts[0], shlex.quote(str(one))]
    return words
