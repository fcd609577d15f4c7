"""20 Newsgroups, PC against Mac hardware: the paper's text problem. Bundled with masked addresses."""

import json
import re
from collections.abc import Hashable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from influencekit.errors import InputError
from influencekit.workloads import Part, Pool, Setting, find, problem
from influencekit_paper.features import by_column, tfidf, vocabulary, words
from influencekit_paper.files import bundled_file, text_lines

__all__ = ["CLASSES", "body", "newsgroups_dnn", "newsgroups_lr", "posts"]

CLASSES = ("comp.sys.ibm.pc.hardware", "comp.sys.mac.hardware")


@lru_cache(maxsize=2)
def pool(data_dir: str | None = None) -> Pool:
    """PC hardware (class 0) against Mac hardware (class 1); TF-IDF of frequent words, by column.

    The vocabulary and its document frequencies come from the whole training split (without its labels):
    words in at least a twentieth and at most half of the posts.
    """
    documents: dict[str, list[list[str]]] = {"train": [], "test": []}
    labels: dict[str, list[bool]] = {"train": [], "test": []}
    ids: dict[str, list[Hashable]] = {"train": [], "test": []}
    for post in posts(data_dir):
        documents[post["split"]].append(words(body(post["text"])))
        labels[post["split"]].append(post["label"] == CLASSES[1])
        ids[post["split"]].append(post["id"])
    idf = vocabulary(documents["train"], least=0.05, most=0.5)
    train, test = (
        Part(tfidf(documents[split], idf), np.array(labels[split], bool), ids[split]) for split in ids
    )
    return Pool(
        train=train,
        test=test,
        scale=by_column(train.x),
        classes=CLASSES,
        title="20 Newsgroups hardware",
        licence="none known; public Usenet posts",
        source="bundled" if data_dir is None else "data_dir",
    )


def posts(data_dir: str | None = None) -> Iterator[dict[str, Any]]:
    """The posts as they stand in the file, with `id`, `label` (of CLASSES), `split` (train, test), `text`."""
    if data_dir is None:
        path = bundled_file("newsgroups-hardware-masked.jsonl.gz")
    else:
        (path,) = find(data_dir, ("newsgroups-hardware.jsonl.gz",), what="20 Newsgroups")
    for number, line in enumerate(text_lines(path), start=1):
        try:
            post = json.loads(line)
            if post["split"] not in ("train", "test") or post["label"] not in CLASSES:
                raise ValueError(f"split {post['split']!r}, label {post['label']!r}")
            yield {name: post[name] for name in ("id", "label", "split", "text")}
        except (KeyError, TypeError, ValueError) as error:
            fields = "id, label (one of the two groups), split (train or test) and text"
            raise InputError(
                f"{path}, line {number}: expected a JSON object with {fields}: {error}"
            ) from None


def body(text: str) -> str:
    """A post without headers, quoted lines, the line that introduces them, and a signature after `--`."""
    text = text.partition("\n\n")[2]
    text = re.sub(r"(?m)^(?:[>|:].*|.*\b(?:writes|wrote|says|said):)$", "", text)
    return re.split(r"(?m)^-- ?$", text)[0]


newsgroups_lr = problem("20news-lr", pool, paper=Setting(0.1), trained=Setting(0.2, epochs=42))
newsgroups_dnn = problem(
    "20news-dnn",
    pool,
    paper=Setting(0.1, l2=0.001, n_train=200),
    trained=Setting(2.0, l2=0.001, n_train=200),
)
