"""`influencekit check`: is a store whole, and does it replay?"""

from __future__ import annotations

from typing import Any

import click

from influencekit.cli.bar import progress
from influencekit.cli.parameters import shared
from influencekit.errors import InputError, StoreError

__all__ = ["check"]


@click.command(short_help="Is a store whole, and does it replay bit for bit?")
@click.argument("store")
@click.option(
    "--replay",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="From how many stored states, spread over the run, to train again to the next stored one.",
)
@shared("device", "data-dir", "threads")
def check(store: str, replay: int, device: str, data_dir: str | None, threads: int) -> None:
    """Open STORE, verify its schema, read every chunk, train some steps again and compare bit for bit.

    Exit code 0 if all is well, 1 with the reason if not.
    """
    from influencekit.cli.problems import reopen, use_device
    from influencekit.store import open_group

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
    _say("states", f"{attrs['start']} to {attrs['committed']}, recorder {attrs['recorder']}")
    with progress():
        chunks = _read_all(group, store)
    _say("chunks", f"{chunks} read, all checksums right")
    try:
        with progress():
            trajectory = reopen(store, data_dir, device)
            done = _replay(trajectory, replay)
    except InputError as error:
        _say("replay", click.style("not done", fg="yellow") + f": {error}")
        return
    _say("workload", "built again; parameters, data, batches and learning rates agree with the store")
    _say("replay", f"{done} steps trained again, each bit for bit as recorded")


def _say(what: str, text: str) -> None:
    click.echo(f"{click.style(f'{what:<9}', bold=True)} {text}")


def _read_all(group: Any, store: str) -> int:
    """Read every chunk of every array. Errors: which one is missing or corrupted."""
    from influencekit.progress import track
    from influencekit.store import chunks, read

    found = list(chunks(group))
    for name, key, rows in track(found, "chunks", len(found)):
        try:
            read(group, name, rows)
        except StoreError as error:
            raise StoreError(f"{error} (chunk {key})") from error
    return len(found)


def _replay(trajectory: Any, count: int) -> int:
    """Train `count` spread steps again, from the stored state before each to the next stored one."""
    import torch

    from influencekit.progress import track

    kept = trajectory.kept
    pairs = list(zip(kept, kept[1:], strict=False))
    chosen = pairs[:: max(1, len(pairs) // count)][:count] if count else []
    done = 0
    for start, stop in track(chosen, "replay", len(chosen)):
        state, recorded = trajectory.state(start), trajectory.state(stop)
        for _ in range(start, stop):
            state = trajectory.step.advance(state)[0]
            done += 1
        same = [torch.equal(state.theta, recorded.theta)]
        same += [torch.equal(state.slots[name], recorded.slots[name]) for name in recorded.slots]
        if not all(same):
            gap = float((state.theta - recorded.theta).abs().max())
            raise StoreError(
                f"state {stop}, replayed from state {start}, differs from the recorded one (by up to "
                f"{gap:.1e}); it was recorded on {trajectory.attrs['device']} with torch "
                f"{trajectory.attrs['torch_version']}: check it there, with the same --threads"
            )
    return done
