"""The command-line reference, written from the commands themselves: `python -m influencekit.cli.reference`.

It prints docs/cli.md, in which no plugin's command appears; a test fails when that file says something else.
With names of commands, as in `python -m influencekit.cli.reference reproduce`, it prints a page of these
alone, for the docs of the plugin that brings them.
"""

import sys
from collections.abc import Mapping
from copy import copy

import click

from influencekit.cli.app import cli
from influencekit.cli.console import write

__all__ = ["reference", "reference_of"]

HEAD = """\
# The command line

<!-- generated: python -m influencekit.cli.reference > docs/cli.md -->

`influencekit COMMAND --help` prints the same. Windows are half-open and counted from 0, in steps and in
epochs; seeds include both ends. `INFLUENCEKIT_DEBUG=1` adds the traceback of an error, `NO_COLOR=1` takes the
colours away, `INFLUENCEKIT_PROGRESS=0` the progress, which is drawn on a terminal only.

| exit code | meaning |
|---|---|
| 0 | what was asked for was done: files are there as a whole, the text was written to stdout |
| 1 | it failed: a store is missing or damaged, a disk is full, a training diverged, nobody reads stdout |
| 2 | an argument cannot work, also `--code` that fails; nothing was done |
| 130, 143, 129 | Ctrl-C, SIGTERM, a lost terminal (128 and the number of the signal) |

- An error is one line on stderr, after `error:`; warnings begin with `warning:`. Control characters in
  names, ids and files are shown as escapes (`\\x1b`), on a terminal, in pipes and in JSON.
- stdout has the result and nothing else. What `--code`, a model or a plugin prints goes to stderr; what a
  program that they start, or a C library, writes to stdout does not. A closed stdout is refused; send it to
  `/dev/null` if nobody reads it.
- Paths are those of this machine: `~` and `file://` are expanded, `s3://`, `zip::` and other addresses
  refused.
- `--out` is never written over something. An empty folder is filled. `--json` replaces a file, which keeps
  its mode, writes through a link, and into a pipe or a device.
- CSV files have ids as they are. One that begins with `=`, `+`, `-` or `@` is a formula to a spreadsheet:
  `--escape-formulas` puts an apostrophe before it.
"""


def reference() -> str:
    """The text of docs/cli.md: the help of every command of ours, at a fixed width."""
    own = copy(cli)
    own.with_plugins = False
    return "\n".join([HEAD, _help(own, None, "influencekit"), *_sections(cli.commands)])


def reference_of(*names: str) -> str:
    """A page of plugins' commands. Errors: one that is not installed."""
    from influencekit.registry import load

    commands: dict[str, click.Command] = {name: load("command", name) for name in names}  # type: ignore[misc]
    words = " ".join(names)
    head = f"<!-- generated: python -m influencekit.cli.reference {words} -->\n"
    return "\n".join([head, *_sections(commands)])


def _sections(commands: Mapping[str, click.Command]) -> list[str]:
    parent = click.Context(cli, info_name="influencekit")
    return [f"## {name}\n\n{_help(command, parent, name)}" for name, command in commands.items()]


def _help(command: click.Command, parent: click.Context | None, name: str) -> str:
    context = click.Context(
        command, parent, info_name=name, terminal_width=88, max_content_width=88, color=False,
        help_option_names=["-h", "--help"],
    )  # fmt: skip
    return f"```text\n{click.unstyle(command.get_help(context)).rstrip()}\n```\n"


if __name__ == "__main__":
    write(reference_of(*sys.argv[1:]) if sys.argv[1:] else reference())
