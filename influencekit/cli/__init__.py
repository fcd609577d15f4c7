"""The command line: parse, call one verb, print. Nothing heavy is imported before a command runs."""

from influencekit.cli.app import cli, main

__all__ = ["cli", "main"]
