"""Stores, disks and outputs that are spoilt, full or taken: said in one line, and nothing broken is left."""

import errno
import os
import resource
import shutil
import signal
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from click.testing import CliRunner
from helpers_cli import TINY, fails, workload
from helpers_stores import changed

import influencekit as ik
from influencekit._files import Folder
from influencekit._training.step import Step
from influencekit._trajectory.store import open_group
from influencekit._trajectory.writing import writer
from influencekit.cli import cli
from influencekit.cli.problems import WorkloadSource


@pytest.fixture
def store(recorded, tmp_path) -> Path:
    """A recorded run to be spoilt."""
    return Path(shutil.copytree(recorded, tmp_path / "run.zarr"))


# stores -------------------------------------------------------------------------------------------


def commands_on(store: Path) -> list[tuple[object, ...]]:
    return [("estimate", store), ("verify", store)]


def test_a_store_that_is_not_there(tmp_path):
    for args in commands_on(tmp_path / "none.zarr"):
        assert "nothing is there" in fails(*args, code=1)


def test_a_store_that_is_something_else(store, tmp_path):
    folder, file, foreign = tmp_path / "folder", tmp_path / "file", tmp_path / "foreign.zarr"
    folder.mkdir()
    file.write_text("hello")
    xr.Dataset({"x": ("i", [1, 2])}).to_zarr(foreign, zarr_format=3)
    archive = Path(shutil.make_archive(str(tmp_path / "run"), "zip", store))
    for store, words in (
        (folder, "not a zarr group"),
        (file, "is a file, and a recorded run is a folder"),
        (archive, "unpack it first if it is an archive"),
        (foreign, "not an influencekit"),
    ):
        for args in commands_on(store):
            assert words in fails(*args, code=1)


def test_a_store_that_is_half_written(store):
    changed(store, status="recording", committed=4)
    assert "'accuracy' is that of the end of a run" in fails("verify", store, code=1)
    changed(store, accuracy=None)
    line = fails("estimate", store, code=1)
    assert "the recording holds 0 to 4" in line and "--resume" in line
    result = CliRunner().invoke(cli, ["verify", str(store)])
    assert result.exit_code == 0 and "recording: 4 of 6 steps are committed" in result.stdout
    assert CliRunner().invoke(cli, ["estimate", str(store), "--window", "step:1-4"]).exit_code == 0


def test_a_store_of_another_schema_version(store):
    changed(store, influencekit_schema=99, influencekit_version="9.9")
    for args in commands_on(store):
        line = fails(*args, code=1)
        assert "schema 99" in line and "reads 1" in line and "influencekit 9.9" in line


@pytest.mark.parametrize("chunk", ["theta/c/0/0", "kept/c/0"])
def test_a_corrupted_chunk_is_named(store, chunk):
    content = bytearray((store / chunk).read_bytes())
    content[len(content) // 2] ^= 1
    (store / chunk).write_bytes(content)
    for args in commands_on(store):
        line = fails(*args, code=1)
        assert chunk in line and "corrupted" in line and "record again" in line


@pytest.mark.parametrize("chunk", ["theta/c/0/0", "kept/c/0"])
def test_a_missing_chunk_is_named(store, chunk):
    (store / chunk).unlink()
    for args in commands_on(store):
        line = fails(*args, code=1)
        assert chunk in line and "missing" in line


@pytest.mark.parametrize("chunk", ["batch/c/0/0", "lr/c/0/0", "epoch/c/0", "loss/c/0/0", "train/c/0"])
@pytest.mark.parametrize("how", ["missing", "corrupted", "cut short"])
def test_check_reads_every_chunk(store, chunk, how):
    file = store / chunk
    if how == "missing":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content[:-7] if how == "cut short" else bytes([content[0] ^ 255]) + content[1:])
    result = CliRunner().invoke(cli, ["verify", str(store)])
    assert result.exit_code == 1 and chunk in result.stderr and result.stderr.count("\n") == 1


