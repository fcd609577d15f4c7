"""Whether a store is what was committed: every chunk, every file, and what each array says of itself."""

from __future__ import annotations

import re
from collections.abc import Callable
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
    searched: bool = True  # for files that are left over

    def __str__(self) -> str:
        how = ", all as committed"
        if self.unlisted is not None:
            how = f", each with a right checksum; {self.unlisted} kept no digests: their place is not checked"
        later = f"; {self.later} files of steps that are not committed, not read" if self.later else ""
        beside = "" if self.searched else "; files beside them not looked for: the address cannot be listed"
        return f"{self.number} read{how}{later}{beside}"


def read_all(group: zarr.Group) -> Chunks:
    """Read every chunk of every array, and look for files that are missing, changed, or not of the store.

    Errors: `StoreError`, which names the first. Cost: the store is read once.
    """
    attrs: dict[str, Any] = dict(group.attrs)
    found = chunks(group)
    listed, files = {f"{n}/{key}" for n, key, _ in found}, _files(group.store)
    later = 0 if files is None else _check_files(files, shown(group), listed, attrs)
    blocks = [which for which, _ in groupby((name, rows.start, rows.stop) for name, _, rows in found)]
    for name, start, stop in track(blocks, "chunks", len(blocks)):
        read(group, name, slice(start, stop))
    unlisted = None if "checks" in attrs else f"influencekit {attrs['influencekit_version']}"
    return Chunks(len(found), unlisted, later, files is None or files.there is not None)


class _Files(NamedTuple):
    """The files or objects of a store: its documents by array ("" = the root's), all keys (None: they cannot
    be listed), those of them that are links."""

    document: Callable[[str], dict[str, Any]]
    there: set[str] | None
    links: set[str]


def _files(store: Any) -> _Files | None:
    """None of a run in memory."""
    if hasattr(store, "document"):
        return _Files(store.document, store.keys(), set())
    if (root := getattr(store, "root", None)) is None:
        return None
    folder = Path(root)
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    links = {name for name, path in there.items() if path.is_symlink()}
    files = {name for name, path in there.items() if name in links or not path.is_dir()}
    return _Files(lambda name: read_document(folder / name / "zarr.json"), files, links)


def _check_files(files: _Files, where: str, chunks: set[str], attrs: dict[str, Any]) -> int:
    """Refuse files that are not the store's, and arrays whose own zarr.json is not what the root's says.

    Returns the number of files of a run that may go on which are not committed: it was cut off, or is being
    written.
    """
    root = files.document("")
    described: dict[str, Any] = root["consolidated_metadata"]["metadata"]
    for name, said in described.items():
        try:
            own = files.document(name)
        except OSError as error:
            raise StoreError(f"{where}: {name}/zarr.json is missing; record again") from error
        if own != said and not ("resume" in attrs and _longer(own, said)):
            raise StoreError(
                f"{where}: {name}/zarr.json is not as it was committed, something else has written it; "
                "record again"
            )
    known = {"zarr.json", *chunks, *(f"{name}/zarr.json" for name in described)}
    left = (files.there or set()) - known
    extra = sorted(x for x in left if x in files.links or not _OF_THE_SYSTEM.fullmatch(x))
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
