"""The arrays of a store: dims, dtypes, shapes that agree with each other, and the codecs that we write."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from influencekit._trajectory.schema.kinds import Kind, check_object, items, one_of, shown, text, whole
from influencekit.errors import StoreError

__all__ = ["Described", "check_arrays"]

_ROWS = 1000  # of a chunk, unless it is the only one
_CHUNK = 8 << 20  # bytes of a chunk of several rows of states and tables
_LARGEST = 1 << 30  # bytes of any chunk
_FLOATS = ("float16", "float32", "float64")
_IDS = ("string", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)))
_SIZES = {
    "string": 1,
    **{f"{kind}{bits}": bits // 8 for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64)},
}

_FILLS = (0, -1, "NaN", "")

_STEP, _SLOT, _MICRO = ("step",), ("step", "slot"), ("step", "micro")
# dims and dtypes by name; what else has states is a slot of the optimizer
_ARRAYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "theta": (("kept", "param"), _FLOATS),
    "buffers": (("kept", "buffer"), ("float64",)),
    "kept": (("kept",), ("int64",)),
    "step": (_STEP, ("int64",)),
    "epoch": (_STEP, ("int64",)),
    "lr": (("step", "group"), ("float64",)),
    "batch": (_SLOT, ("int64",)),
    "part": (_SLOT, ("int64",)),
    "row": (_SLOT, ("int64",)),
    "coefficient": (_SLOT, ("float64",)),
    "loss": (_SLOT, _FLOATS),
    "fetch_rng": (_MICRO, ("int64",)),
    "forward_rng": (_MICRO, ("int64",)),
    "train": (("train",), _IDS),
    "rng": (("generators", "byte"), ("uint8",)),
    "settings": (("change", "setting"), ("float64",)),
    "content": (("content", "content_byte"), ("uint8",)),
    "content_form": (("content",), ("int64",)),
    "form": (("form", "form_byte"), ("uint8",)),
    "id": (("example", "id_byte"), ("uint8",)),
    "first": (("example",), ("int64",)),
}
_SLOTS = (("kept", "param"), _FLOATS)

_lengths = Kind(
    "one or two lengths", lambda x: type(x) is list and 1 <= len(x) <= 2 and all(map(whole().fits, x))
)
_same = lambda value: Kind(shown(value) if value in ({}, []) else repr(value), lambda x: x == value)  # noqa: E731
_DOCUMENT = {
    "shape": _lengths,
    "data_type": text(60),
    "chunk_grid": Kind("a regular grid", lambda x: type(x) is dict and x.keys() == {"name", "configuration"}
                       and x["name"] == "regular" and type(x["configuration"]) is dict
                       and x["configuration"].keys() == {"chunk_shape"}),
    "chunk_key_encoding": _same({"name": "default", "configuration": {"separator": "/"}}),
    "fill_value": Kind("0, -1, NaN or no text", lambda x: type(x) in (int, float, str) and x in _FILLS),
    "codecs": Kind("a list of codecs", lambda x: type(x) is list and all(type(c) is dict for c in x)),
    "attributes": _same({}),
    "dimension_names": items(text(60)),
    "zarr_format": whole(3, 3),
    "node_type": one_of("array"),
    "storage_transformers": _same([]),
}  # fmt: skip


class Described(NamedTuple):
    """What a store says of an array."""

    dims: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]

    @property
    def bytes_of_chunk(self) -> int:
        """What a chunk holds; of text, a byte for each."""
        return prod(self.chunks) * _SIZES[self.dtype]


def check_arrays(
    docs: dict[str, Any], lengths: dict[str, int], committed: int, store: str, newer: bool
) -> dict[str, Described]:
    """The arrays by name. `lengths`: of dims, as far as the attributes tell. Errors: `StoreError` that names
    the array."""
    found = {
        name: _described(name, doc, f"{store}: the array {name[:60]!r}", newer) for name, doc in docs.items()
    }
    by_dim = {dim: (length, "the attributes") for dim, length in lengths.items()}
    for name, array in found.items():
        for dim, length in zip(array.dims, array.shape, strict=True):
            expected, whose = by_dim.setdefault(dim, (length, f"the array {name!r}"))
            if length != expected:
                raise StoreError(
                    f"{store}: the array {name!r} has {length} along {dim}, not {expected}, as in {whose}; "
                    "record again"
                )
    steps, states = (by_dim.get(dim, (committed, ""))[0] for dim in ("step", "kept"))
    if committed > steps or states > steps + 1:
        raise StoreError(
            f"{store}: {committed} steps are committed, and the arrays have {steps} steps and {states} "
            "states; record again"
        )
    return found


def _described(name: str, doc: Any, where: str, newer: bool) -> Described:
    if not name.isidentifier():
        raise StoreError(f"{where}: this is no name of an array; record again")
    check_object(
        doc, _DOCUMENT, _DOCUMENT.keys() - {"storage_transformers", "attributes"}, f"{where}: its", not newer
    )
    shape, chunks, dims = (
        doc["shape"],
        doc["chunk_grid"]["configuration"]["chunk_shape"],
        tuple(doc["dimension_names"]),
    )
    dtype = doc["data_type"]
    slot = dims == _SLOTS[0]
    if name not in _ARRAYS and not slot and not newer:
        raise StoreError(f"{where} is unknown: no version up to this one writes it; remove it")
    known, dtypes = _ARRAYS.get(name, _SLOTS if slot else (dims, tuple(_SIZES)))
    if dims != known or len(shape) != len(dims):
        raise StoreError(
            f"{where}: expected the dims {', '.join(known)}, got {', '.join(dims)} and the shape {shape}"
        )
    if dtype not in dtypes:
        raise StoreError(f"{where}: expected the dtype {' or '.join(dtypes)}, got {dtype!r}; record again")
    kind = str if dtype == "string" else (int, float) if dtype in _FLOATS else int
    if not isinstance(doc["fill_value"], kind) and not (dtype in _FLOATS and doc["fill_value"] == "NaN"):
        raise StoreError(f"{where}: its 'fill_value' is {shown(doc['fill_value'])}, which is none of {dtype}")
    _check_codecs(doc["codecs"], dtype, len(shape), where)
    if not (_lengths.fits(chunks) and len(chunks) == len(shape) and min(chunks) > 0):
        raise StoreError(f"{where}: expected chunks of one or two lengths above 0, got {shown(chunks)}")
    array = Described(dims, dtype, tuple(shape), tuple(chunks))
    _check_chunks(array, where)
    return array


def _check_chunks(array: Described, where: str) -> None:
    """Chunks are no larger than those that are written: a small file must not become a large array."""
    rows, size = array.chunks[0], array.bytes_of_chunk
    most = max(1, array.shape[0]) if array.dims == ("train",) else _ROWS
    wide = array.chunks[1:] <= tuple(max(1, n) for n in array.shape[1:])
    several = rows > 1 and array.dims[0] not in ("step", "train") and size > _CHUNK
    if rows > most or not wide or several or size > _LARGEST:
        raise StoreError(
            f"{where}: its chunks of {' x '.join(map(str, array.chunks))} are larger than any that are "
            "written; record again"
        )


def _check_codecs(codecs: list[Any], dtype: str, dims: int, where: str) -> None:
    """[transpose,] bytes or text, blosc, crc32c: nothing else is written, nothing else is run."""
    names = [c.get("name") for c in codecs]
    size, first = _SIZES[dtype], "vlen-utf8" if dtype == "string" else "bytes"
    plain = names == [first, "blosc", "crc32c"]
    if not plain and not (dims == 2 and names == ["transpose", first, "blosc", "crc32c"]):
        if "crc32c" not in names:
            raise StoreError(
                f"{where} has no checksums (the codec crc32c), so it cannot be trusted; record again"
            )
        raise StoreError(
            f"{where}: expected the codecs {first}, blosc, crc32c, got {', '.join(map(str, names))[:100]}"
        )
    order = {"configuration": {"order": [1, 0]}} if plain else codecs[0]
    how, blosc, checksum = codecs[-3:]
    settings = blosc.get("configuration")
    fine = (
        order.get("configuration") == {"order": [1, 0]}
        and (how.get("configuration") or {}) in ({}, {"endian": "little"})
        and ("endian" in (how.get("configuration") or {}) or size == 1)
        and not checksum.get("configuration")
        and type(settings) is dict
        and settings.keys() == {"typesize", "cname", "clevel", "shuffle", "blocksize"}
        and settings["cname"] in ("zstd", "lz4")
        and settings["shuffle"] in ("noshuffle", "bitshuffle")
        and (settings["typesize"], settings["blocksize"]) == (size, 0)
        and whole(0, 9).fits(settings["clevel"])
    )
    if not fine:
        raise StoreError(f"{where}: its codecs have settings that are never written; record again")
