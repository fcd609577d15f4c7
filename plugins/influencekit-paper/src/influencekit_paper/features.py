"""Features from tables and texts: columns standardised, bags of words without stop words."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["by_column", "tfidf", "vocabulary", "words"]

STOP_WORDS = frozenset(
    """
    about above after again against all almost also although always am among an and another any
    anybody anyone anything anyway are around as at be became because been before being below
    between both but by came can cannot could did didn do does doesn doing don done down during each
    either else enough even ever every everyone everything few for from further get gets getting
    give given go goes going gone got had hadn has hasn have haven having he her here hers herself
    him himself his how however if in indeed instead into is isn it its itself just least less let
    like ll made make many may maybe me might mine more most much must my myself neither never no
    nobody none nor not nothing now of off often on once one ones only onto or other others
    otherwise our ours ourselves out over own per perhaps please put quite rather re really said
    same say see seem seemed seems several shall she should since so some somebody someone something
    sometimes somewhere still such take than that the their theirs them themselves then there
    therefore these they thing things this those though through thus to together too toward towards
    under until up upon us ve very via was wasn we well were weren what whatever when where whether
    which while who whoever whole whom whose why will with within without won would wouldn yes yet
    you your yours yourself yourselves email
    """.split()
)


def by_column(reference: np.ndarray, binary: bool = False) -> Callable[[Tensor], Tensor]:
    """Each feature minus its mean, over its deviation, both of the pool's whole training part.

    A constant feature becomes 0; with `binary`, features that are only ever 0 or 1 stay as they are.
    """
    mean, deviation = reference.mean(0), reference.std(0)
    if binary:
        flags = ((reference == 0) | (reference == 1)).all(0)
        mean, deviation = np.where(flags, 0.0, mean), np.where(flags, 1.0, deviation)
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0.0)
    shift, factor = torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(scale.astype(np.float32))
    return lambda x: (x - shift) * factor


def words(text: str) -> list[str]:
    """Runs of two or more letters and digits, in lower case, without stop words (and the mask EMAIL)."""
    return [word for word in re.findall(r"[a-z0-9]{2,}", text.lower()) if word not in STOP_WORDS]


def vocabulary(documents: Sequence[list[str]], *, least: float, most: float) -> dict[str, float]:
    """Word -> inverse document frequency, log((1 + n) / (1 + n_word)) + 1, in alphabetical order.

    Kept are the words that stand in at least the fraction `least` and at most the fraction `most` of the
    documents. Cost: one pass.
    """
    n = len(documents)
    counts = Counter(word for document in documents for word in set(document))
    kept = sorted(word for word, count in counts.items() if least * n <= count <= most * n)
    return {word: float(np.log((1 + n) / (1 + counts[word])) + 1) for word in kept}


def tfidf(documents: Sequence[list[str]], idf: dict[str, float]) -> np.ndarray:
    """Counts times inverse document frequency, rows of length 1 (0 without a known word): [n, word]."""
    columns = {word: column for column, word in enumerate(idf)}
    rows = np.zeros((len(documents), len(idf)), np.float32)
    for row, document in zip(rows, documents, strict=True):
        for word, count in Counter(document).items():
            if word in columns:
                row[columns[word]] = count * idf[word]
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)
