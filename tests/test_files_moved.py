"""A store that is moved or replaced while it is written, and systems that lack something."""

import fcntl
import os
import resource
import shutil
import signal
import stat
import threading
from pathlib import Path

import pytest
from helpers_files import another_store, child_with_scratch, no_locks, tree
from helpers_writing import begin, go_on, never_killed, same, whole_and_true

from influencekit import StoreError
from influencekit._files import folder, hold, is_held, open_folder, sweep, whole
from influencekit._trajectory.writing import Writer

# the store under the writer --------------------------------------------------------------------------------


def rename(path: Path) -> Path:
    return path.rename(path.with_name("elsewhere.zarr"))


def remove(path: Path) -> None:
    shutil.rmtree(path)


def remove_an_array(path: Path) -> None:
    shutil.rmtree(path / "loss")


def replace_an_array_by_a_link(path: Path) -> None:
    (path / "loss").rename(path.parent / "loss")
    (path / "loss").symlink_to(path.parent / "loss")


def replace_by_a_store(path: Path) -> Path:
    there = rename(path)
    another_store(path)
    return there


def replace_by_a_link(path: Path) -> Path:
    there = rename(path)
    another_store(path.with_name("other.zarr"))
    path.symlink_to("other.zarr")
    return there


def replace_by_a_folder(path: Path) -> Path:
    there = rename(path)
    path.mkdir()
    return there


def rename_its_parent(path: Path) -> Path:
    return path.parent.rename(path.parents[1] / "moved") / path.name


MOVES = [
    rename, remove, remove_an_array, replace_an_array_by_a_link, replace_by_a_store, replace_by_a_link,
    replace_by_a_folder, rename_its_parent,
]  # fmt: skip


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
@pytest.mark.parametrize("resumed", [False, True], ids=["new", "resumed"])
def test_a_store_that_is_moved_while_it_is_written_ends_the_recording(move, resumed, tmp_path):
    path = tmp_path / "parent" / "run.zarr"
    path.parent.mkdir()
    writing = begin(path)
    if resumed:
        writing.leave()
        writing = Writer.resume(path)
    go_on(writing, 4)
    writing.flush()
    there = move(path)
    before = (
        tree(tmp_path) if there is None else {k: v for k, v in tree(tmp_path).items() if str(there) not in k}
    )
    outside = {k: v for k, v in before.items() if there is None or not (tmp_path / k).is_relative_to(there)}
    go_on(writing, 7, commits=set())
    with pytest.raises(StoreError, match="4 steps of it are committed") as error:
        writing.close()
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    after = tree(tmp_path)
    if there is None:
        gone = {name for name in after if name not in before and not name.startswith("parent/run.zarr/")}
        assert not gone and (path / "loss").exists() == (path / "loss").is_symlink()
        return
    assert str(there) in str(error.value), "it says where the data are"
    outside = {name for name in before if not (tmp_path / name).is_relative_to(there)}
    assert all(after[name] == before[name] for name in outside), "nothing else is written to"
    assert {name for name in after if not (tmp_path / name).is_relative_to(there)} == outside
    assert whole_and_true(there, 4) == 4
    again = Writer.resume(there)
    go_on(again)
    again.close()
    same(there, never_killed())


def test_a_store_that_another_program_writes_as_well_ends_the_recording(tmp_path, monkeypatch):
    """As on a file system without locks."""
    monkeypatch.setattr(open_folder.fcntl, "flock", no_locks)
    path = tmp_path / "run.zarr"
    first = begin(path)
    go_on(first, 4)
    first.flush()
    second = Writer.resume(path)
    go_on(second, 5)
    second.flush()
    go_on(first, 6, commits=set())
    with pytest.raises(StoreError, match="changed by another process"):
        first.flush()
    go_on(second)
    second.close()
    same(path, never_killed())


