"""`python -m benchmarks` lists the questions, `python -m benchmarks NAME` answers one."""

import click

from benchmarks.shared.questions import questions


class Questions(click.Group):
    """Imports a question only when it is asked."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*questions()]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return questions()[name].command() if name in questions() else None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """A line each: name, time, question, result."""
        with formatter.section("Questions"):
            for name, one in questions().items():
                result = one.results[0] if len(one.results) == 1 else f"{len(one.results)} files"
                formatter.write(f"  {name:17}{one.takes:9}{result:23}{one.asks}\n")


@click.group(cls=Questions, invoke_without_command=True, context_settings={"max_content_width": 110})
@click.pass_context
def main(context: click.Context) -> None:
    """What influencekit is measured by: `python -m benchmarks NAME --help` says what and how.

    Results go into benchmarks/results/. Times are those of two cores.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
