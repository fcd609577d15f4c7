"""What a process makes is its own: it publishes and removes nothing but that, whatever others do."""

import os
import secrets
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers_files import another_store, child_with_scratch, no_locks, tree
from helpers_writing import begin, whole_and_true

from influencekit import InputError
from influencekit._files import folder, hold, open_folder, publishing, scratch, sweep, whole
from influencekit._files.new_store import NewStore
from influencekit._trajectory.writing import Writer
from influencekit.cli.output import new_file, new_folder


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


# what killed processes left ------------------------------------------------------------------------------


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
