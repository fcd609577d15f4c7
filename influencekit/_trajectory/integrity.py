"""Whether a store is what was committed: every chunk, every file, and what each array says of itself."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import zarr

from influencekit._trajectory.schema import read_document
from influencekit._trajectory.store import chunks, read, shown
from influencekit.errors import StoreError
from influencekit.progress import track

__all__ = ["Chunks", "read_all"]


# what file managers and NFS leave in any folder
_OF_THE_SYSTEM = re.compile(r"(.*/)?(\.DS_Store|Thumbs\.db|desktop\.ini|\.directory|\._.*|\.nfs\w+)")


class Chunks(NamedTuple):
    """What was read: how many chunks; the version, if it kept no list of them; files that are left over."""

    number: int
    unlisted: str | None
    later: int

    def __str__(self) -> str:
        how = ", all as committed"
        if self.unlisted is not None:
            how = f", each with a right checksum; {self.unlisted} kept no digests: their place is not checked"
        later = f"; {self.later} files of steps that are not committed, not read" if self.later else ""
        return f"{self.number} read{how}{later}"


def read_all(group: zarr.Group) -> Chunks:
    """Read every chunk of every array, and look for files that are missing, changed, or not of the store.

    Errors: `StoreError`, which names the first. Cost: the store is read once.
    """
    attrs: dict[str, Any] = dict(group.attrs)
    folder = getattr(group.store, "root", None)
    found = chunks(group)
    listed, where = {f"{n}/{key}" for n, key, _ in found}, shown(group)
    later = 0 if folder is None else _check_files(Path(folder), where, listed, attrs)
    blocks = [which for which, _ in groupby((name, rows.start, rows.stop) for name, _, rows in found)]
    for name, start, stop in track(blocks, "chunks", len(blocks)):
        read(group, name, slice(start, stop))
    unlisted = None if "checks" in attrs else f"influencekit {attrs['influencekit_version']}"
    return Chunks(len(found), unlisted, later)


def _check_files(folder: Path, where: str, chunks: set[str], attrs: dict[str, Any]) -> int:
    """Refuse files that are not the store's, and arrays whose own zarr.json is not what the root's says.

    Returns the number of files of a run that may go on which are not committed: it was cut off, or is being
    written.
    """
    root = read_document(folder / "zarr.json")
    described: dict[str, Any] = root["consolidated_metadata"]["metadata"]
    for name, said in described.items():
        try:
            own = read_document(folder / name / "zarr.json")
        except OSError as error:
            raise StoreError(f"{where}: {name}/zarr.json is missing; record again") from error
        if own != said and not ("resume" in attrs and _longer(own, said)):
            raise StoreError(
                f"{where}: {name}/zarr.json is not as it was committed, something else has written it; "
                "record again"
            )
    known = {"zarr.json", *chunks, *(f"{name}/zarr.json" for name in described)}
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    files = {name for name, path in there.items() if path.is_symlink() or not path.is_dir()}
    extra = sorted(x for x in files - known if there[x].is_symlink() or not _OF_THE_SYSTEM.fullmatch(x))
    names = "|".join(map(re.escape, attrs.get("resume", {}).get("columns", ())))
    uncommitted = re.compile(rf"(({names})/(zarr\.json|c(/\d+)+))|(.*\.partial)")
    for file in extra:
        if "resume" not in attrs or not uncommitted.fullmatch(file):
            raise StoreError(f"{where}: the file {file} is not of this recording; remove it")
    return len(extra)


def _longer(own: Any, said: Any) -> bool:
    """Whether an array has more rows or columns than were committed of it, and else is the same."""
    mine, theirs = own.get("shape"), said["shape"]
    return bool(
        {**own, "shape": theirs} == said
        and len(mine) == len(theirs)
        and all(type(a) is int and a >= b for a, b in zip(mine, theirs, strict=True))
    )
