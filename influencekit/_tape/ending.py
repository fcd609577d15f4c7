"""The end of a recording: its last state is stored, and the store says how the run ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from influencekit._tape.reloads import refuse_unknown
from influencekit._tape.spot_check import SpotCheck
from influencekit._tape.writer import TapeWriter
from influencekit._training.state import State
from influencekit.errors import DivergedError, InputError

__all__ = ["end_store"]


def end_store(
    store: TapeWriter, error: BaseException | None, last_state: Callable[[], tuple[State, int | None]],
    note: Callable[[], Mapping[str, Any]], spot: SpotCheck, completed: Callable[[], None],
) -> None:  # fmt: skip
    """Close a store. `error`: what ended the loop, if anything did.

    last_state() gives the last state and the number of the one that was loaded since, note() what is needed
    to go on. `completed` is called once the run is whole in the store. Errors: those of `last_state`; no step
    was recorded; weights were loaded that are no state of the run.
    """
    writer = store.writer
    if writer is None:
        if error is None:
            raise InputError("the tape saw no optimizer step; iterate over tape.batches(loader) inside it")
    elif error is None:
        try:
            end, reloaded = last_state()
            store.state(end, note())
            spot.last(end.step)
        except BaseException:
            writer.close("recording")
            raise
        known: dict[str, Any] = {} if reloaded in (None, -1) else {"reloaded": reloaded}
        writer.close(may_go_on=True, replay=spot.summary(), **known)
        completed()
        refuse_unknown(reloaded)
    elif isinstance(error, DivergedError):
        writer.close("stopped", reason=str(error))
    else:  # what was recorded stays, and may be resumed
        writer.close("recording")
