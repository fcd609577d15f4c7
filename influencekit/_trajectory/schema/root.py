"""The root document of a store, checked as a whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from influencekit import __version__
from influencekit._trajectory.digests import Checks
from influencekit._trajectory.schema.arrays import Described, check_arrays
from influencekit._trajectory.schema.attributes import check_attributes, sizes
from influencekit._trajectory.schema.document import read_document
from influencekit._trajectory.schema.files import check_files
from influencekit._trajectory.schema.kinds import Kind, check_object, one_of, whole
from influencekit.errors import StoreError

__all__ = ["check_document", "check_store"]

_DIGESTS = 0, 4  # the first version that has kept them
_plain = Kind("an object", lambda x: type(x) is dict)
_ROOT = {
    "attributes": _plain,
    "zarr_format": whole(3, 3),
    "node_type": one_of("group"),
    "consolidated_metadata": _plain,
}
_CONSOLIDATED = {
    "kind": one_of("inline"),
    "must_understand": Kind("false", lambda x: x is False),
    "metadata": _plain,
}
_FIXED = {"train", "batch", "lr", "epoch", "step"}  # they may be known before the run


def check_store(path: Path, schema: int) -> dict[str, Any]:
    """Refuse a store that is not as this version, or one before it, writes them. Other things than stores of
    this schema are let pass. Returns its document.

    An attribute or an array that is unknown is an error, unless a later version wrote the store: an addition
    does not change the schema. Errors: `StoreError` that names the attribute or the array; `OSError` where
    there is no document. Cost: reading the document, and listing a folder of every array.
    """
    return check_document(read_document(path / "zarr.json"), str(path), schema, partial(check_files, path))


def check_document(
    document: dict[str, Any], path: str, schema: int,
    check_files: Callable[[str, Described, int, str], None],
) -> dict[str, Any]:  # fmt: skip
    """The same of a document that was read. `check_files`: of an array and its committed rows, in the store
    of that name."""
    attrs: Any = document.get("attributes", {})
    check_object(attrs, {}, set(), f"{path}: its attributes", closed=False)
    if attrs.get("influencekit_schema") != schema:
        return document
    newer = _version(attrs.get("influencekit_version")) > _version(__version__)
    check_object(document, _ROOT, set(_ROOT), f"{path}: in zarr.json")
    said = document["consolidated_metadata"]
    check_object(said, _CONSOLIDATED, {"kind", "metadata"}, f"{path}: in consolidated_metadata")
    check_attributes(attrs, path, newer)
    if _version(attrs["influencekit_version"]) >= _DIGESTS:
        for name in {"checks", "digest"} - attrs.keys():
            raise StoreError(f"{path}: the attribute {name!r} is missing; record again")
    arrays = check_arrays(said["metadata"], sizes(attrs), attrs["committed"], path, newer)
    if "resume" in attrs:
        _check_resume(attrs["resume"], arrays, f"{path}: the attribute 'resume': its")
    for name, array in arrays.items():
        rows = attrs["committed"] if array.dims[0] == "step" else array.shape[0]
        check_files(name, array, rows, path)
        if "checks" in attrs:
            _check_checks(attrs["checks"].get(name), array, rows, f"{path}: 'checks' of the array {name!r}")
    return document


def _check_resume(said: dict[str, Any], arrays: dict[str, Described], where: str) -> None:
    """Whether what is to be continued is there."""
    for name, array in arrays.items():
        column = said["columns"].get(name)
        if (name not in _FIXED) if column is None else (tuple(column[0]) != array.dims):
            raise StoreError(f"{where} 'columns' do not have the array {name!r} as it is; record again")
    states = arrays["rng"].shape[0] if "rng" in arrays else 0
    position = said["snapshot"] or {}
    for name in ("began", "now"):
        if isinstance(number := position.get(name), int) and number >= states:
            raise StoreError(f"{where} 'snapshot', its {name!r}: expected less than {states}; record again")


def _check_checks(said: Any, array: Described, rows: int, where: str) -> None:
    """Whether every chunk that is to be read has a checksum: one that has none would not be missed."""
    try:
        checks = Checks.parse(said)
    except (KeyError, TypeError, ValueError):
        raise StoreError(f"{where} cannot be read; record again") from None
    beside = prod(-(-n // long) for n, long in zip(array.shape[1:], array.chunks[1:], strict=True))
    numbers = (checks.rows // array.chunks[0] * beside, beside * (checks.rows % array.chunks[0] > 0))
    if not rows <= checks.rows <= array.shape[0] or (len(checks.full), len(checks.last)) != numbers:
        raise StoreError(f"{where} are not of its {rows} rows; record again")


def _version(text: Any) -> tuple[int, ...]:
    found = re.match(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?", text) if isinstance(text, str) else None
    return tuple(int(part or 0) for part in found.groups()) if found else ()
