"""Files that are none, bombs, and numbers out of their ranges, in stores of every kind."""

import os

import numpy as np

from benchmarks.shared.hostile_stores import (
    HUGE,
    Spoil,
    a_socket,
    array,
    attribute,
    compressed,
    content,
    header,
    link,
    moved,
    pipe,
    remove,
    values,
)

__all__ = ["FILES", "STREAM", "TAPED"]

FILES: dict[str, Spoil] = {
    "the document is a pipe": pipe("zarr.json"),
    "the document is a link to a device": link("zarr.json", "/dev/zero"),
    "the document is a folder": lambda path: (remove(path / "zarr.json"), (path / "zarr.json").mkdir())[0],
    "a pipe for an older format": pipe(".zgroup"),
    "a pipe for older attributes": pipe(".zattrs"),
    "a pipe for older metadata": pipe(".zmetadata"),
    "an array's document is a pipe": pipe("theta/zarr.json"),
    "an array's document is a link to a device": link("theta/zarr.json", "/dev/zero"),
    "a chunk is a pipe": pipe("theta/c/0/0"),
    "a chunk is a link to a device": link("theta/c/0/0", "/dev/zero"),
    "a chunk is a link to itself": link("theta/c/0/0", "0"),
    "a chunk is a link outside": moved("theta/c/0/0"),
    "a chunk is a folder": lambda path: (remove(path / "theta/c/0/0"), (path / "theta/c/0/0").mkdir())[0],
    "a chunk is a socket": a_socket,
    "ids are a pipe": pipe("train/c/0"),
    "an array is a link outside": moved("theta"),
    "chunks are a link outside": moved("loss/c"),
    "a folder of chunks is a link outside": moved("batch/c/0"),
    "an array is a pipe": pipe("lr"),
    "an empty chunk": lambda path: (path / "theta/c/0/0").write_bytes(b"") and None,
    "a chunk of 10 GB": lambda path: os.truncate(path / "theta/c/0/0", 10_000_000_000),
    "a bomb": content("theta/c/0/0", lambda b: compressed(bytes(1 << 30))),
    "a bomb of ids": content("train/c/0", lambda b: compressed(bytes(1 << 30))),
    "4,000,000,000 ids in 8 bytes": content(
        "train/c/0", lambda b: compressed(b"\xff\xff\xff\xff" + bytes(20))
    ),
    "a header of 4 GB": header(4, 0xFFFFFFFF),
    "a header of less": header(4, 100),
    "a header of other blocks": header(8, 1),
    "a header of blocks of 4 GB": header(8, 0xFFFFFFFF),
    "a header of another file": header(12, 0x7FFFFFFF),
    "noise behind a header": content(
        "theta/c/0/0", lambda b: b[:16] + bytes((7 * k) % 251 for k in range(len(b) - 16))
    ),
    "another codec in the header": content("theta/c/0/0", lambda b: b[:2] + b"\xe0" + b[3:]),
    "positions of other examples": values("batch/c/0/0", lambda x: x.__setitem__(0, 10**12)),
    "negative positions": values("batch/c/0/0", lambda x: x.__setitem__(slice(None), -7)),
    "epoch 2**62": values("epoch/c/0", lambda x: x.__setitem__(slice(None), 2**62)),
    "states out of order": values("kept/c/0", lambda x: x.__setitem__(slice(None), x[::-1].copy())),
    "states twice": values("kept/c/0", lambda x: x.__setitem__(slice(None), 2)),
    "states of no run": values("kept/c/0", lambda x: x.__setitem__(slice(None), -(10**15))),
    "no states": values("kept/c/0", lambda x: x.__setitem__(slice(None), 10**15)),
}
"""Of the recorded store."""

