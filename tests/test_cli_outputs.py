"""Where results go: never over something else, whole or not at all, and never lost in silence."""

import csv
import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import xarray as xr
from helpers_cli import TINY, fails, run

import influencekit as ik
from influencekit._executors.folder import SliceFolder
from influencekit.cli.output import new_file, new_folder
from influencekit.cli.problems import WorkloadSource


def compare(store, *args):
    return ("compare", store, "--estimators", "if", "--loo-examples", "4", *args)


def shell(script: str) -> subprocess.CompletedProcess[str]:
    command = script.replace("influencekit", f"'{sys.executable}' -m influencekit.cli")
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)


# files that are there ------------------------------------------------------------------------------


def test_json_over_a_file_keeps_its_mode(tmp_path, recorded):
    file = tmp_path / "found.json"
    file.write_text("old")
    file.chmod(0o640)
    run(*compare(recorded, "--json", file))
    assert json.loads(file.read_text()) and stat.S_IMODE(file.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["found.json"]


def test_json_through_a_link_writes_what_it_leads_to(tmp_path, recorded):
    target, link, dangling = tmp_path / "target.json", tmp_path / "link.json", tmp_path / "dangling.json"
    target.write_text("old")
    link.symlink_to("target.json")
    dangling.symlink_to("made.json")
    for name, end in ((link, target), (dangling, tmp_path / "made.json")):
        run(*compare(recorded, "--json", name))
        assert name.is_symlink() and json.loads(end.read_text())
    assert sorted(os.listdir(tmp_path)) == ["dangling.json", "link.json", "made.json", "target.json"]


def test_json_into_a_pipe_is_read_there_and_the_pipe_stays(tmp_path, recorded):
    pipe, read = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    run(*compare(recorded, "--json", pipe))
    reader.join()
    assert json.loads(read[0]) and stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_device_is_written_to_and_stays(recorded):
    run(*compare(recorded, "--json", "/dev/null"))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    found = json.loads(run(*compare(recorded, "--json", "/dev/stdout")).stdout)
    assert found["reference"] == "loo"
    assert "--json /dev/full cannot be written: No space" in fails(
        *compare(recorded, "--json", "/dev/full"), code=1
    )


def test_nothing_that_is_there_is_an_out(tmp_path, recorded):
    (tmp_path / "dangling.csv").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    for name in sorted(os.listdir(tmp_path)):
        assert "exists already" in fails("estimate", recorded, "--out", tmp_path / name, code=2)
        if name != "folder.csv":
            assert "is a file; choose a new one" in fails(
                *compare(recorded, "--out", tmp_path / name), code=2
            )
    assert sorted(os.listdir(tmp_path)) == ["dangling.csv", "folder.csv", "pipe.csv"]
    assert (tmp_path / "dangling.csv").is_symlink()


@pytest.mark.parametrize("make", [new_file, new_folder])
def test_what_came_to_be_there_meanwhile_stays(tmp_path, make):
    goal = tmp_path / "x"
    with pytest.raises(ik.InputError, match="exists already"), make(str(goal)) as partial:
        (partial / "mine" if make is new_folder else partial).write_text("mine")
        goal.write_text("theirs")
    assert goal.read_text() == "theirs" and os.listdir(tmp_path) == ["x"]


def test_an_empty_folder_is_filled_and_stays_the_folder_that_it_was(tmp_path, recorded, monkeypatch):
    """It may be a mount, a link, or where the command runs."""
    (tmp_path / "out").mkdir(mode=0o750)
    (tmp_path / "link").symlink_to("out")
    monkeypatch.chdir(tmp_path / "out")
    before = (tmp_path / "out").stat()
    run(*compare(recorded, "--out", "."))
    assert "compare.json" in os.listdir() and not [n for n in os.listdir() if n.startswith(".")]
    after = (tmp_path / "out").stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert "is a folder that is not empty" in fails(*compare(recorded, "--out", tmp_path / "link"), code=2)


def test_outputs_in_each_others_place_are_refused_before_the_work(tmp_path, recorded):
    out, inside = tmp_path / "out", tmp_path / "out" / "x.json"
    (tmp_path / "link").symlink_to("out")
    for args in (
        ("--out", out, "--json", out),
        ("--out", out, "--json", tmp_path / "link"),
        ("--out", out, "--json", inside),
        ("--out", out, "--evaluate", "lds", "--subsets", out),
        ("--out", inside, "--evaluate", "lds", "--subsets", out),
    ):
        line = fails("compare", TINY, *args, code=2)
        assert "is the same path as" in line or "lies inside" in line
    assert os.listdir(tmp_path) == ["link"]


def test_a_file_in_place_of_the_folder_of_subsets_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("influencekit._verbs.compare.compare", None)
    (tmp_path / "file").touch()
    for path, where in (("file", "is a file"), ("file/sub", "lies below")):
        line = fails("compare", TINY, "--evaluate", "lds", "--subsets", tmp_path / path, code=2)
        assert where in line and "expected a folder that keeps what is done" in line


def test_nothing_is_written_into_a_store(recorded):
    before = sorted(recorded.rglob("*"))
    for args in (
        ("estimate", recorded, "--out", recorded / "scores.csv"),
        compare(recorded, "--out", recorded / "deep" / "out"),
        compare(recorded, "--json", recorded / "zarr.json.txt"),
        compare(recorded, "--evaluate", "lds", "--subsets", recorded / "subsets"),
        compare(recorded, "--evaluate", "lds", "--subsets", recorded),
        ("estimate", recorded, "--executor", "processes:2", "--slices", recorded / "slices"),
        ("curate", recorded, "--keep", recorded),
        ("plot", recorded, "--out", recorded / "plots"),
        ("record", TINY, "--store", recorded / "theta" / "run.zarr"),
    ):
        line = fails(*args, code=2)
        assert "lies inside the store" in line or " is a store; choose a path elsewhere" in line
    trajectory = ik.open(recorded, WorkloadSource(TINY)(0))
    for place in ("subsets", "theta/c/subsets"):
        with pytest.raises(ik.InfluenceKitError, match="lies inside the store"):
            ik.evaluate(trajectory, "lds:m=3", estimators=["dit"], subsets=recorded / place)
        with pytest.raises(ik.InfluenceKitError, match="lies inside the store"):
            SliceFolder(recorded / place).make()
    assert sorted(recorded.rglob("*")) == before


def test_long_names(tmp_path, recorded):
    longest = "x" * 251 + ".csv"
    run("estimate", recorded, "--trust", "none", "--out", tmp_path / longest)
    assert os.listdir(tmp_path) == [longest]
    for args in (
        ("estimate", recorded, "--out", tmp_path / ("x" * 252 + ".csv")),
        ("record", TINY, "--store", tmp_path / ("x" * 300)),
        compare(recorded, "--json", tmp_path / ("x" * 5000)),
        ("estimate", "x" * 300 + ".zarr"),
    ):
        assert "File name too long" in fails(*args, code=2)
    assert "no workload named" in fails("compare", "x" * 5000, code=2)


def test_a_folder_that_cannot_be_written(tmp_path, recorded):
    if os.getuid() == 0:
        folder = Path("/proc/sys")  # of which not even root may
    else:
        folder = tmp_path / "folder"
        folder.mkdir(mode=0o500)
    for args in (
        ("estimate", recorded, "--out", folder / "x.csv"),
        compare(recorded, "--out", folder / "x"),
        compare(recorded, "--json", folder / "x.json"),
        ("record", TINY, "--store", folder / "run.zarr"),
    ):
        assert "cannot" in fails(*args, code=1)


def test_no_kind_of_file_is_left_on_a_full_disk(tmp_path, recorded):
    """netCDF ended the process. In a process of its own, as files may not grow there: nor Python's caches of
    modules, which it would leave cut off for all that come later."""
    endings = ["csv", "zarr", *(["nc"] if importlib.util.find_spec("h5netcdf") else [])]
    outs = [str(tmp_path / f"x.{ending}") for ending in endings]
    code = f"""
import resource, sys
from influencekit.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))
for out in {outs}:
    try:
        main(["estimate", {str(recorded)!r}, "--trust", "none", "--out", out])
    except SystemExit as ended:
        print("ended with", ended.code)
"""
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("ended with 1\n") == len(outs), done
    assert done.stderr == "".join(
        f"error: --out {out} cannot be written: File too large; nothing was left there\n" for out in outs
    )
    assert os.listdir(tmp_path) == []


# stdout and stderr ---------------------------------------------------------------------------------


def test_a_closed_stdout_is_one_line_and_nothing_is_done(tmp_path):
    done = shell(f"influencekit record {TINY} --store '{tmp_path}/run.zarr' >&-")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: stdout is closed, so that nothing can be printed; send it somewhere\n"
    assert os.listdir(tmp_path) == []


def test_a_full_disk_behind_stdout_is_one_line():
    done = shell("influencekit list recorders >/dev/full")
    assert done.returncode == 1
    assert done.stderr == "error: stdout cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("influencekit list recorders 2>&-", 0),
        ("influencekit list nothing 2>&-", 2),
        ("influencekit list nothing 2>/dev/full", 2),
        ("influencekit list nothing >&- 2>&-", 1),
        ("influencekit list nothing <&- >&- 2>&-", 1),
        ("influencekit list recorders <&-", 0),
        ("influencekit list 2>&1 | head -1 >/dev/null; exit ${PIPESTATUS[0]}", 1),
        ("influencekit list nothing 2>&1 | true; exit ${PIPESTATUS[0]}", 2),
    ],
)
def test_streams_that_nobody_reads_say_nothing_and_the_code_stays(script, code):
    done = shell(script)
    assert (done.returncode, done.stderr) == (code, "")


