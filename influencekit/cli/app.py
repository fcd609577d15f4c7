"""The command group, and what a user sees when something goes wrong: one line and an exit code."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import click

from influencekit import __version__
from influencekit._docstring import docstring
from influencekit._escape import shown
from influencekit.cli.compare import compare
from influencekit.cli.console import complain
from influencekit.cli.curate import curate
from influencekit.cli.estimate import estimate
from influencekit.cli.listing import list_
from influencekit.cli.plan import plan
from influencekit.cli.plotting import plot
from influencekit.cli.ranks import another_speaks, rank, refuse_several, who_ends
from influencekit.cli.record import record
from influencekit.cli.report import report
from influencekit.cli.suspects import suspects
from influencekit.cli.verify import verify
from influencekit.errors import InfluenceKitError

if TYPE_CHECKING:
    from influencekit.registry import Entry

__all__ = ["cli"]


class Commands(click.Group):
    """The commands, in the order in which they are met, then those of plugins; errors become one line and an
    exit code.

    A plugin's command is an entry point of the group `influencekit.commands`. It is imported when it is
    called and not before: help shows what its distribution says of itself. It cannot replace one of ours.
    """

    with_plugins = True

    def plugins(self) -> dict[str, Entry]:
        """What plugins bring, in the order of the alphabet, without the names that are ours."""
        return {shown(entry.name): entry for entry in self._brought() if entry.name not in self.commands}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *self.plugins()]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """For help and completion; a command that is called comes from `resolve_command`."""
        if name in self.commands or (entry := self.plugins().get(name)) is None:
            return super().get_command(ctx, name)
        return click.Command(name, short_help=shown(entry.summary))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        refuse_several(name)
        if name in self.commands or ctx.resilient_parsing or name.startswith("-"):
            return super().resolve_command(ctx, args)
        from influencekit._specs import unknown
        from influencekit.registry import load, package_of

        if name in self.plugins() or package_of("command", name):
            return name, load("command", name), args[1:]  # type: ignore[return-value]
        raise unknown("command", name, self.list_commands(ctx), "commands")

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SystemExit as stop:  # a plugin's own command may end as it likes
            if ctx.invoked_subcommand not in self.commands:
                raise
            raise InfluenceKitError(
                f"a plugin, or code of yours, ended the program before the work was done (SystemExit: {stop})"
            ) from stop
        except EOFError as error:  # click would call it an interruption
            raise InfluenceKitError(
                f"a file ended too early ({error or 'no words'}); if it is a cache of Python's, which a full "
                "disk cuts off, remove the __pycache__ folders of the installed packages"
            ) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for entry in self._brought():
            if entry.name in self.commands:
                text = f"the command '{entry.name}' of {entry.provider} is left out: influencekit has its own"
                _warning(text)
        super().format_commands(ctx, formatter)

    def _brought(self) -> Sequence[Entry]:
        from influencekit.registry import entries

        return entries("command") if self.with_plugins else ()

    def main(self, args: Sequence[str] | None = None, *rest: Any, **named: Any) -> Any:
        if not named.get("standalone_mode", True):
            return super().main(args, *rest, **named)
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, ValueError):
                stream.reconfigure(errors="replace")  # type: ignore[union-attr]
        with warnings.catch_warnings():
            warnings.showwarning = _warn  # type: ignore[assignment]
            try:
                code = super().main(args, *rest, **named | {"standalone_mode": False})
            except SystemExit:
                raise
            except BaseException as error:
                _fail(error)
        sys.exit(code if isinstance(code, int) else 0)


def _warn(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
    if issubclass(category, DeprecationWarning | PendingDeprecationWarning):
        return  # for those who write the libraries, not for those who run the command
    _warning(str(message))


def _warning(text: str) -> None:
    complain(text, "warning:", fg="yellow", bold=True)


def _fail(error: BaseException) -> NoReturn:
    if isinstance(error, click.exceptions.UsageError) and type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(error.exit_code)
    silent = another_speaks()
    if isinstance(error, click.Abort | KeyboardInterrupt):
        if not silent:
            complain(f"interrupted{who_ends(getattr(error.__cause__ or error, 'code', 130))}")
            for note in getattr(error.__cause__ or error, "__notes__", ()):
                complain(note)
        sys.exit(getattr(error.__cause__ or error, "code", 130))
    if os.environ.get("INFLUENCEKIT_DEBUG"):
        import traceback

        traceback.print_exception(error)
    text, code = _explain(error)
    if not silent:
        complain(f"rank {rank()}: {text}" if rank() else text, "error:", fg="red", bold=True)
    sys.exit(code)


def _explain(error: BaseException) -> tuple[str, int]:
    if isinstance(error, InfluenceKitError):
        return _line(error), error.exit_code
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "influencekit"
        return f"{_line(error.format_message()).rstrip('.')}; see '{command} --help'", error.exit_code
    if isinstance(error, click.ClickException):
        return _line(error.format_message()), error.exit_code
    if isinstance(error, OSError) and error.strerror:
        return _line(f"{error.strerror}{f': {error.filename}' if error.filename else ''}"), 1
    if _is_of_memory(error):
        return "out of memory; take fewer examples or queries at once, or a machine with more", 1
    return (
        f"{type(error).__name__}: {_line(error)}; this is a bug, of influencekit or of a plugin: "
        "INFLUENCEKIT_DEBUG=1 in the environment shows where"
    ), 1


def _is_of_memory(error: BaseException) -> bool:
    """Whether memory was refused: to Python, to torch, to a library that is loaded, or to a thread."""
    said = str(error).lower() if isinstance(error, RuntimeError | ImportError) else ""
    words = ("allocate memory", "enough memory", "of memory", "map segment", "new thread", "a primitive")
    return isinstance(error, MemoryError) or any(each in said for each in words)


def _line(text: object) -> str:
    return shown(" ".join(str(text).split()))


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: influencekit compare --estimators dit,if,loo",
)
@click.version_option(__version__, prog_name="influencekit", message="%(prog)s %(version)s")
def cli() -> None:
    """Which training examples made the model do this, and when.

    influencekit trains a model, records the run, estimates the influence of every training example on a
    question about the model, and compares the estimates with retraining without each example.
    """


for _command in (compare, record, plan, estimate, suspects, curate, report, plot, verify, list_):
    cli.add_command(_command)
for _command in (cli, *cli.commands.values()):
    _command.help = _command.help or docstring(_command.callback)
