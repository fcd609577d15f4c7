"""`influencekit list`: what is installed."""

from __future__ import annotations

import warnings

import click

from influencekit.cli.console import say
from influencekit.errors import InputError

__all__ = ["list_"]

PLURALS = {
    "estimators": "estimator",
    "queries": "query",
    "recorders": "recorder",
    "workloads": "workload",
    "evaluations": "evaluation",
    "averages": "average",
    "commands": "command",
}


@click.command(
    "list", short_help="What is installed: estimators, queries, recorders, workloads, evaluations, averages."
)
@click.argument("kind", required=False, metavar="[KIND]")
def list_(kind: str | None) -> None:
    """List everything installed, or one KIND of it (estimators, queries, recorders, workloads, evaluations,
    averages, and the commands that plugins bring), with its options and their defaults.

    Options are given after the name, as in every-k:k=20 or dit:curvature=fisher. What comes from a plugin
    says so, and a plugin that cannot be loaded says why.
    """
    from influencekit._specs import unknown
    from influencekit.registry import describe, names

    if kind is not None and kind not in PLURALS and kind not in PLURALS.values():
        raise unknown("kind", kind, list(PLURALS), "kinds") if kind else InputError("KIND is empty")
    for plural, single in PLURALS.items():
        if kind is not None and kind not in (plural, single):
            continue
        names(single)  # warns of metadata that cannot be read
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the row says it
            rows = describe(single)
        if single == "command" and kind is None and not rows:
            continue
        say((plural.upper(), "bold"))
        for row in rows:
            provider = "" if row.provider == "built-in" else f"  [{row.provider}]"
            say((row.name, "cyan"), (provider, "dim"), indent=2)
            if row.status != "ok":
                say((row.status, "red"), indent=6)
                continue
            say(row.summary, indent=6)
            if row.options:
                say((":" + ":".join(row.options), "dim"), indent=6)
        say()