def test_a_file_never_takes_the_number_of_a_closed_stream(tmp_path):
    """Else what a library prints on stderr gets into a store."""
    code = "import os, sys; from influencekit.cli import main; sys.argv = ['x', '--version']\ntry: main()\n"
    code += f"except SystemExit: pass\nprint(os.open('{tmp_path}/x', os.O_CREAT | os.O_WRONLY) > 2)"
    command = ["bash", "-c", 'exec "$@" <&- 2>&-', "bash", sys.executable, "-c", code]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"


# formulas ------------------------------------------------------------------------------------------


def test_ids_that_are_formulas_are_escaped_where_that_is_asked_for(tmp_path, recorded):
    work = ik.make("workload", TINY)
    ids = [f"{sign}cmd|' /C calc'!A{k}" for k in range(6) for sign in "=+-@"]
    ik.record(replace(work, train_ids=ids), store=tmp_path / "run.zarr")
    (tmp_path / "train.py").write_text(
        "import influencekit as ik\nfrom dataclasses import replace\n"
        f"work = replace(ik.make('workload', {TINY!r}), train_ids={ids!r})\n"
    )
    found = {}
    for name, *flag in (("plain",), ("safe", "--escape-formulas")):
        out = tmp_path / f"{name}.csv"
        run("estimate", tmp_path / "run.zarr", "--code", f"{tmp_path}/train.py:work", "--out", out, *flag)
        found[name] = list(csv.DictReader(out.open()))
    assert {row["example"] for row in found["plain"]} == set(ids)
    assert [row["example"] for row in found["safe"]] == ["'" + row["example"] for row in found["plain"]]
    assert [row["dit"] for row in found["safe"]] == [row["dit"] for row in found["plain"]], "numbers stay"