def test_spoilt_metadata_and_a_missing_array(store):
    shutil.rmtree(store / "theta")
    for args in commands_on(store):
        assert "theta" in fails(*args, code=1)
    (store / "zarr.json").write_text("{")
    for args in commands_on(store):
        assert "zarr.json is not JSON that can be read" in fails(*args, code=1)


def test_a_workload_that_does_not_match_the_store(recorded):
    for other, words in (
        (WorkloadSource(TINY)(1), "initial parameters"),
        (WorkloadSource("mnist-1v7-dnn:epochs=2:n_train=24:batch_size=8")(0), "parameters"),
        (WorkloadSource(TINY.replace("24", "25").replace("8", "5"))(0), "training examples"),
        (WorkloadSource(TINY + ":lr=0.5")(0), "learning rates"),
    ):
        with pytest.raises(ik.StoreError, match=f"not a run of this workload: .*{words}.* differ") as error:
            ik.open(recorded, other)
        assert "\n" not in str(error.value)


def test_a_store_whose_workload_has_changed_since(store):
    info = dict(zarr.open_group(store, mode="r").attrs["info"])
    changed(store, info=info | {"draw_seed": 5})
    line = fails("estimate", store, code=1)
    assert "not a run of this workload" in line


def test_a_store_made_in_python_says_where_it_can_be_opened(tmp_path):
    workload = ik.make("workload", TINY)
    ik.record(workload, store=tmp_path / "run.zarr")
    assert "open it there" in fails("estimate", tmp_path / "run.zarr", code=2)
    result = CliRunner().invoke(cli, ["verify", str(tmp_path / "run.zarr")])
    assert result.exit_code == 2 and "all as committed" in result.stdout and "--code" in result.stderr


def test_code_of_the_users_opens_a_store_that_was_made_in_python(tmp_path):
    ik.record(ik.make("workload", TINY), store=tmp_path / "run.zarr")
    code = tmp_path / "train.py"
    code.write_text(
        f"import influencekit as ik\nmine = lambda: ik.make('workload', {TINY!r})\nbad = lambda: 1 / 0\n"
    )
    for command in ("verify", "estimate"):
        result = CliRunner().invoke(cli, [command, str(tmp_path / "run.zarr"), "--code", f"{code}:mine"])
        assert result.exit_code == 0, result.output
    store = tmp_path / "run.zarr"
    assert "defines no other" in fails("verify", store, "--code", f"{code}:other", code=2)
    assert "ZeroDivisionError" in fails("verify", store, "--code", f"{code}:bad", code=2)
    assert "there is no file nothing.py" in fails("verify", store, "--code", "nothing.py:mine", code=2)


def test_scores_are_finite_or_an_error(recorded):
    """A workload built again in another precision would replay other numbers: it is refused, not rounded."""
    other = replace(WorkloadSource(TINY)(0)).to(dtype=torch.float64)
    with pytest.raises(ik.StoreError, match="dtype"):
        ik.open(recorded, other)
    assert np.isfinite(ik.estimate(ik.open(recorded, WorkloadSource(TINY)(0))).influence.values).all()


# disk ---------------------------------------------------------------------------------------------


