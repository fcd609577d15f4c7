"""More than a hundred root documents that say what is not so."""

import json
from typing import Any

from benchmarks.shared.hostile_stores import HUGE, SPEC, Spoil, array, at, attribute, edited, text

__all__ = ["DOCUMENTS"]


def _doubled(document: str) -> str:
    return document.replace('"start"', '"committed": 0, "start"', 1)


def _ten_times_as_many(document: dict[str, Any]) -> None:
    """Every array of states claims 10**15 of them."""
    for each in document["consolidated_metadata"]["metadata"].values():
        if each["dimension_names"][0] == "kept":
            each["shape"][0] = HUGE


def _another_group(document: dict[str, Any]) -> None:
    document["consolidated_metadata"]["metadata"]["inner"] = {
        "attributes": {}, "zarr_format": 3, "node_type": "group", "consolidated_metadata": None,
    }  # fmt: skip


def _outside(document: dict[str, Any]) -> None:
    docs = document["consolidated_metadata"]["metadata"]
    docs["../other/theta"] = docs["theta"]


def _chunk(name: str, *shape: int) -> Spoil:
    return array(name, "chunk_grid", "configuration", "chunk_shape", to=list(shape))


def _wide(document: dict[str, Any]) -> None:
    """A model of a million million parameters, in the fingerprint and the arrays."""
    document["attributes"]["fingerprint"]["parameters"] = [["w", [HUGE // 1000]]]
    for each in document["consolidated_metadata"]["metadata"].values():
        if each["dimension_names"][-1] == "param":
            each["shape"][1] = each["chunk_grid"]["configuration"]["chunk_shape"][1] = HUGE // 1000


DOCUMENTS: dict[str, Spoil] = {
    "no document": lambda path: (path / "zarr.json").unlink(),
    "an empty document": text(lambda s: ""),
    "half a document": text(lambda s: s[: len(s) // 2]),
    "a list": text(lambda s: "[]"),
    "a number": text(lambda s: "7"),
    "a byte that is no text": lambda path: (
        (path / "zarr.json").write_bytes(b'{"attributes": "\xff"}') and None
    ),
    "a key twice": text(_doubled),
    "100,000 levels": text(
        lambda s: s.replace('"start"', '"x": ' + "[" * 100_000 + "]" * 100_000 + ', "start"', 1)
    ),
    "500 levels": attribute("info", "x", to=json.loads("[" * 500 + "]" * 500)),
    "four million empty lists": text(
        lambda s: s.replace('"start"', '"x": [' + "[]," * 4_000_000 + '0], "start"', 1)
    ),
    "a million keys": attribute("info", "x", to={str(k): k for k in range(1_000_000)}),
    "100 MB of blanks": text(lambda s: s + " " * 100_000_000),
    "a number of 5,000 digits": text(lambda s: s.replace('"seed": ', '"seed": ' + "9" * 5000, 1)),
    "a number of 100 digits": attribute("seed", to=10**100),
    "seed of 2**70": attribute("seed", to=2**70),
    "schema 10**30": attribute("influencekit_schema", to=10**30),
    "schema 1.0": attribute("influencekit_schema", to=1.0),
    "schema true": attribute("influencekit_schema", to=True),
    "a list for the schema": attribute("influencekit_schema", to=[1]),
    "another version's schema": attribute("influencekit_schema", to=2),
    "no version": attribute("influencekit_version", to=...),
    "an object for the version": attribute("influencekit_version", to={}),
    "a version with a newline": attribute("influencekit_version", to="9\x1b[2J\n\n9"),
    "an unknown attribute": attribute("evil", to=1),
    "attributes are a list": at("attributes", to=[]),
    "no consolidated metadata": at("consolidated_metadata", to=...),
    "consolidated metadata is text": at("consolidated_metadata", to="x"),
    "format 2": at("zarr_format", to=2),
    "the root is an array": at("node_type", to="array"),
    "status is unknown": attribute("status", to="fine"),
    "status is a list": attribute("status", to=["complete"]),
    "no status": attribute("status", to=...),
    "committed is negative": attribute("committed", to=-3),
    "committed is 10**18": attribute("committed", to=10**18),
    "committed is a fraction": attribute("committed", to=3.5),
    "committed is NaN": attribute("committed", to=float("nan")),
    "committed is text": attribute("committed", to="6"),
    "no committed": attribute("committed", to=...),
    "start is after stop": attribute("start", to=7),
    "start is infinite": attribute("start", to=float("inf")),
    "start is later": attribute("start", to=3),
    "stop is 10**18": attribute("stop", to=10**18),
    "stop is null": attribute("stop", to=None),
    "lossless is text": attribute("lossless", to="no"),
    "not lossless": attribute("lossless", to=False),
    "held is 0": attribute("held", to=0),
    "held is 10**30": attribute("held", to=10**30),
    "held is 10**15": attribute("held", to=HUGE),
    "l2 is NaN": attribute("l2", to=float("nan")),
    "accuracy is infinite": attribute("accuracy", to=float("inf")),
    "the reason is an object": attribute("reason", to={"a": 1}),
    "a caution with escapes": attribute("caution", to="\x1b]0;owned\x07\x1b[2J all scores are right"),
    "reloaded is later": attribute("reloaded", to=10**9),
    "reloaded is negative": attribute("reloaded", to=-1),
    "the recorder is code": attribute("recorder", to="os.system:command=touch%20owned"),
    "the recorder is a module": attribute("recorder", to="os:system=1"),
    "not lossless, by a recorder of no use": edited(
        lambda d: d["attributes"].update(lossless=False, recorder="every-k:k=0")
    ),
    "the recorder keeps 10**18": edited(
        lambda d: d["attributes"].update(lossless=False, recorder=f"revolve:states={10**18}")
    ),
    "the optimizer is code": attribute("optimizer", to="__import__('os').system('touch owned')"),
    "the workload is code": attribute("info", "spec", to="os:system=touch"),
    "no workload": attribute("info", "spec", to=""),
    "the workload is an object": attribute("info", "spec", to={"a": 1}),
    "10**9 epochs": attribute("info", "spec", to=SPEC.replace("epochs=2", f"epochs={10**9}")),
    "10**18 epochs": attribute("info", "spec", to=SPEC.replace("epochs=2", f"epochs={10**18}")),
    "a batch of 10**12": attribute("info", "spec", to=SPEC.replace("size=8", f"size={10**12}")),
    "a batch of 10**9, an epoch": attribute(
        "info", "spec", to=SPEC.replace("size=8", f"size={10**9}").replace("epochs=2", "epochs=6")
    ),
    "10**12 examples": attribute("info", "spec", to=SPEC.replace("train=24", f"train={10**12}")),
    "no examples": attribute("info", "spec", to=SPEC.replace("train=24", "train=-5")),
    "a learning rate of nan": attribute("info", "spec", to=SPEC + ":lr=nan"),
    "a learning rate of 1e308": attribute("info", "spec", to=SPEC + ":lr=1e308"),
    "a folder of data": attribute("info", "spec", to=SPEC + ":data_dir=/dev"),
    "the seed of the draw is text": attribute("info", "draw_seed", to="x"),
    "the seed of the draw is 10**40": attribute("info", "draw_seed", to=10**40),
    "info is null": attribute("info", to=None),
    "no fingerprint": attribute("fingerprint", to=...),
    "the fingerprint is a list": attribute("fingerprint", to=[]),
    "parameters are numbers": attribute("fingerprint", "parameters", to=[1, 2]),
    "a shape is negative": attribute("fingerprint", "parameters", to=[["w", [-1, -785]]]),
    "a shape of 40 dims": attribute("fingerprint", "parameters", to=[["w", [1] * 40]]),
    "a parameter twice": attribute("fingerprint", "parameters", to=[["w", [300]], ["w", [485]]]),
    "buffers that are none": attribute("buffers", to=[["x", [10**9]]]),
    "a tape that is none": attribute("tape", to={}),
    "a tape that is a list": attribute("tape", to=[]),
    "resume is text": attribute("resume", to="x"),
    "resume has other columns": attribute(
        "resume", to={"columns": {"a": 1}, "expected": [None, None], "state": 1, "tables": {}}
    ),
    "10**15 rows of theta": edited(
        lambda d: d["consolidated_metadata"]["metadata"]["theta"]["shape"].__setitem__(0, HUGE)
    ),
    "10**15 states": edited(_ten_times_as_many),
    "10**15 examples": array("train", "shape", to=[HUGE]),
    "10**12 parameters": edited(_wide),
    "a negative shape": array("theta", "shape", to=[-4, 785]),
    "a shape of text": array("theta", "shape", to="4"),
    "three dims": array("theta", "shape", to=[4, 785, 1]),
    "other dims": array("theta", "dimension_names", to=["param", "kept"]),
    "no dims": array("theta", "dimension_names", to=None),
    "a dtype of objects": array("theta", "data_type", to="object"),
    "a wider dtype": array("theta", "data_type", to="float64"),
    "a dtype that is an object": array(
        "theta", "data_type", to={"name": "numpy.datetime64", "configuration": {}}
    ),
    "a dtype of bytes": array(
        "train", "data_type", to={"name": "fixed_length_utf32", "configuration": {"length_bytes": 1 << 30}}
    ),
    "chunks of 10**15": _chunk("theta", HUGE, 785),
    "chunks of 300,000 rows": _chunk("theta", 300_000, 785),
    "chunks of nothing": _chunk("theta", 0, 785),
    "chunks of 1": _chunk("theta", 1, 1),
    "wide chunks": _chunk("theta", 4, 10**8),
    "a chunk of all steps": _chunk("loss", 10**7, 8),
    "pickles": array("theta", "codecs", to=[{"name": "numcodecs.pickle", "configuration": {}}]),
    "no codecs": array("theta", "codecs", to=[]),
    "codecs without checksums": edited(
        lambda d: d["consolidated_metadata"]["metadata"]["theta"]["codecs"].pop()
    ),
    "gzip of gzip": array(
        "theta",
        "codecs",
        to=[{"name": "bytes", "configuration": {"endian": "little"}}]
        + [{"name": "gzip", "configuration": {"level": 1}}] * 50,
    ),
    "shards": array("theta", "codecs", 0, to={"name": "sharding_indexed", "configuration": {}}),
    "a codec is a number": array("theta", "codecs", to=[1]),
    "bytes the other way round": array("lr", "codecs", 0, "configuration", "endian", to="big"),
    "a transformer": array("theta", "storage_transformers", to=[{"name": "x"}]),
    "other chunk keys": array("theta", "chunk_key_encoding", "configuration", "separator", to="../"),
    "a fill of text": array("theta", "fill_value", to="x" * 100),
    "an unknown array": edited(
        lambda d: d["consolidated_metadata"]["metadata"].update(
            evil={**d["consolidated_metadata"]["metadata"]["epoch"], "dimension_names": ["evil"]}
        )
    ),
    "a group in the group": edited(_another_group),
    "an array outside": edited(_outside),
    "an array without a name": edited(
        lambda d: d["consolidated_metadata"]["metadata"].update(
            {"": d["consolidated_metadata"]["metadata"]["kept"]}
        )
    ),
}
"""Of the recorded store."""
