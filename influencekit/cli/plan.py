"""`influencekit plan`: what the work on a run will take, before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from influencekit.cli.console import working
from influencekit.cli.output import check_places, replaced_file
from influencekit.cli.parameters import PATH, shared
from influencekit.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["plan", "plan_of_store", "print_plan"]


@click.command(short_help="Time, memory and disk of the work on a run, before it begins.")
@click.argument("what", metavar="STORE|WORKLOAD")
@click.option(
    "--estimators",
    "--estimator",
    default="dit,loo",
    show_default=True,
    metavar="SPECS",
    help="Estimators that sweep or retrain: dit, sgd-influence, loo, expected-loo, out-of-fold.",
)
@shared("query", "window", "removal", "recorder", "setting")
@click.option(
    "--seed", type=click.IntRange(0, 10**18 - 1), default=0, show_default=True, metavar="N",
    help="Of a workload.",
)  # fmt: skip
@click.option(
    "--json",
    "json_file",
    type=PATH,
    metavar="FILE",
    help="Write it as JSON, in bytes and seconds, over what is there; - is stdout, in place of the table.",
)
@shared("code", "device", "data-dir", "threads")
@click.pass_context
def plan(
    ctx: click.Context, what: str, estimators: str, query: str, window: str, removal: Any, recorder: str,
    setting: str | None, seed: int, json_file: str | None, code: str | None, device: str,
    data_dir: str | None, threads: int,
) -> None:  # fmt: skip
    """Say what the work on a run will take: seconds, memory, disk, and what to do about it.

    A few steps of STORE, or of WORKLOAD, which is still to be recorded, are trained, swept over and retrained
    with a clock; the rest is arithmetic. Times are of this machine as it is now. Examples:

    \b
      influencekit plan mnist-1v7-dnn
      influencekit plan mnist-1v7-cnn --recorder every-k:k=20 --estimators dit,loo:examples=32
      influencekit plan run.zarr --window each-epoch
      influencekit plan mine.zarr --code train.py:parts --json plan.json
    """
    file = None if json_file in ("-", "/dev/stdout") else json_file
    check_places({"--json": file})
    with replaced_file(file, "--json") as path:
        with working():
            import influencekit as ik
            from influencekit.cli.problems import WorkloadSource, is_store, reopen, use_device

            chip = use_device(device, threads)
            given = {
                n for n in ctx.params if ctx.get_parameter_source(n) is not click.core.ParameterSource.DEFAULT
            }
            if is_store(what, code):
                if unfit := sorted({"setting", "seed", "recorder"} & given):
                    raise InputError(f"--{unfit[0]} is for a workload; {what} is recorded already")
                made: Any = reopen(what, data_dir, chip, code)
                found = ik.plan(made, estimators, query, window, removal)
            else:
                made = WorkloadSource(what, setting, data_dir, chip)(seed)
                found = ik.plan(made, estimators, query, window, removal, recorder)
        if path:
            path.write_text(_json(found), encoding="utf-8")
    if json_file is not None and file is None:
        from influencekit.cli.console import write

        return write(_json(found))
    print_plan(found)


def plan_of_store(
    store: str, estimator: str, query: str, window: str, removal: Any, code: str | None, device: str,
    data_dir: str | None, threads: int, verify_top: int | None, parts: bool,
) -> None:  # fmt: skip
    """`estimate --dry-run`: the plan of this estimate, and of its `--verify-top`."""
    with working():
        import influencekit as ik
        from influencekit.cli.problems import reopen, use_device

        run = reopen(store, data_dir, use_device(device, threads), code)
        found = ik.plan(run, estimator, query, window, removal, verify_top=verify_top, parts=parts)
    print_plan(found)


def _json(found: xr.Dataset) -> str:
    from influencekit.cli.formats import to_json

    rows = found.to_dataframe().reset_index().to_dict("records")
    return to_json({**found.attrs, "work": rows})


def print_plan(found: xr.Dataset) -> None:
    """The table, and the advice below it."""
    from influencekit._bars import clock
    from influencekit._verbs.plan.advice import size
    from influencekit.cli.console import print_table, say
    from influencekit.cli.frames import pandas

    pd = pandas()
    about = found.attrs
    say(
        (about["workload"], "bold"),
        f": {about['steps']} steps, {about['examples']} examples, {about['parameters']} parameters, a state "
        f"of {size(about['state'])}; {about['measured']} steps measured on {about['device']}",
    )
    rows = []
    for name, row in found.to_dataframe().iterrows():
        seconds = row.seconds
        rows.append(
            {
                "work": f"{name} ({about['recorder']})" if name == "record" else name,
                "time": f"{seconds:.2g} s" if seconds < 10 else clock(seconds),
                "memory": "-" if row.memory != row.memory else size(row.memory),
                "disk": "-" if row.disk != row.disk else size(row.disk),
                "trainings": str(int(row.trainings)) if row.trainings else "-",
            }
        )
    print_table(pd.DataFrame(rows))
    for sentence in about["advice"]:
        say(f"- {sentence}.")
