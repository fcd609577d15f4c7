"""What a process makes is its own: it publishes, writes and removes nothing but that, whatever others do."""

import errno
import fcntl
import os
import resource
import secrets
import shutil
import signal
import stat
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers_writing import begin, go_on, never_killed, same, whole_and_true

from influencekit import InputError, StoreError
from influencekit._files import folder, hold, is_held, open_folder, publishing, scratch, sweep, whole
from influencekit._files.new_store import NewStore
from influencekit._trajectory.writing import Writer
from influencekit.cli.output import new_file, new_folder


def tree(path: Path) -> dict[str, object]:
    """Everything below a folder: links, contents of files, folders."""
    return {
        str(p.relative_to(path)): os.readlink(p)
        if p.is_symlink()
        else p.read_bytes()
        if p.is_file()
        else None
        for p in sorted(path.rglob("*"))
    }


def another_store(path: Path) -> None:
    writing = begin(path)
    go_on(writing, 3)
    writing.close("recording")


def a_file(path: Path) -> None:
    path.write_text("hello")


IN_THE_WAY = {
    "another store": another_store,
    "an empty folder": Path.mkdir,
    "a file": a_file,
    "a link that leads nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to a folder": lambda path: path.symlink_to(path.parent),
}
in_the_way = pytest.mark.parametrize("thing", IN_THE_WAY)


@contextmanager
def in_between(monkeypatch, module, name, act):
    """Do `act` once, just before the module's function `name` is called."""
    real, done = getattr(module, name), []

    def first(*args, **more):
        if not done:
            done.append(True)
            act()
        return real(*args, **more)

    monkeypatch.setattr(module, name, first)
    yield
    assert done, f"{name} was not called"
    monkeypatch.setattr(module, name, real)


# two creators --------------------------------------------------------------------------------------------


@in_the_way
@pytest.mark.parametrize("one_act", [True, False], ids=["renameat2", "without"])
def test_what_appears_at_the_path_meanwhile_stays_and_the_recording_is_refused(
    thing, one_act, tmp_path, monkeypatch
):
    if one_act and publishing._renameat2() is None:
        pytest.skip("this system has no renameat2")
    path, found = tmp_path / "run.zarr", {}

    def act():
        IN_THE_WAY[thing](path)
        found.update(tree(tmp_path))

    if not one_act:
        monkeypatch.setattr(publishing, "_renameat2", lambda: None)
    with in_between(monkeypatch, folder, "publish", act), pytest.raises(InputError, match="exists already"):
        begin(path)
    mine = {name for name in found if not name.startswith(".run.zarr.")}
    assert tree(tmp_path) == {name: found[name] for name in mine}, "the hidden folder alone is gone"


def test_without_renameat2_the_last_moment_is_safe_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "_renameat2", lambda: None)
    path = tmp_path / "run.zarr"
    with (
        in_between(monkeypatch, os, "rename", lambda: another_store(path)),
        pytest.raises(InputError, match="exists already"),
    ):
        begin(path)
    assert whole_and_true(path, 3) == 3 and os.listdir(tmp_path) == ["run.zarr"]


@in_the_way
@pytest.mark.parametrize("one_act", [True, False], ids=["renameat2", "without"])
def test_publishing_a_file_replaces_nothing(thing, one_act, tmp_path, monkeypatch):
    if not one_act:
        monkeypatch.setattr(publishing, "_renameat2", lambda: None)
    IN_THE_WAY[thing](tmp_path / "goal")
    (tmp_path / "mine").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(InputError, match="exists already"):
        publishing.publish(tmp_path / "mine", tmp_path / "goal")
    assert tree(tmp_path) == before
    publishing.publish(tmp_path / "mine", tmp_path / "free")
    assert (tmp_path / "free").read_text() == "mine" and not (tmp_path / "mine").exists()


@in_the_way
def test_a_new_store_replaces_nothing_either(thing, tmp_path):
    import xarray as xr

    new = NewStore(tmp_path / "run.zarr")
    IN_THE_WAY[thing](tmp_path / "run.zarr")
    with pytest.raises(InputError, match="exists already"):
        new.commit(xr.Dataset())
    with pytest.raises(InputError, match="exists already"):
        NewStore(tmp_path / "run.zarr")
    assert os.listdir(tmp_path) == ["run.zarr"]


@in_the_way
@pytest.mark.parametrize("opened", [new_file, new_folder], ids=["file", "folder"])
def test_an_output_replaces_nothing_that_came_meanwhile(thing, opened, tmp_path):
    goal = tmp_path / "out"
    with pytest.raises(InputError, match="exists already"), opened(str(goal)) as beside:
        (beside / "x" if opened is new_folder else beside).write_text("mine")
        IN_THE_WAY[thing](goal)
        before = {name: what for name, what in tree(tmp_path).items() if ".out." not in name}
    assert tree(tmp_path) == before


