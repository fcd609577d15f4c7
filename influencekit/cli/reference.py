"""The command-line reference, written from the commands themselves: `python -m influencekit.cli.reference`.

It prints docs/cli.md; a test fails when that file says something else.
"""

import click

from influencekit.cli.app import cli

__all__ = ["reference"]

HEAD = """\
# The command line

<!-- generated: python -m influencekit.cli.reference > docs/cli.md -->

`influencekit COMMAND --help` prints the same. Windows are half-open and counted from 0, in steps and in
epochs; seeds include both ends. Errors are one line on stderr, after `error:`; the exit code is 2 for
an argument that cannot work, 1 for whatever else goes wrong, 130 after Ctrl-C. `INFLUENCEKIT_DEBUG=1` adds
the traceback, `NO_COLOR=1` takes the colours away. Progress is drawn on a terminal only.
"""


def reference() -> str:
    """The text of docs/cli.md: every command's help, at a fixed width."""
    parts = [HEAD, _help(cli, None, "influencekit")]
    for name, command in cli.commands.items():
        parts.append(f"## {name}\n")
        parts.append(_help(command, click.Context(cli, info_name="influencekit"), name))
    return "\n".join(parts)


def _help(command: click.Command, parent: click.Context | None, name: str) -> str:
    context = click.Context(
        command, parent, info_name=name, terminal_width=88, max_content_width=88, color=False,
        help_option_names=["-h", "--help"],
    )  # fmt: skip
    return f"```text\n{click.unstyle(command.get_help(context)).rstrip()}\n```\n"


if __name__ == "__main__":
    click.echo(reference(), nl=False)
