"""Stores that are changed on purpose, by somebody who writes the checksums and digests anew as well."""

import json
from pathlib import Path
from typing import Any

import zarr

from influencekit._trajectory.chunks import chunks_of
from influencekit._trajectory.digests import Checks, crc_of_file, crc_of_rows, digest_of_document


def changed(store: Path, **attrs: Any) -> None:
    """Change attributes of a store (None: delete them); the digest is that of the new ones."""
    root = json.loads((store / "zarr.json").read_text())
    root["attributes"] = {k: v for k, v in {**root["attributes"], **attrs}.items() if v is not None}
    sealed(store, root)


def sealed(store: Path, root: Any = None) -> None:
    """Make the list of checksums that of the chunks that are there, and the digest that of the list."""
    root = root or json.loads((store / "zarr.json").read_text())
    group = zarr.open_group(store, mode="r")
    for name, said in root["attributes"].get("checks", {}).items():
        old, array = Checks.parse(said), group[name]
        chunks = chunks_of(array, slice(0, old.rows))
        full, growing = chunks[: len(old.full)], chunks[len(old.full) :]
        files = [crc_of_file((store / name / chunk.key).read_bytes()) for chunk in full]
        rows = [crc_of_rows(array[chunk.rows][:, *chunk.columns]) for chunk in growing]
        root["attributes"]["checks"][name] = Checks(old.rows, files, rows).as_json()
    if "checks" in root["attributes"]:
        root["attributes"]["digest"] = digest_of_document(root)
    (store / "zarr.json").write_text(json.dumps(root, indent=1))
