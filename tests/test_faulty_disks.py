"""Whatever the system refuses, and whenever: one line, nothing lost that was committed, no half store."""

import errno
import os
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers_writing import begin, go_on, never_killed, same, whole_and_true

from influencekit import StoreError
from influencekit._files import publishing, scratch
from influencekit._trajectory.writing import Writer, ledger

WRITING = ("open", "mkdir", "rename", "replace", "fsync")  # what needs a disk that can be written


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(ledger, "_ROWS", 4)
    monkeypatch.setattr(publishing, "_renameat2", lambda: None)


@contextmanager
def disk(number: int, first: int, last: int, names: tuple[str, ...] = WRITING):
    """Of the operations that write, those from `first` to `last` fail with this error. Gives all of them."""
    done: list[str] = []
    real = {name: getattr(os, name) for name in names}

    def failing(name: str) -> Callable[..., Any]:
        def act(*args: Any, **more: Any) -> Any:
            if name != "open" or args[1] & os.O_CREAT:
                done.append(name)
                if first <= len(done) <= last:
                    raise OSError(number, os.strerror(number))
            return real[name](*args, **more)

        return act

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(os, name, failing(name))
        yield done


def record(path: Path, durable: bool) -> tuple[int, str]:
    """The steps that are committed for sure, and the error that ended the recording."""
    writing = None
    try:
        writing = begin(path, durable)
        go_on(writing, commits={0, 3, 6})
        writing.close()
    except StoreError as error:
        return 0 if writing is None else writing.committed, str(error)
    return writing.committed, ""


def whole_later(path: Path, committed: int) -> None:
    """What is left is a store with what was committed, or nothing; and it is finished as if all were well."""
    assert not list(path.parent.glob(".*"))
    if path.exists():
        assert whole_and_true(path, committed) == committed
        if "resume" in (writing := Writer.resume(path)).group.attrs:
            go_on(writing)
        writing.close()
        same(path, never_killed())
    else:
        assert committed == 0


@pytest.mark.parametrize(
    ("number", "durable", "lasting", "every"),
    [(errno.ENOSPC, False, True, 15), (errno.ENOSPC, False, False, 19), (errno.EIO, True, True, 61),
     (errno.EDQUOT, True, False, 43), (errno.EROFS, False, True, 47), (errno.EMFILE, False, True, 53)],
)  # fmt: skip
def test_an_operation_that_fails(number, durable, lasting, every, tmp_path):
    with disk(number, 0, 0) as all_of_them:
        record(tmp_path / "whole.zarr", durable)
    assert len(all_of_them) > (300 if durable else 150)
    for first in range(2, len(all_of_them) + 1, every):  # the first makes a folder that is there
        path = tmp_path / f"{first}.zarr"
        with disk(number, first, len(all_of_them) if lasting else first):
            committed, error = record(path, durable)
        assert error.count(os.strerror(number)) == 1 and "\n" not in error, (first, error)
        left = "nothing was left there" if not committed else f"its first {committed} steps are safe"
        assert left in error
        whole_later(path, committed)


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    """As for a user who is not root."""
    path = tmp_path / "run.zarr"
    with disk(errno.EACCES, 1, 1000):
        assert record(path, False)[1] == (
            f"cannot write the trajectory to {path}: Permission denied; nothing was left there"
        )
    assert not os.listdir(tmp_path)


def test_a_disk_that_fails_when_it_is_waited_for(tmp_path):
    """It is not said to be another process, and what is committed may be more than what was announced."""
    with disk(errno.EIO, 0, 0, ("fsync",)) as all_of_them:
        record(tmp_path / "whole.zarr", True)
    for first in range(1, len(all_of_them) + 1, 9):
        path = tmp_path / f"{first}.zarr"
        with disk(errno.EIO, first, first, ("fsync",)):
            committed, error = record(path, True)
        assert error.count("Input/output error") == 1 and "\n" not in error, (first, error)
        assert not path.exists() or whole_and_true(path, committed) >= committed


def test_a_disk_that_becomes_read_only_before_the_first_step_is_committed(tmp_path, monkeypatch):
    """Nothing can be removed from it either, so that what was begun stays, and is said to."""
    path = tmp_path / "run.zarr"
    writing = begin(path, False)
    monkeypatch.setattr(scratch.shutil, "rmtree", lambda *_, **__: None)
    with disk(errno.EROFS, 1, 1000), pytest.raises(StoreError) as error:
        go_on(writing, commits={3})
        writing.close()
    assert str(error.value) == (
        f"cannot write the trajectory to {path}: Read-only file system; what was begun could not be removed: "
        f"{path} is there, without a step; remove it"
    )
    assert path.exists()
