"""`influencekit verify`: is a store whole, and does it replay?"""

from __future__ import annotations

from typing import Any

import click

from influencekit.cli.console import say, working
from influencekit.cli.parameters import STORE, shared

__all__ = ["verify"]


@click.command(short_help="Is a store whole, and does it replay bit for bit?")
@click.argument("store", type=STORE)
@click.option(
    "--replay",
    type=click.IntRange(min=0),
    metavar="N",
    help="Train again from N kept states only, spread over the run, to the next kept one. [default: all]",
)
@shared("code", "device", "data-dir", "threads")
def verify(
    store: str, replay: int | None, code: str | None, device: str, data_dir: str | None, threads: int
) -> None:
    """Open STORE, compare its metadata and every chunk with what was committed, train every step again and
    compare bit for bit. Each line says what was checked.

    Exit code 0 if all is well, 1 with the reason if not. For a run that was recorded in Python, --code says
    where its model, loss and data are made. Examples:

    \b
      influencekit verify run.zarr
      influencekit verify mine.zarr --code train.py:parts
    """
    from influencekit._trajectory.integrity import read_all
    from influencekit._trajectory.store import open_group
    from influencekit._verbs.meaning import check_meaning
    from influencekit._verbs.verify import replayed
    from influencekit.cli.problems import reopen, use_device

    device = use_device(device, threads)
    group = open_group(store)
    attrs: dict[str, Any] = dict(group.attrs)
    _say("schema", f"{attrs['influencekit_schema']}, written by influencekit {attrs['influencekit_version']}")
    why = f" ({attrs['reason']})" if attrs["status"] == "stopped" else ""
    if attrs["status"] == "recording":
        planned = group["step"].shape[0] if "step" in group else 0  # type: ignore[union-attr]
        of = f" of {planned}" if planned > attrs["committed"] else ""
        why = f": {attrs['committed']}{of} steps are committed; it goes on, or can be resumed"
    info = attrs["info"]
    setting = f", {info['setting']} setting" if "setting" in info else ""
    _say("run", f"{attrs['workload']}{setting}; {attrs['status']}{why}")
    near = "" if attrs.get("lossless", True) else ", which is not lossless"
    _say("states", f"{attrs['start']} to {attrs['committed']}, recorder {attrs['recorder']}{near}")
    with working():
        chunks = read_all(group)
    _say("chunks", str(chunks))
    with working():
        trajectory = reopen(store, data_dir, device, code)
        meaning = check_meaning(trajectory)
        done = replayed(trajectory, replay)
    _say("workload", f"built again; compared: {meaning}")
    _say("replay", str(done))


def _say(what: str, text: str) -> None:
    say((f"{what:<9}", "bold"), " ", text)
