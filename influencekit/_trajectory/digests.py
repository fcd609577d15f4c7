"""Digests of what a commit holds: of every chunk, and of the root document that lists them.

A chunk that is full is known by its file: the CRC-32C in which the file ends. The last one, which may still
grow, is known by its committed rows: a later write that is never committed leaves them as they are. These
are checksums, not signatures. They find what a disk, a copy or another program has changed, but not what
somebody changes who also writes them anew.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Checks", "crc_of_file", "crc_of_rows", "digest_of_document"]


class Checks(NamedTuple):
    """What was committed of an array, chunk by chunk in their order."""

    rows: int  # so many rows
    full: Sequence[int]  # the checksums of the files of full chunks
    last: Sequence[int]  # after them, of the rows of those that are not full

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> Checks:
        return cls(said["rows"], np.frombuffer(b64decode(said["full"]), "<u4").tolist(), said["last"])

    def as_json(self) -> dict[str, Any]:
        full = b64encode(np.array(self.full, "<u4").tobytes()).decode()
        return {"rows": self.rows, "full": full, "last": self.last}


def crc_of_file(content: Any) -> int:
    """The checksum in which the file of a chunk ends."""
    return int.from_bytes(bytes(content[-4:]), "little")


def crc_of_rows(rows: np.ndarray) -> int:
    """The checksum of decoded rows."""
    if rows.dtype.kind in "OT":  # text
        return zlib.crc32(json.dumps(rows.tolist()).encode())
    return zlib.crc32(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)


def digest_of_document(root: Mapping[str, Any]) -> str:
    """SHA-256 of a root document, of its content and not of its text, without the digest in it."""
    attrs = {name: value for name, value in root["attributes"].items() if name != "digest"}
    text = json.dumps({**root, "attributes": attrs}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