@contextmanager
def a_disk_that_takes(size: int):
    """Files cannot grow beyond `size` bytes: the system refuses, as a full disk does (EFBIG for ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [100, 6000])
def test_a_full_disk_leaves_nothing(tmp_path, recorded, size):
    for args in (
        ("record", TINY, "--store", tmp_path / "run.zarr"),
        ("compare", TINY, "--estimators", "dit", "--out", tmp_path / "deep" / "out"),
        ("estimate", recorded, "--out", tmp_path / "scores.zarr"),
    ):
        with a_disk_that_takes(size):
            line = fails(*args, code=1) if size == 100 or args[0] != "estimate" else "nothing was left there"
        assert "nothing was left there" in line
        shutil.rmtree(tmp_path / "scores.zarr", ignore_errors=True)
        assert list(tmp_path.iterdir()) == []


def test_the_words_of_a_full_and_of_a_read_only_disk(tmp_path, monkeypatch):
    for number, words in ((errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only file system")):

        def refuse(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Folder, "put", refuse)
        line = fails("record", TINY, "--store", tmp_path / "run.zarr", code=1)
        assert words in line and "nothing was left there" in line
        assert list(tmp_path.iterdir()) == []


def test_a_disk_that_gets_full_leaves_what_was_committed_and_the_run_is_continued(tmp_path, monkeypatch):
    path, original, put = tmp_path / "run.zarr", Step.advance, Folder.put

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def advance(self: Step, state: object) -> object:
        deadline = time.monotonic() + 30
        while state.step == 3 and not open_group(path).attrs["committed"]:
            assert time.monotonic() < deadline
        if state.step == 3:
            monkeypatch.setattr(Folder, "put", refuse)
        return original(self, state)

    monkeypatch.setattr(Step, "advance", advance)
    monkeypatch.setattr(writer, "SECONDS", 0.0)
    line = fails("record", TINY, "--store", path, code=1)
    committed = open_group(path).attrs["committed"]
    assert f"No space left on device; its first {committed} steps are safe: make room, and resume" in line
    assert 0 < committed <= 3 and [p.name for p in tmp_path.iterdir()] == ["run.zarr"]
    monkeypatch.setattr(Folder, "put", put)
    monkeypatch.setattr(Step, "advance", original)
    assert CliRunner().invoke(cli, ["record", TINY, "--store", str(path), "--resume"]).exit_code == 0
    assert open_group(path).attrs["status"] == "complete"


def test_a_path_below_a_file(tmp_path, recorded):
    (tmp_path / "file").write_text("")
    for args in (
        ("record", TINY, "--store", tmp_path / "file" / "run.zarr"),
        ("compare", TINY, "--estimators", "dit", "--out", tmp_path / "file" / "out"),
        ("compare", TINY, "--estimators", "dit", "--json", tmp_path / "file" / "x.json"),
        ("estimate", recorded, "--out", tmp_path / "file" / "x.csv"),
    ):
        assert str(tmp_path / "file") in fails(*args, code=1)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_output_that_exists(tmp_path, recorded):
    folder, file = tmp_path / "folder", tmp_path / "file.csv"
    folder.mkdir()
    (folder / "mine").write_text("precious")
    file.write_text("precious")
    for args in (
        ("compare", TINY, "--out", folder),
        ("compare", TINY, "--out", file),
        ("compare", TINY, "--json", folder),
        ("record", TINY, "--store", file),
        ("record", TINY, "--store", folder),
        ("estimate", recorded, "--out", file),
    ):
        line = fails(*args, code=2)
        assert "choose a" in line and "delete" not in line
    assert file.read_text() == (folder / "mine").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file.csv", "folder", "mine"]
    with pytest.raises(ik.InputError, match="exists already"):
        ik.record(workload(), store=folder)


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    result = CliRunner().invoke(cli, ["compare", TINY, "--estimators", "dit", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0 and (tmp_path / "out" / "compare.json").exists()


def test_scores_that_are_none(tmp_path, recorded):
    assert "no scores at" in fails("plot", tmp_path / "none", code=2)
    (tmp_path / "text").write_text("hello")
    said = fails("plot", tmp_path / "text", code=2)
    assert "cannot be read as scores: expected the .zarr folder or .nc file that --out wrote (" in said
    assert "is a file, and a recorded run is a folder" in fails("verify", tmp_path / "text", code=1)
    (tmp_path / "folder").mkdir()
    assert "expected what `influencekit record` or a Tape wrote" in fails(
        "verify", tmp_path / "folder", code=1
    )
    xr.Dataset({"x": ("train", [1.0])}).to_zarr(tmp_path / "x.zarr", zarr_format=3, consolidated=False)
    assert "holds no influence scores" in fails("plot", tmp_path / "x.zarr", code=2)
    assert "expected a name that ends in .zarr, .nc, .csv" in fails(
        "estimate", recorded, "--out", "x.txt", code=2
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "text", "x.zarr"]
