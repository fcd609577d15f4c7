"""A store of contributions that several ranks write together: each the chunks of its own slots."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr
import zarr

from influencekit._files import NewStore
from influencekit._sealed import seal_store
from influencekit._training.ranks import Ranks
from influencekit.errors import InfluenceKitError, InputError, StoreError

__all__ = ["Shards", "how_far"]

_ROOT = "zarr.json"
_NAMED = 3  # states that a message names


class Shards:
    """The store at `path`, which is there from the start and says how far it came.

    Its attrs: `status`, "unfinished" or "complete"; `done_from` [evaluation], the step from which on
    everything is there, since a sweep goes from the last step to the first. Every rank makes one, all with
    the same arguments. Errors: a path that exists; a disk that cannot be written; what another rank met.
    """

    def __init__(
        self, path: Path, ranks: Ranks, labels: xr.Dataset, last: Sequence[int], slots: slice | None,
        **array: Any,
    ) -> None:  # fmt: skip
        self._path, self._ranks = path, ranks
        self.slots = slice(None) if slots is None else slots
        self._done: dict[tuple[int, int], int] = {}
        self._empty = True
        self._last, self._queries = list(last), labels.sizes["query"]
        said = None
        if ranks.rank == 0:
            try:
                new = NewStore(path)
                try:
                    new.array("contribution", **array)
                    new.commit(labels.assign_attrs(status="unfinished", done_from=self._last))
                    self._note("unfinished")  # not sealed while it grows
                finally:
                    new.discard()
            except (InfluenceKitError, OSError) as error:
                said = str(error)
        if (said := ranks.gathered(said)[0]) is not None:
            raise InputError(said)
        try:
            self.array: Any = zarr.open_array(str(path / "contribution"), mode="r+")
        except (OSError, FileNotFoundError) as error:
            raise StoreError(f"{path} is not there on rank {ranks.rank}: ranks write to one disk") from error

    def flushed(self, columns: Sequence[tuple[int, int]], begin: int, wait: bool) -> None:
        """The columns (evaluation, query) are written from step `begin` on, by all ranks if they `wait`."""
        self._empty = False
        if wait:
            self._ranks.gathered(None)
            self._done |= dict.fromkeys(columns, begin)
            if self._ranks.rank == 0:
                self._note("unfinished")

    def complete(self) -> None:
        """All ranks have written all that is theirs."""
        self._ranks.gathered(None)
        if self._ranks.rank == 0:
            self._done = {(e, q): 0 for e in range(len(self._last)) for q in range(self._queries)}
            self._note("complete")
            seal_store(self._path)
        self._ranks.gathered(None)

    def discard_empty(self) -> None:
        """Remove the store if this is rank 0, and it has written nothing."""
        if self._empty and self._ranks.rank == 0:
            shutil.rmtree(self._path, ignore_errors=True)

    def _note(self, status: str) -> None:
        doc = json.loads((self._path / _ROOT).read_text(encoding="utf-8"))
        doc.get("consolidated_metadata", {}).pop("checksums", None)
        each = range(self._queries)
        done = [max(self._done.get((e, q), t) for q in each) for e, t in enumerate(self._last)]
        doc["attributes"] |= {"status": status, "done_from": done}
        part = self._path / f"{_ROOT}.partial"
        part.write_text(json.dumps(doc, indent=1), encoding="utf-8")
        os.replace(part, self._path / _ROOT)


def how_far(found: xr.Dataset) -> str:
    """Why contributions have gaps, in words: what a store that ranks left unfinished says of itself."""
    if found.attrs.get("status") != "unfinished":
        return "a chunk of them was lost"
    states, done = found.evaluation.values.tolist(), found.attrs["done_from"]
    each = [f"{t} for state {e}" for e, t in zip(states, done, strict=True)]
    more = f", and so on for {len(each)} states" if len(each) > _NAMED else ""
    return f"their sweep did not end, and is there from step {', '.join(each[:_NAMED])}{more}"