# results that are read again -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(recorded, tmp_path_factory):
    """The folder of compare and the store of estimate."""
    folder = tmp_path_factory.mktemp("saved")
    run(*compare(recorded, "--out", folder / "c"))
    options = ("--estimator", "dit", "--window", "each-epoch", "--trust", "none")
    run("estimate", recorded, *options, "--out", folder / "e.zarr")
    return folder


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 8
    file.write_bytes(data)


def piped(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("change", [flipped, piped, Path.unlink])
@pytest.mark.parametrize(("name", "store"), [("c", "c/scores.zarr"), ("e.zarr", "e.zarr")])
def test_plot_names_the_file_of_scores_that_is_damaged(saved, tmp_path, name, store, change):
    shutil.copytree(saved, tmp_path / "s")
    whole = tmp_path / "s" / store
    for file in ("influence/c/0/0/0/0/0", "train/c/0", "influence/zarr.json"):
        copy = tmp_path / "s" / "kept"
        shutil.copy2(whole / file, copy)
        change(whole / file)
        line = fails("plot", tmp_path / "s" / name, "--out", tmp_path / "plots", code=1)
        assert f"{whole} is damaged: {file}" in line and "make it again" in line
        (whole / file).unlink(missing_ok=True)
        shutil.copy2(copy, whole / file)
    flipped(whole / "zarr.json")
    fails("plot", tmp_path / "s" / name, "--out", tmp_path / "plots", code=1)


def test_xarray_opens_saved_scores_refuses_a_flipped_bit_and_may_save_them_again(saved, tmp_path):
    shutil.copytree(saved / "e.zarr", tmp_path / "e.zarr")
    found = xr.open_zarr(tmp_path / "e.zarr").load()
    assert "checksums" not in found.attrs
    (found * 2).assign_attrs(found.attrs).drop_encoding().to_zarr(tmp_path / "twice.zarr", zarr_format=3)
    run("plot", tmp_path / "twice.zarr", "--out", tmp_path / "plots")  # as stores of before 0.4: no digests
    flipped(tmp_path / "e.zarr" / "influence/c/0/0/0/0/0")
    with pytest.raises(ValueError, match="checksum"):
        xr.open_zarr(tmp_path / "e.zarr").load()


def test_a_pipe_in_scores_without_digests_is_not_waited_for(saved, tmp_path):
    shutil.copytree(saved / "e.zarr", tmp_path / "e.zarr")
    root = tmp_path / "e.zarr" / "zarr.json"
    content = json.loads(root.read_text())
    del content["consolidated_metadata"]["checksums"]
    root.write_text(json.dumps(content))
    run("plot", tmp_path / "e.zarr", "--out", tmp_path / "plots")
    piped(tmp_path / "e.zarr" / "influence/c/0/0/0/0/0")
    assert "not a regular file" in fails("plot", tmp_path / "e.zarr", "--out", tmp_path / "more", code=1)
