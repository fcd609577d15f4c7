"""What is wrong is said in one line, with the right exit code, and nothing broken is left on disk."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from click.testing import CliRunner
from torch import nn

import influencekit as ik
from influencekit.cli import cli
from influencekit.cli.problems import Source

TINY = "mnist-1v7-lr:epochs=2:n_train=24:batch_size=8"  # 6 steps


def fails(*args: object, code: int) -> str:
    """The one line that a failing command prints on stderr; nothing on stdout, but `check`'s report."""
    result = CliRunner().invoke(cli, [str(a) for a in args], prog_name="influencekit")
    assert result.exit_code == code, result.output
    assert result.stdout == "" or args[0] == "check"
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert "this is a bug" not in lines[0]
    return lines[0]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "run.zarr"
    ik.record(Source(TINY)(0), store=path)
    return path


@pytest.fixture
def store(recorded, tmp_path) -> Path:
    """A recorded run to be spoilt."""
    return Path(shutil.copytree(recorded, tmp_path / "run.zarr"))


def attrs(store: Path, **changes: object) -> None:
    """Change attributes of a store, behind the back of zarr."""
    file = store / "zarr.json"
    content = json.loads(file.read_text())
    content["attributes"] |= changes
    file.write_text(json.dumps(content))


# names, options, windows --------------------------------------------------------------------------

NAMES = {
    "workload": (("compare", "mnist-1v7-dn"), ["no workload named", "did you mean 'mnist-1v7-dnn'"]),
    "estimator": (("compare", TINY, "--estimators", "ditt"), ["no estimator named", "did you mean 'dit'"]),
    "reference": (("compare", TINY, "--reference", "lo"), ["no estimator named 'lo'", "did you mean 'loo'"]),
    "query": (("compare", TINY, "--query", "testloss"), ["no query named", "did you mean 'test-loss'"]),
    "recorder": (("compare", TINY, "--recorder", "every-l"), ["did you mean 'every-k'"]),
    "workload option": (("compare", TINY + ":epoch=3"), ["'epoch'", "did you mean 'epochs'"]),
    "estimator option": (("compare", TINY, "--estimators", "dit:curv=fisher"), ["did you mean 'curvature'"]),
    "option value": (("compare", TINY, "--estimators", "dit:curvature=round"), ["one of hessian, gauss"]),
    "option type": (("compare", TINY + ":lr=fast"), ["expects a number", "'fast'"]),
    "option without value": (("compare", TINY + ":lr"), ["key=value"]),
    "empty list": (("compare", TINY, "--estimators", "dit,,if"), ["single commas"]),
    "setting": (("compare", TINY, "--setting", "trainde"), ["'paper' or 'trained'", "'trainde'"]),
    "command": (("comapre",), ["No such command 'comapre'"]),
    "command option": (("compare", "--estimatrs", "dit"), ["--estimatrs", "--estimators"]),
    "choice": (("compare", "--device", "tpu"), ["'tpu'", "cuda"]),
    "kind": (("list", "estimator5"), ["no kind 'estimator5'", "did you mean 'estimators'"]),
    "seeds": (("compare", TINY, "--seeds", "a-b"), ["cannot read seeds 'a-b'", "0-15"]),
    "empty seeds": (("compare", TINY, "--seeds", "5-3"), ["empty"]),
    "seed twice": (("compare", TINY, "--seeds", "0-3,2"), ["2 appears twice"]),
    "seed in the spec": (("compare", TINY + ":seed=3"), ["--seeds"]),
    "loo examples": (("compare", TINY, "--loo-examples", "1"), ["at least 2"]),
    "loo examples, no loo": (
        ("compare", TINY, "--estimators", "dit", "--reference", "if", "--loo-examples", "5"),
        ["none of the estimators is loo"],
    ),
    "test example": (("compare", TINY, "--query", "prediction:example=999"), ["999", "0 to 255"]),
    "data folder": (("compare", TINY, "--data-dir", "nowhere"), ["nowhere", "not a folder"]),
}  # fmt: skip

WINDOWS = {
    "epoch:2": "outside the run, which has epochs 0-2",
    "epoch:1-9": "outside the run",
    "step:0-7": "outside the run, which has steps 0-6",
    "step:3-3": "empty",
    "step:5-2": "empty",
    "step:4": "whole numbers",
    "step:-3-4": "whole numbers",
    "tomorrow": "write full, each-epoch, epoch:3",
    "full,step:9-8": "empty",
}


@pytest.mark.parametrize("case", NAMES)
def test_names_and_options(case):
    args, words = NAMES[case]
    line = fails(*args, code=2)
    assert all(word in line for word in words), line


