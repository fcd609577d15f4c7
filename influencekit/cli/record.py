"""`influencekit record`: train once and keep the trajectory."""

from __future__ import annotations

from pathlib import Path

import click

from influencekit.cli.console import complain, say, working
from influencekit.cli.output import check_places
from influencekit.cli.parameters import PATH, shared
from influencekit.errors import InfluenceKitError, InputError

__all__ = ["record"]


@click.command(short_help="Train once and keep the trajectory in a store.")
@click.argument("workload")
@click.option("--store", required=True, type=PATH, metavar="PATH", help="A new zarr store, such as run.zarr.")
@shared("recorder")
@click.option(
    "--window",
    default="full",
    show_default=True,
    metavar="WINDOW",
    help="Keep only the states of a window: step:10-40 or epoch:3-5, half-open and counted from 0. Training "
    "ends with it.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 10**18 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Decides the draw of the examples, the initial parameters and the order of the batches.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the recording at --store, if there is one, with its recorder and window: for a run that "
    "was interrupted or killed. It ends as the same store, bit for bit.",
)
@click.option(
    "--durable",
    is_flag=True,
    help="What is committed also outlives a loss of power: every file is forced to the disk.",
)
@shared("setting", "device", "data-dir", "threads")
@click.pass_context
def record(
    ctx: click.Context, workload: str, store: str, recorder: str, window: str, seed: int, resume: bool,
    durable: bool, setting: str | None, device: str, data_dir: str | None, threads: int,
) -> None:  # fmt: skip
    """Train WORKLOAD and record every state (or every k-th) into a labelled zarr store.

    The store opens with xarray.open_zarr, and says how it was made, so that influencekit estimate needs
    nothing else. Examples:

    \b
      influencekit record mnist-1v7-dnn --store run.zarr
      influencekit record mnist-1v7-dnn --store run.zarr --recorder every-k:k=20 --window epoch:0-5
      influencekit record mnist-1v7-dnn --store run.zarr --resume
    """
    path = Path(store)
    check_places({"--store": store})
    if path.exists() and not resume:
        raise InputError(
            f"--store {store} exists already; choose another name, or continue it with --resume, if it was "
            "cut off"
        )
    if not path.absolute().parent.is_dir():
        raise InfluenceKitError(f"--store {store} cannot be written: {path.parent} is not a folder")
    with working():
        import influencekit as ik
        from influencekit._trajectory.store import open_group
        from influencekit.cli.problems import WorkloadSource, use_device
        from influencekit.windows import parse_windows

        problem = WorkloadSource(workload, setting, data_dir, use_device(device, threads))(seed)
        spans = parse_windows(window, problem.plan.epoch.tolist())
        if len(spans) != 1:
            raise InputError(f"--window {window} is {len(spans)} windows; a recording has one")
        default = {n for n in ctx.params if ctx.get_parameter_source(n) is click.core.ParameterSource.DEFAULT}
        continued = resume and path.exists()
        try:
            trajectory = ik.record(
                problem,
                None if continued and "recorder" in default else recorder,
                path,
                None if continued and "window" in default else (spans[0].start, spans[0].stop),
                resume=resume,
                durable=durable,
            )
        except (KeyboardInterrupt, SystemExit):
            if path.exists():
                done = open_group(path).attrs["committed"]
                complain(f"{store} has {done} steps; the same command with --resume continues it")
            raise
    attrs, steps = trajectory.attrs, problem.plan.steps
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    accuracy = attrs.get("accuracy", float("nan"))
    reached = f", test accuracy {100 * accuracy:.1f} %" if accuracy == accuracy else ""
    say(
        (store, "bold"),
        f": {problem.name}, seed {seed}, states {trajectory.first} to "
        f"{trajectory.last} of {steps} steps, {problem.n_params} parameters, {_size(size)}{reached}",
    )
    part = ""
    if (trajectory.first, trajectory.last) != (0, steps):  # only windows inside it can be asked about
        part = f" --window step:{trajectory.first}-{trajectory.last}"
        part += " --removal window" if trajectory.first else ""
    say(f"next: influencekit estimate {store} --estimator dit{part}")


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
