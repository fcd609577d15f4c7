"""Sequences of word pieces from the bundled newsgroups: the bodies of the posts, and a vocabulary of its own.

The pieces are learnt from the training posts by byte-pair encoding: beginning with characters, the most
frequent pair of neighbours within a word becomes a piece, until there are enough.
"""

import re
from collections import Counter
from functools import cache, lru_cache

import torch
from influencekit_paper import newsgroups
from torch import Tensor

__all__ = ["PIECES", "sequences", "words"]

PIECES = 256  # in the vocabulary; number 0 is a character that no training post has
LEARNT_FROM = 3000  # the most frequent words, of which pairs are counted
FIRST = 100  # words of a post that are looked at
_WORD = re.compile(r" ?[a-z]+| ?[0-9]+| ?[^a-z0-9 ]+")

Word = tuple[str, ...]


def sequences(split: str, length: int, count: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets [sequence, piece] of so many sequences of a split: a choice that is always the same.

    Each is `length` pieces and their successors, from the beginning of a post. A post gives two at most.
    """
    found = [
        post[start : start + length + 1]
        for post in _posts()[split]
        for start in (0, length)
        if len(post) > start + length
    ]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    whole = torch.tensor(found)[order[:count]]
    return whole[:, :-1], whole[:, 1:]


def words(sequence: Tensor) -> list[str]:
    """The words of a sequence of numbers of pieces; the first and the last may be parts of words."""
    known = ["", *_vocabulary()[0]]
    return "".join(known[n] for n in sequence.tolist()).split()


@lru_cache(maxsize=1)
def _texts() -> dict[str, list[Word]]:
    """The first words of every post, by split, each with the blank before it."""
    found: dict[str, list[Word]] = {"train": [], "test": []}
    for post in newsgroups.posts():
        found[post["split"]].append(tuple(_WORD.findall(_plain(newsgroups.body(post["text"])))[:FIRST]))
    return found


@lru_cache(maxsize=1)
def _vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    """The pieces, and the pairs that became one, in the order in which they did."""
    counts = Counter(word for post in _texts()["train"] for word in post)
    characters = sorted({c for word in counts for c in word})
    merges = learnt(counts, PIECES - 1 - len(characters))
    return [*characters, *map("".join, merges)], merges


@lru_cache(maxsize=1)
def _posts() -> dict[str, list[list[int]]]:
    """The beginning of every post as numbers of pieces, by split."""
    known, merges = _vocabulary()
    number = {piece: k for k, piece in enumerate(known, 1)}

    @cache
    def numbers(word: str) -> list[int]:
        parts: Word = tuple(word)
        for pair in merges:
            parts = joined(parts, pair)
        return [number.get(part, 0) for part in parts]

    return {
        split: [[n for word in post for n in numbers(word)] for post in posts]
        for split, posts in _texts().items()
    }


def learnt(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """The pairs that become pieces, in the order in which they do."""
    split: dict[Word, int] = {tuple(word): n for word, n in words.most_common(LEARNT_FROM)}
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, n in split.items():
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += n
        merges.append(max(pairs, key=lambda pair: (pairs[pair], pair)))
        split = {joined(word, merges[-1]): n for word, n in split.items()}
    return merges


def joined(word: Word, pair: tuple[str, str]) -> Word:
    """The word with every occurrence of the pair, from the left, as one piece."""
    if pair[0] not in word or pair[1] not in word:
        return word
    found: list[str] = []
    for part in word:
        if found and (found[-1], part) == pair:
            found[-1] += part
        else:
            found.append(part)
    return tuple(found)


def _plain(text: str) -> str:
    """Small letters, digits and common marks; everything else is a blank."""
    return re.sub(r"[^a-z0-9.,?!'()/:-]+", " ", text.lower()).strip()
