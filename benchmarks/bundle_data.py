"""Where do the bundled samples come from? Makes them anew, from full copies of the data sets.

The folder `--data-dir` holds mnist.npz, kmnist-test.npz, adult-train.csv.gz, adult-test.csv.gz and
newsgroups-hardware.jsonl.gz (the README.md of each data/ folder says where each comes from). The output
depends on nothing but these files (and, for the compressed bytes, on the zlib at hand): no time stamps, no
randomness. checksums.json is written last in each folder.
"""

import gzip
import hashlib
import io
import json
import re
from pathlib import Path

import click
import numpy as np

TAKES = "1 min"
RESULTS = ()
ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "influencekit" / "workloads" / "data"
PAPER = ROOT / "plugins" / "influencekit-paper" / "src" / "influencekit_paper" / "data"
TOKEN = "EMAIL"
KEPT_HEADERS = ("subject", "keywords", "summary")


def mnist(source: Path) -> bytes:
    """All ones and sevens of both splits, with their index in the original files."""
    with np.load(source / "mnist.npz") as full:
        arrays = {}
        for split in ("train", "test"):
            label = full[f"y_{split}"]
            index = np.flatnonzero((label == 1) | (label == 7))
            arrays[f"x_{split}"] = full[f"x_{split}"][index]
            arrays[f"y_{split}"] = label[index]
            arrays[f"index_{split}"] = index.astype(np.int32)
    return _npz(arrays)


def kmnist(source: Path) -> bytes:
    """The labels 0 (o) and 1 (ki) of the official test split, with their index in it."""
    with np.load(source / "kmnist-test.npz") as full:
        index = np.flatnonzero(full["y"] <= 1)
        return _npz({"x": full["x"][index], "y": full["y"][index], "index": index.astype(np.int32)})


def adult(source: Path, split: str) -> bytes:
    """The rows as they are, packed again without a time stamp."""
    return gzip.compress(gzip.decompress((source / f"adult-{split}.csv.gz").read_bytes()), 9, mtime=0)


def newsgroups(source: Path) -> bytes:
    """The posts with masked addresses, without encoded attachments, signatures and identifying headers."""
    lines = gzip.decompress((source / "newsgroups-hardware.jsonl.gz").read_bytes()).splitlines()
    posts = [json.loads(line) for line in lines]
    for post in posts:
        head, _, body = post["text"].partition("\n\n")
        kept = [line for line in head.split("\n") if line.partition(":")[0].lower() in KEPT_HEADERS]
        post["text"] = mask("\n".join(kept) + "\n\n" + unsigned(body))
        assert "@" not in post["text"]
    text = "".join(json.dumps(post, ensure_ascii=True) + "\n" for post in posts)
    return gzip.compress(text.encode("ascii"), 9, mtime=0)


def unsigned(body: str) -> str:
    """The body up to the customary `--` line, if no more than a signature of 12 lines follows it."""
    *before, signature = re.split(r"(?m)^-- ?$", body)
    return "".join(before).rstrip() + "\n" if before and signature.count("\n") <= 13 else body


def mask(text: str) -> str:
    """Replace whatever looks like an e-mail address by TOKEN; no at sign is left.

    Rather too much than too little: message ids, packet radio and Fidonet addresses, UUCP paths
    (host!host!user), percent routes, "user (at) host.edu", and CompuServe numbers go as well, and so does the
    harmless `68030 @ 25MHz`. Encoded attachments are dropped: one of them encodes a mail with addresses.
    """
    text = re.sub(r"(?m)^(?=\S{58,}$)(?!(.)\1+$)(?=.*[a-z0-9])(?=.*[^\w\s]).*$", "", text)  # BinHex
    text = re.sub(r"(?m)^(?:> ?)*M[\x20-\x60]{58,61}\n?", "", text)  # uuencoded
    text = re.sub(r"(?m)^(?:begin \d{3} \S+|[\x20-\x60]{1,61}\n`\nend|`\nend)$", "", text)
    word = r"[^\s<>()\[\]{}\"',;|@]"
    text = re.sub(rf"{word}+[ \t]*@\s*{word}+", TOKEN, text)
    text = re.sub(rf"{word}*@+{word}*", lambda m: TOKEN if re.search(r"\w", m[0]) else " ", text)
    text = re.sub(r"(?:\{[^}\n]*\}!|\.{2,}!?)?[A-Za-z][\w.%-]*(?:\\?![A-Za-z][\w.%-]*)+", TOKEN, text)
    text = re.sub(r"[\w.-]+%[A-Za-z][\w-]*\.[\w.-]*\w", TOKEN, text)
    text = re.sub(r"(?i)\b[\w.-]+[ _]*[(\[<_]at[)\]>_][ _]*[\w.-]+", TOKEN, text)
    text = re.sub(r"\b7\d{4},\d{2,4}\b|\b\d:\d{2,4}/\d+(?:\.\d+)?", TOKEN, text)
    service = r"(?i)\b(applelink|america online|aol|genie|mci ?mail|delphi|prodigy)[ \t]*:[ \t]*\S+"
    text = re.sub(service, rf"\1: {TOKEN}", text)
    return re.sub(r"\bjohng2matt\.ksu\.ksu\.edu\b", TOKEN, text)  # an at sign typed without the shift key


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> None:
    checksums = {}
    for name, content in files.items():
        (folder / name).write_bytes(content)
        checksums[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        print(f"{name:40s} {len(content):9,d} bytes")
    (folder / "checksums.json").write_text(json.dumps(checksums, indent=1) + "\n")


@click.option("--data-dir", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
def answer(data_dir: Path) -> None:
    write(CORE, {"mnist-1v7.npz": mnist(data_dir)})
    samples = {
        "kmnist-o-ki.npz": kmnist(data_dir),
        "adult-train.csv.gz": adult(data_dir, "train"),
        "adult-test.csv.gz": adult(data_dir, "test"),
        "newsgroups-hardware-masked.jsonl.gz": newsgroups(data_dir),
    }
    write(PAPER, samples)
