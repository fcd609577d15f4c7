"""Digests where a recording dies between two writes, and where anything of a store is changed."""

import os
import random
import sys
from pathlib import Path

import pytest
from helpers_writing import begin, go_on, never_killed, same, whole_and_true

from influencekit._files import Folder
from influencekit._trajectory.integrity import read_all
from influencekit._trajectory.store import open_group
from influencekit._trajectory.writing import Writer, ledger

sys.path.append(str(Path(__file__).parents[1]))
from benchmarks import corruptions  # noqa: E402
from benchmarks.shared.small_stores import KINDS  # noqa: E402


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of four rows, so that every run crosses their borders."""
    monkeypatch.setattr(ledger, "_ROWS", 4)


# crashes ----------------------------------------------------------------------------------------------------


def dies_at(path: Path, number: int, go: object) -> bool:
    """Whether a child that runs `go(path)` came to its file `number`, half-way through which it ends."""
    child = os.fork()
    if not child:
        status = 1
        try:
            written, put = 0, Folder.put

            def half(self, key, data):
                nonlocal written
                written += 1
                if written == number:
                    put(self, f"{key}.partial", bytes(data)[: len(bytes(data)) // 2])
                    os._exit(9)
                put(self, key, data)

            Folder.put = half
            go(path)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 9)
    return os.waitstatus_to_exitcode(status) == 9


def test_two_crashes_at_any_two_writes_leave_a_store_that_verifies_and_goes_on(tmp_path):
    draw = random.Random(0)

    def first(path):
        writing = begin(path)
        go_on(writing, commits={2, 4, 5, 7})
        writing.close()

    def second(path):
        writing = Writer.resume(path)
        go_on(writing, commits={5, 6, 8})
        writing.close()

    died = 0
    for number in range(18, 90, 9):
        path = tmp_path / f"{number}.zarr"
        if not dies_at(path, number, first):
            break
        committed = whole_and_true(path, 0)
        died += dies_at(path, draw.randint(1, 30), second)
        whole_and_true(path, committed)
        if open_group(path).attrs["status"] != "complete":
            second(path)
        same(path, never_killed())
        assert read_all(open_group(path)).later == 0
    assert died > 3


# every change ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(KINDS)))
def test_every_change_of_a_store_is_named_or_harmless(tmp_path, number):
    """A part of `python -m benchmarks corruptions`."""
    kind = list(KINDS)[number]
    found = corruptions.campaign(kind, corruptions.CHANGES[number % 4 :: 4], 1, tmp_path)
    assert not found["faults"] and found["changes"] >= 3
    assert found.get("harmless", 0) + found["named by verify"] == found["changes"]