def test_what_is_removed_is_what_this_process_made(tmp_path):
    path = tmp_path / "run.zarr"
    writing = begin(path)
    there = replace_by_a_store(path)
    before = tree(tmp_path)
    writing.remove()
    assert tree(tmp_path) == before and there.exists()
    resumed = Writer.resume(path)
    resumed.remove()
    assert tree(path) == {
        k.removeprefix("run.zarr/"): v for k, v in before.items() if k.startswith("run.zarr/")
    }
    mine = begin(tmp_path / "mine.zarr")
    child = os.fork()
    if not child:
        mine.remove()
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "mine.zarr").exists(), "a forked child did not make it"
    mine.remove()
    assert not (tmp_path / "mine.zarr").exists()


def test_the_working_folder_may_change_meanwhile(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    writing = begin(Path("run.zarr"))
    monkeypatch.chdir(tmp_path / "b")
    go_on(writing)
    writing.close()
    same(tmp_path / "a" / "run.zarr", never_killed())
    assert not os.listdir(tmp_path / "b")


# systems that lack something -----------------------------------------------------------------------------


def test_where_paths_are_all_there_is(tmp_path, monkeypatch):
    """As on Windows: no open folders, no locks."""
    for module in (open_folder, folder):
        monkeypatch.setattr(module, "HAS_DIR_FD", False)
    monkeypatch.setattr(open_folder, "fcntl", None)
    path = tmp_path / "run.zarr"
    writing = begin(path)
    go_on(writing, 4)
    writing.close("recording")
    writing = Writer.resume(path)
    go_on(writing, 7)
    writing.flush()
    there = rename(path)
    go_on(writing, 8, commits=set())
    with pytest.raises(StoreError, match="look for it where it went"):
        writing.close()
    assert not path.exists()
    writing = Writer.resume(there)
    go_on(writing)
    writing.close()
    same(there, never_killed())


def test_a_look_at_the_lock_does_not_keep_a_writer_away(tmp_path):
    looking = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    thread = threading.Timer(0.05, os.close, (looking,))
    thread.start()
    release = hold(tmp_path)
    assert is_held(tmp_path)
    release()
    assert not is_held(tmp_path)
    thread.join()


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o002])
def test_modes_follow_the_umask(mask, tmp_path):
    before = os.umask(mask)
    try:
        another_store(tmp_path / "run.zarr")
        with whole(tmp_path / "file") as beside:
            beside.write_text("x")
    finally:
        os.umask(before)
    for path in (tmp_path / "run.zarr", tmp_path / "file", *(tmp_path / "run.zarr").rglob("*")):
        wanted = (0o777 if path.is_dir() else 0o666) & ~mask
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_a_name_as_long_as_the_system_has_it(tmp_path):
    path = tmp_path / ("é" * 120 + ".zarr")
    another_store(path)
    with whole(tmp_path / ("x" * 255)) as beside:
        beside.write_text("x")
    child, left = child_with_scratch(tmp_path / ("y" * 255))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with whole(tmp_path / ("y" * 255)) as beside:
        beside.write_text("y")
    assert not left.exists() and whole_and_true(path, 3) == 3
    with pytest.raises(StoreError, match="File name too long; nothing was left there") as error:
        begin(tmp_path / ("x" * 256))
    assert "\n" not in str(error.value)


def test_few_open_files_end_in_one_line(tmp_path):
    """Whatever the limit is, the recording works or says so, and never leaves half a store."""
    most, outcomes = resource.getrlimit(resource.RLIMIT_NOFILE), set()
    begin(tmp_path / "warm.zarr").leave()
    filled = [os.open("/dev/null", os.O_RDONLY)]  # no free number below the last
    while filled[-1] < max(map(int, os.listdir("/proc/self/fd"))) - 1:
        filled.append(os.open("/dev/null", os.O_RDONLY))
    for spare in range(12):
        path = tmp_path / f"{spare}.zarr"
        resource.setrlimit(resource.RLIMIT_NOFILE, (filled[-1] + 1 + spare, most[1]))
        try:
            writing = begin(path)
            go_on(writing, 3)
            writing.close("recording")
            outcomes.add("done")
        except StoreError as error:
            assert "Too many open files" in str(error) and "\n" not in str(error)
            outcomes.add("refused")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, most)
        if path.exists():
            whole_and_true(path, 0)
    for number in filled:
        os.close(number)
    assert outcomes == {"done", "refused"}
    sweep(tmp_path)
    assert not list(tmp_path.glob(".*"))
