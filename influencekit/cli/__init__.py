"""The command line: parse, call one verb, print. Nothing heavy is imported before a command runs."""

from typing import Any

from influencekit.cli.start import main

__all__ = ["cli", "main"]


def __getattr__(name: str) -> Any:
    """The command group, imported after `main` listens to signals."""
    if name != "cli":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from influencekit.cli.app import cli

    return cli