TAPED: dict[str, Spoil] = {
    "10**15 parts of a step": values("part/c/0/0", lambda x: x.__setitem__(0, 10**15)),
    "no part of a step": values("part/c/0/0", lambda x: x.__setitem__(slice(8, 16), -1)),
    "positions of other examples": values("batch/c/0/0", lambda x: x.__setitem__(0, 10**12)),
    "a step of no examples": values("batch/c/0/0", lambda x: x.__setitem__(slice(0, 8), -1)),
    "epoch 2**62": values("epoch/c/0", lambda x: x.__setitem__(slice(4, 6), 2**62)),
    "epochs backwards": values("epoch/c/0", lambda x: x.__setitem__(slice(0, 6), [5, 4, 3, 2, 1, 0])),
    "generators that are not there": values("forward_rng/c/0/0", lambda x: x.__setitem__(slice(None), 10**9)),
    "generators before the first": values("forward_rng/c/0/0", lambda x: x.__setitem__(slice(None), -5)),
    "states of generators": values("rng/c/0/0", lambda x: x.__setitem__(slice(None), 255), "u1"),
    "a learning rate of NaN": values("lr/c/0/0", lambda x: x.__setitem__(slice(None), np.nan), "f8"),
    "coefficients of 1e308": values("coefficient/c/0/0", lambda x: x.__setitem__(slice(None), 1e308), "f8"),
    "settings of no step": values("settings/c/0/0", lambda x: x.__setitem__(0, 1e300), "f8"),
    "settings of NaN": values("settings/c/0/0", lambda x: x.__setitem__(slice(None), np.nan), "f8"),
    "a rule that is none": attribute("tape", "optimizer", "rule", to="os.system"),
    "a rule of another kind": attribute("tape", "optimizer", "rule", to="SGD"),
    "groups of other parameters": attribute(
        "tape", "optimizer", "groups", 0, "params", to=["*" + "a*" * 30 + "b"]
    ),
    "a setting of no rule": attribute("tape", "optimizer", "groups", 0, "command", to="touch owned"),
    "a setting that is an object": attribute("tape", "optimizer", "groups", 0, "eps", to={}),
    "a setting of 10**40": attribute("tape", "optimizer", "groups", 0, "eps", to=10**40),
    "betas of text": attribute("tape", "optimizer", "groups", 0, "betas", to=["a", "b"]),
    "no groups": attribute("tape", "optimizer", "groups", to=[]),
    "autocast to a function": attribute("tape", "autocast", to="load"),
    "updates of -1": attribute("tape", "updates", to=-1),
    "updates of 2**60": attribute("tape", "updates", to=2**60),
    "modules that are none": attribute("tape", "training", to=["a"] * 10),
    "a target that is none": attribute("tape", "target_key", to=7),
    "an index that is none": attribute("tape", "index_entry", to=10**9),
    "a tolerance of infinity": attribute("tape", "tolerance", to=float("inf")),
    "a custom forward": attribute("tape", "custom_forward", to=True),
    "not separable": attribute("tape", "separable", to=0),
    "10**15 rows of generators": array("rng", "shape", to=[HUGE, 10074]),
    "wide generators": array("rng", "shape", to=[3, HUGE]),
    "buffers of another shape": attribute("buffers", to=[["1.running_mean", [2]]]),
}
"""Of the taped store."""


def _form(to: str) -> Spoil:
    """What a store that keeps its examples says of their entries."""

    def altered(x: np.ndarray) -> None:
        x[:] = 0
        written = np.frombuffer(to.encode(), np.uint8)
        x[: len(written)] = written

    return values("form/c/0/0", altered, "u1")


STREAM: dict[str, Spoil] = {
    "examples of functions": _form('{"kind": "tuple", "entries": [[0, "load", [4]]]}'),
    "10**15 numbers an example": _form('{"kind": "tuple", "entries": [[0, "float32", [1000000000000000]]]}'),
    "a negative number of them": _form(
        '{"kind": "tuple", "entries": [[0, "float32", [-4]], [1, "int64", []]]}'
    ),
    "no entries": _form("{}"),
    "forms that are no JSON": _form("{{{{"),
    "forms that are deep": _form("[" * 60),
    "ids that are no JSON": values("id/c/0/0", lambda x: x.__setitem__(slice(None), 91), "u1"),
    "contents that are not there": values("row/c/0/0", lambda x: x.__setitem__(0, 10**12)),
    "contents before the first": values("row/c/0/0", lambda x: x.__setitem__(slice(0, 8), -9)),
    "contents of other forms": values("content_form/c/0", lambda x: x.__setitem__(slice(None), 10**9)),
    "first contents that are not there": values("first/c/0", lambda x: x.__setitem__(slice(None), -(10**9))),
    "10**15 contents": array("content", "shape", to=[HUGE, 24]),
}
"""Of the store that keeps its examples."""
