"""`influencekit list`: what is installed."""

from __future__ import annotations

import sys
import warnings

import click

from influencekit.cli.table import paragraph, width_of
from influencekit.errors import InputError

__all__ = ["list_"]

PLURALS = {
    "estimators": "estimator",
    "queries": "query",
    "recorders": "recorder",
    "workloads": "workload",
}


@click.command("list", short_help="What is installed: estimators, queries, recorders, workloads.")
@click.argument("kind", required=False, metavar="[KIND]")
def list_(kind: str | None) -> None:
    """List everything installed, or one KIND of it (estimators, queries, recorders, workloads), with its
    options and their defaults.

    Options are given after the name, as in every-k:k=20 or dit:curvature=fisher. What comes from a plugin
    says so, and a plugin that cannot be loaded says why.
    """
    from influencekit.registry import describe
    from influencekit.specs import unknown

    if kind is not None and kind not in PLURALS and kind not in PLURALS.values():
        raise unknown("kind", kind, list(PLURALS), "kinds") if kind else InputError("KIND is empty")
    width = width_of(sys.stdout)
    for plural, single in PLURALS.items():
        if kind is not None and kind not in (plural, single):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the row says it
            rows = describe(single)
        click.echo(click.style(plural.upper(), bold=True))
        for row in rows:
            provider = "" if row.provider == "built-in" else f"  [{row.provider}]"
            click.echo(f"  {click.style(row.name, fg='cyan')}{click.style(provider, dim=True)}")
            if row.status != "ok":
                click.echo(click.style(paragraph(row.status, width, "      "), fg="red"))
                continue
            click.echo(paragraph(row.summary, width, "      "))
            if row.options:
                click.echo(click.style(paragraph(":".join(row.options), width, "      :"), dim=True))
        click.echo()
