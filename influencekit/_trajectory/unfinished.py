"""What to say of a run that is still being written, or was cut off."""

from pathlib import Path
from typing import Any

import zarr

from influencekit._files import is_held
from influencekit.errors import StoreError

__all__ = ["describe_unfinished"]


def describe_unfinished(group: zarr.Group, store: str | Path) -> str:
    """One line on a run that has not ended; empty for one that has. Errors: no step of it is committed."""
    committed: Any = group.attrs["committed"]
    if group.attrs["status"] != "recording":
        return ""
    writing = isinstance(store, Path) and is_held(store)
    tape: Any = group.attrs.get("tape")
    again = "run the program that records it again, with resume=True"
    if ranks := (tape or {}).get("ranks"):
        again = f"record it again into a new store (a run of {ranks} ranks cannot be resumed)"
    if not committed and tape is not None:
        raise StoreError(
            f"{store} is being written, and no step is committed yet: open it again in a few seconds"
            if writing
            else f"{store} was cut off before a step was committed: {again}"
        )
    if writing:
        return (
            f"{store} is still being written: {committed} steps are committed so far, and what is opened "
            "ends there; open it again when the run is over"
        )
    return (
        f"{store} was cut off: {committed} steps are committed, and what is opened ends there; "
        f"{'' if ranks else 'to finish it, '}{again}"
    )
