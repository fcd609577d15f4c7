"""20 Newsgroups, PC against Mac hardware: the paper's text problem. Bundled with masked addresses."""

import json
import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from influencekit.errors import InputError
from influencekit.workloads.draw import Part, Pool, by_column
from influencekit.workloads.files import bundled, find, text_lines
from influencekit.workloads.problem import Setting, problem
from influencekit.workloads.text import tfidf, vocabulary, words

__all__ = ["newsgroups_dnn", "newsgroups_lr"]

Post = tuple[list[str], bool, int]  # words, label, article number

CLASSES = ("comp.sys.ibm.pc.hardware", "comp.sys.mac.hardware")


@lru_cache(maxsize=2)
def pool(data_dir: str | None = None) -> Pool:
    """PC hardware (class 0) against Mac hardware (class 1); TF-IDF of frequent words, by column.

    The vocabulary and its document frequencies come from the whole training split (without its labels):
    words in at least a twentieth and at most half of the posts.
    """
    if data_dir is None:
        path = bundled("newsgroups-hardware-masked.jsonl.gz")
    else:
        (path,) = find(data_dir, ("newsgroups-hardware.jsonl.gz",), what="20 Newsgroups")
    posts: dict[str, list[Post]] = {"train": [], "test": []}
    for number, line in enumerate(text_lines(path), start=1):
        split, post = _post(path, number, line)
        posts[split].append(post)
    idf = vocabulary([document for document, _, _ in posts["train"]], least=0.05, most=0.5)
    train, test = (_part(posts[split], idf) for split in ("train", "test"))
    return Pool(
        train=train,
        test=test,
        scale=by_column(train.x),
        classes=CLASSES,
        title="20 Newsgroups hardware",
        licence="none known; public Usenet posts",
        source="bundled" if data_dir is None else "data_dir",
    )


def body(text: str) -> str:
    """A post without headers, quoted lines, the line that introduces them, and a signature after `--`."""
    text = text.partition("\n\n")[2]
    text = re.sub(r"(?m)^(?:[>|:].*|.*\b(?:writes|wrote|says|said):)$", "", text)
    return re.split(r"(?m)^-- ?$", text)[0]


def _post(path: Path, number: int, line: str) -> tuple[str, Post]:
    try:
        post = json.loads(line)
        if post["split"] not in ("train", "test"):
            raise ValueError(f"split {post['split']!r}")
        return post["split"], (words(body(post["text"])), bool(CLASSES.index(post["label"])), post["id"])
    except (KeyError, TypeError, ValueError) as error:
        fields = "id, label (one of the two groups), split (train or test) and text"
        raise InputError(f"{path}, line {number}: expected a JSON object with {fields}: {error}") from None


def _part(posts: list[Post], idf: dict[str, float]) -> Part:
    documents, labels, ids = zip(*posts, strict=True) if posts else ((), (), ())
    return Part(tfidf(documents, idf), np.array(labels, bool), ids)


newsgroups_lr = problem("20news-lr", pool, paper=Setting(0.1), trained=Setting(0.2, epochs=42))
newsgroups_dnn = problem(
    "20news-dnn",
    pool,
    paper=Setting(0.1, l2=0.001, n_train=200),
    trained=Setting(2.0, l2=0.001, n_train=200),
)