def test_an_output_that_is_there_is_refused_and_what_was_left_beside_it_is_removed(tmp_path):
    child, left = child_with_scratch(tmp_path / "out")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    a_file(tmp_path / "out")
    for opened in (new_file, new_folder):
        assert left.exists() == (opened is new_file)
        with pytest.raises(InputError), opened(str(tmp_path / "out")):
            pass
    assert os.listdir(tmp_path) == ["out"]


@in_the_way
def test_what_has_the_hidden_name_is_neither_used_nor_removed(thing, tmp_path, monkeypatch):
    drawn = iter(["0" * 16])
    real = secrets.token_hex
    monkeypatch.setattr(scratch.secrets, "token_hex", lambda n: next(drawn, None) or real(n))
    taken = tmp_path / f".run.zarr.{scratch._host()}-{os.getpid()}-{'0' * 16}.partial"
    away = tmp_path / "away"
    away.mkdir()
    IN_THE_WAY[thing](away / "thing")
    if thing == "an empty folder":
        (away / "thing" / "precious").write_text("not to be removed")
    os.rename(away / "thing", taken)
    release = hold(taken) if taken.is_dir() and not taken.is_symlink() else None  # somebody's who lives
    before = tree(tmp_path)
    writing = begin(tmp_path / "run.zarr")
    writing.leave()
    after = tree(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert next(drawn, None) is None and whole_and_true(tmp_path / "run.zarr", 0) == 0
    if release:
        release()


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


# what killed processes left ------------------------------------------------------------------------------


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def child_with_scratch(goal: Path) -> tuple[int, Path]:
    """A process that has a hidden folder for `goal`, and waits."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        made = scratch.Scratch(goal)
        (made.path / "half").write_text("half")
        os.write(into, os.fsencode(made.path))
        time.sleep(60)
        os._exit(0)
    path = Path(os.fsdecode(os.read(out, 4096)))
    os.close(out)
    os.close(into)
    return child, path


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_the_folders_of_the_dead_are_removed_and_those_of_the_living_stay(locks, tmp_path, monkeypatch):
    if not locks:
        monkeypatch.setattr(open_folder.fcntl, "flock", no_locks)
    goal = tmp_path / "run.zarr"
    (living, its), (dead, left) = child_with_scratch(goal), child_with_scratch(goal)
    other, of_another_goal = child_with_scratch(tmp_path / "run")
    try:
        for process in (dead, other):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        with whole(goal) as beside:
            assert its.exists() and not left.exists() and of_another_goal.exists()
            sweep(tmp_path)
            assert its.exists() and beside.parent.exists() and not of_another_goal.exists()
            beside.write_text("whole")
    finally:
        os.kill(living, signal.SIGKILL)
        os.waitpid(living, 0)
    assert its.exists()
    another_store(tmp_path / "other.zarr")
    with pytest.raises(InputError, match="exists already"):
        begin(goal)
    assert sorted(os.listdir(tmp_path)) == ["other.zarr", "run.zarr"], "also a call that is refused sweeps"


def test_what_is_not_surely_left_by_a_killed_process_stays(tmp_path):
    """Folders of other machines, of other names, links, files."""
    ours, name = scratch._host(), ".run.zarr.{}-{}-0123456789abcdef.partial"
    away = tmp_path / "away"
    away.mkdir()
    (tmp_path / name.format("00000000", 1)).mkdir()
    (tmp_path / name.format(ours, "x")).mkdir()
    (tmp_path / name.format(ours, 1)).symlink_to(away)
    (tmp_path / name.format(ours, 2)).write_text("a file")
    (tmp_path / ".run.zarr.partial").mkdir()
    (tmp_path / ".run.zarr.influencekit").mkdir()
    before = tree(tmp_path)
    begin(tmp_path / "run.zarr").remove()
    assert tree(tmp_path) == before
    old = tmp_path / name.format("00000000", 1)
    os.utime(old, (0, 0))
    begin(tmp_path / "run.zarr").remove()
    assert set(before) - set(tree(tmp_path)) == {old.name}, "of another machine, without a change for a day"


def test_unfinished_files_in_a_store_are_removed_and_links_are_not(tmp_path):
    path = tmp_path / "run.zarr"
    another_store(path)
    (path / "loss" / "c" / "0.partial").write_bytes(b"half")
    (path / "zarr.json.0123456789abcdef.partial").write_bytes(b"half")
    (path / "link.partial").symlink_to(tmp_path)
    Writer.resume(path).leave()
    assert [p.name for p in path.rglob("*.partial")] == ["link.partial"]


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
