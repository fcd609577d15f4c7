"""The end of a recording: its last state is stored, and the store says how the run ended."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from influencekit._tape.ranks import SilentWriter
from influencekit._tape.reloads import refuse_unknown
from influencekit._tape.spot_check import SpotCheck
from influencekit._tape.writer import TapeWriter
from influencekit._training.state import State
from influencekit.errors import DivergedError, InputError

__all__ = ["end_store"]

_MOVED = (
    "after its last step the loop ran the model in train mode, which changed buffers (running statistics); "
    "the recorded run, and all scores, are of the model before that"
)


def end_store(
    store: TapeWriter, error: BaseException | None,
    last_state: Callable[[], tuple[State | None, int | None]],
    note: Callable[[], Mapping[str, Any]], spot: SpotCheck, completed: Callable[[], None], steps: int,
) -> None:  # fmt: skip
    """Close a store. `error`: what ended the loop, if anything did.

    last_state() gives the last state and the number of the one that was loaded since, note() what is needed
    to go on. `completed` is called once the run is whole in the store. Without a last state, since buffers
    have moved on, the run is complete and cannot go on; a warning, and the `caution` of results, say so.
    Errors: those of `last_state`; no step was recorded; weights were loaded that are no state of the run.
    """
    if isinstance(store, SilentWriter):
        if error is None and steps:
            last_state()
        return
    writer = store.writer
    if writer is None:
        if error is None:
            raise InputError("the tape saw no optimizer step; iterate over tape.batches(loader) inside it")
    elif writer.forked:
        return
    elif error is None:
        try:
            end, reloaded = last_state()
            if end is not None:
                store.state(end, note())
            spot.last(steps)
        except BaseException:
            writer.close("recording")
            raise
        known: dict[str, Any] = {} if reloaded in (None, -1) else {"reloaded": reloaded}
        if end is None:
            writer.close(replay=spot.summary(), caution=_MOVED, **known)
            warnings.warn(_MOVED, UserWarning, stacklevel=4)
        else:
            writer.close(may_go_on=True, replay=spot.summary(), **known)
            completed()
        refuse_unknown(reloaded)
    elif isinstance(error, DivergedError):
        writer.close("stopped", reason=str(error))
    else:
        store.leave_off()
