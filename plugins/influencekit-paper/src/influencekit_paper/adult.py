"""UCI Adult: does a person earn more than 50K a year? All of it is bundled."""

import csv
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np

from influencekit.errors import InputError
from influencekit.workloads import Part, Pool, Setting, find, problem
from influencekit_paper.features import by_column
from influencekit_paper.files import bundled_file, text_lines

__all__ = ["adult_dnn", "adult_lr"]

COLUMNS = (
    "age workclass fnlwgt education education-num marital-status occupation relationship race sex "
    "capital-gain capital-loss hours-per-week native-country income"
).split()
LOGARITHMIC = ("fnlwgt", "capital-gain", "capital-loss")  # long tails: log(1 + x)
NUMERIC = ("age", "education-num", "hours-per-week", *LOGARITHMIC)
RARE = 0.01  # categories of fewer than this fraction of the training rows are one category, "other"


@lru_cache(maxsize=2)
def pool(data_dir: str | None = None) -> Pool:
    """Income above 50K (class 1) or not; numbers standardised by column, categories one-hot."""
    if data_dir is None:
        paths = [bundled_file("adult-train.csv.gz"), bundled_file("adult-test.csv.gz")]
    else:
        packed = ("adult-train.csv.gz", "adult-test.csv.gz")
        paths = find(data_dir, packed, ("adult.data", "adult.test"), what="Adult")
    train, test = (_table(path) for path in paths)
    categories = {name: _categories(train[name]) for name in COLUMNS[:-1] if name not in NUMERIC}
    part = _part(paths[0], train, categories)
    return Pool(
        train=part,
        test=_part(paths[1], test, categories),
        scale=by_column(part.x, binary=True),
        classes=("<=50K", ">50K"),
        title="UCI Adult",
        licence="MIT as packaged; the UCI repository gives CC BY 4.0",
        source="bundled" if data_dir is None else "data_dir",
    )


def _table(path: Path) -> dict[str, list[str]]:
    """Columns by name; with or without a header row, comment and empty lines and final stops passed over."""
    lines = (line for line in text_lines(path) if line and not line.startswith(("|", "age,")))
    rows = list(csv.reader(lines, skipinitialspace=True))
    wrong = next((i for i, row in enumerate(rows) if len(row) != len(COLUMNS)), None)
    if wrong is not None or not rows:
        found = f"row {wrong} has {len(rows[wrong])}" if wrong is not None else "it is empty"
        raise InputError(f"{path} should have the {len(COLUMNS)} columns of UCI Adult; {found}")
    return dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))


def _categories(column: list[str]) -> dict[str, int]:
    """The column of every frequent category; unknown ("?") is a category like any other."""
    counts = Counter(column)
    frequent = sorted(name for name, count in counts.items() if count >= RARE * len(column))
    return {name: column for column, name in enumerate(frequent)}


def _part(path: Path, table: dict[str, list[str]], categories: dict[str, dict[str, int]]) -> Part:
    n = len(table["income"])
    blocks = []
    for name in COLUMNS[:-1]:
        if name in NUMERIC:
            try:
                values = np.array(table[name], np.float32)
            except ValueError as error:
                raise InputError(f"{path}: column {name} should hold numbers: {error}") from None
            blocks.append((np.log1p(values) if name in LOGARITHMIC else values)[:, None])
        else:
            columns = categories[name]
            block = np.zeros((n, len(columns) + 1), np.float32)  # the last one: other
            block[np.arange(n), [columns.get(value, len(columns)) for value in table[name]]] = 1.0
            blocks.append(block)
    label = np.array([value.startswith(">50K") for value in table["income"]])
    return Part(np.concatenate(blocks, axis=1), label, list(range(n)))


adult_lr = problem("adult-lr", pool, paper=Setting(0.1), trained=Setting(1.0))
adult_dnn = problem("adult-dnn", pool, paper=Setting(0.3, l2=0.001), trained=Setting(2.0, l2=0.001))
