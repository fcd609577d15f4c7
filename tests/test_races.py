"""Processes that make, resume or move the same store at once: a small part of benchmarks/races.py."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks, which is not installed

from benchmarks import races  # noqa: E402


def test_who_ends_well_leaves_a_whole_store_and_all_others_are_refused():
    found = races.answer(creators=3, resumers=1, moves=1, seed=1)
    assert not races.wrong(found)
    assert found["creators"]["refused"] == 6 and found["resumers"]["refused"] == 2