@pytest.mark.parametrize("window", WINDOWS)
def test_windows(window, recorded):
    for args in (("compare", TINY, "--estimators", "dit"), ("estimate", recorded)):
        assert WINDOWS[window] in fails(*args, "--window", window, code=2)


def test_an_estimator_that_cannot_do_the_window(recorded):
    for args in (("compare", TINY, "--estimators", "if"), ("estimate", recorded, "--estimator", "if")):
        line = fails(*args, "--window", "epoch:1", code=2)
        assert "if cannot do window [3, 6)" in line and "use dit or loo" in line


def test_a_recording_has_one_window(tmp_path):
    assert "2 windows" in fails("record", TINY, "--store", tmp_path / "x", "--window", "each-epoch", code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(recorded):
    for args in (("compare", TINY), ("estimate", recorded), ("check", recorded)):
        line = fails(*args, "--device", "cuda", code=2)
        assert "--device cuda" in line and "use --device cpu" in line


# stores -------------------------------------------------------------------------------------------


def commands_on(store: Path) -> list[tuple[object, ...]]:
    return [("estimate", store), ("check", store)]


def test_a_store_that_is_not_there(tmp_path):
    for args in commands_on(tmp_path / "none.zarr"):
        assert "nothing is there" in fails(*args, code=1)


def test_a_store_that_is_something_else(tmp_path):
    folder, file, foreign = tmp_path / "folder", tmp_path / "file", tmp_path / "foreign.zarr"
    folder.mkdir()
    file.write_text("hello")
    xr.Dataset({"x": ("i", [1, 2])}).to_zarr(foreign, zarr_format=3)
    for store, words in (
        (folder, "not a zarr group"),
        (file, "not a zarr group"),
        (foreign, "not an influencekit"),
    ):
        for args in commands_on(store):
            assert words in fails(*args, code=1)


def test_a_store_that_is_half_written(store):
    attrs(store, status="recording", committed=4)
    for args in commands_on(store):
        line = fails(*args, code=1)
        assert "half-written" in line and "after 4 steps" in line and "record again" in line


def test_a_store_of_another_schema_version(store):
    attrs(store, influencekit_schema=99, influencekit_version="9.9")
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
    result = CliRunner().invoke(cli, ["check", str(store)])
    assert result.exit_code == 1 and chunk in result.stderr and result.stderr.count("\n") == 1


def test_spoilt_metadata_and_a_missing_array(store):
    shutil.rmtree(store / "theta")
    for args in commands_on(store):
        assert "theta" in fails(*args, code=1)
    (store / "zarr.json").write_text("{")
    for args in commands_on(store):
        assert "not a zarr group" in fails(*args, code=1)


def test_a_workload_that_does_not_match_the_store(recorded):
    for other, words in (
        (Source(TINY)(1), "initial parameters"),
        (Source("mnist-1v7-dnn:epochs=2:n_train=24:batch_size=8")(0), "parameters"),
        (Source(TINY.replace("24", "25").replace("8", "5"))(0), "training examples"),
        (Source(TINY + ":lr=0.5")(0), "learning rates"),
    ):
        with pytest.raises(ik.StoreError, match=f"not a run of this workload: .*{words}.* differ") as error:
            ik.open(recorded, other)
        assert "\n" not in str(error.value)


def test_a_store_whose_workload_has_changed_since(store):
    info = dict(zarr.open_group(store, mode="r").attrs["info"])
    attrs(store, info=info | {"draw_seed": 5})
    line = fails("estimate", store, code=1)
    assert "not a run of this workload" in line


def test_a_store_made_in_python_says_where_it_can_be_opened(tmp_path):
    workload = ik.make("workload", TINY)
    ik.record(workload, store=tmp_path / "run.zarr")
    assert "open it there" in fails("estimate", tmp_path / "run.zarr", code=2)
    result = CliRunner().invoke(cli, ["check", str(tmp_path / "run.zarr")])
    assert result.exit_code == 0 and "all checksums right" in result.stdout and "not done" in result.stdout


# training -----------------------------------------------------------------------------------------


def test_a_loss_that_becomes_nan_names_the_step_and_keeps_what_came_before(tmp_path):
    store = tmp_path / "run.zarr"
    line = fails("record", TINY + ":lr=1e38", "--store", store, code=1)
    assert "NaN or infinite at step" in line and str(store) in line and "lower the learning rate" in line
    step = int(line.split("at step ")[1].split(";")[0])
    kept = xr.open_zarr(store, consolidated=False)
    assert kept.attrs["status"] == "stopped" and kept.attrs["committed"] == step < 6
    result = CliRunner().invoke(cli, ["check", str(store)])
    assert result.exit_code == 0, result.output
    assert "stopped" in result.stdout and f"states 0 to {step}" in " ".join(result.stdout.split())
    assert "step" in fails(
        "compare", TINY + ":lr=1e38", "--estimators", "dit", "--out", tmp_path / "o", code=1
    )
    assert [p.name for p in tmp_path.iterdir()] == ["run.zarr"]


def test_a_batch_of_one_example_alone():
    line = fails("compare", "mnist-1v7-lr:n_train=9:batch_size=8:epochs=1", code=2)
    assert "the batch of step 1 holds only the example at position" in line and "batch_size" in line


def workload(**changes: object) -> ik.Workload:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    base: dict[str, object] = {
        "model": nn.Linear(3, 1), "loss": lambda out, y: (out.squeeze(-1) - y) ** 2,
        "train": (x, x[:, 0]), "test": (x, x[:, 1]), "optimizer": ik.SGD(lr=0.1), "batch_size": 4,
    }  # fmt: skip
    return ik.Workload(**base | changes)  # type: ignore[arg-type]


def test_example_ids_that_repeat():
    with pytest.raises(ik.InputError, match="train_ids: expected 8 different example ids; 'a' appears twice"):
        workload(train_ids=[*"abcdefg", "a"])
    with pytest.raises(ik.InputError, match="expected 8 different example ids; got 3 ids"):
        workload(train_ids=[*"abc"])


def test_labels_that_do_not_align():
    with pytest.raises(
        ik.InputError, match=r"train: inputs and labels must have the same number of examples"
    ):
        workload(train=(torch.randn(8, 3), torch.randn(7)))


def test_a_loss_that_is_not_separable_by_example():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    with pytest.raises(ik.InputError, match=r"depends on the other examples.*layers 1.*eval mode"):
        ik.record(workload(model=model))
    model.eval()
    ik.record(workload(model=model))


def test_a_loss_that_is_random():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    with pytest.raises(ik.InputError, match="random.*layers 1"):
        ik.record(workload(model=model))


def test_a_loss_that_is_already_a_mean():
    with pytest.raises(ik.InputError, match="one value per example"):
        ik.record(workload(loss=lambda out, y: ((out.squeeze(-1) - y) ** 2).mean()))


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

        async def refuse(*_: object, number: int = number, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(zarr.storage.LocalStore, "set", refuse)
        line = fails("record", TINY, "--store", tmp_path / "run.zarr", code=1)
        assert words in line and "nothing was left there" in line
        assert list(tmp_path.iterdir()) == []


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
        assert "delete it first" in line
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
    assert "cannot be read as scores" in fails("plot", tmp_path / "text", code=2)
    assert "holds no influence scores" in fails("plot", recorded, code=2)
    assert "expected a name that ends in .zarr, .nc, .csv" in fails(
        "estimate", recorded, "--out", "x.txt", code=2
    )
    assert [p.name for p in tmp_path.iterdir()] == ["text"]


# whatever else ------------------------------------------------------------------------------------


def test_a_bug_is_one_line_that_says_how_to_see_more(monkeypatch):
    from influencekit import pipeline

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(pipeline, "compare", broken)
    result = CliRunner().invoke(cli, ["compare", TINY])
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "ZeroDivisionError: division by zero" in result.stderr and "INFLUENCEKIT_DEBUG=1" in result.stderr
    result = CliRunner(env={"INFLUENCEKIT_DEBUG": "1"}).invoke(cli, ["compare", TINY])
    assert "Traceback" in result.stderr and "in broken" in result.stderr


def test_control_c_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    from influencekit import pipeline

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "compare", interrupted)
    result = CliRunner().invoke(cli, ["compare", TINY, "--out", str(tmp_path / "a" / "out")])
    assert result.exit_code == 130 and result.stderr.strip() == "interrupted"
    assert list(tmp_path.iterdir()) == []


def test_the_exit_code_reaches_the_shell():
    done = subprocess.run(
        [sys.executable, "-m", "influencekit.cli", "list", "things"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("error: no kind 'things'")


def test_scores_are_finite_or_an_error(recorded):
    """A workload built again in another precision would replay other numbers: it is refused, not rounded."""
    other = replace(Source(TINY)(0)).to(dtype=torch.float64)
    with pytest.raises(ik.StoreError, match="dtype"):
        ik.open(recorded, other)
    assert np.isfinite(ik.estimate(ik.open(recorded, Source(TINY)(0))).influence.values).all()
