"""The command group, and what a user sees when something goes wrong: one line and an exit code."""

import errno
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import click

from influencekit import __version__
from influencekit.cli.compare import compare
from influencekit.cli.estimate import estimate
from influencekit.cli.listing import list_
from influencekit.cli.plotting import plot
from influencekit.cli.record import record
from influencekit.cli.verify import verify
from influencekit.errors import InfluenceKitError

__all__ = ["cli", "main"]


class Commands(click.Group):
    """The commands, in the order in which they are met; errors become one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

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
    click.echo(f"warning: {_line(message)}", err=True)


def _fail(error: BaseException) -> NoReturn:
    if isinstance(error, click.exceptions.UsageError) and type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(error.exit_code)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    if os.environ.get("INFLUENCEKIT_DEBUG"):
        traceback.print_exception(error)
    text, code = _explain(error)
    click.echo(f"{click.style('error:', fg='red', bold=True)} {text}", err=True)
    sys.exit(code)


def _explain(error: BaseException) -> tuple[str, int]:
    if isinstance(error, InfluenceKitError):
        return _line(error), error.exit_code
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "influencekit"
        return f"{_line(error.format_message()).rstrip('.')}; see '{command} --help'", error.exit_code
    if isinstance(error, click.ClickException):
        return _line(error.format_message()), error.exit_code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT):
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}", 1
    return (
        f"{type(error).__name__}: {_line(error)}; this is a bug, of influencekit or of a plugin: "
        "INFLUENCEKIT_DEBUG=1 in the environment shows where"
    ), 1


def _line(text: object) -> str:
    return " ".join(str(text).split())


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: influencekit compare --estimators dit,if,loo",
)
@click.version_option(__version__, prog_name="influencekit", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Which training examples made the model do this, and when.

    influencekit trains a model, records the run, estimates the influence of every training example on a
    question about the model, and compares the estimates with retraining without each example.
    """
    if os.environ.get("NO_COLOR"):
        ctx.color = False


for _command in (compare, record, estimate, plot, verify, list_):
    cli.add_command(_command)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The console script `influencekit`. SIGTERM and a lost terminal clean up as Ctrl-C does."""
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
    cli.main(args, prog_name="influencekit")
    raise AssertionError("click ends the process")
