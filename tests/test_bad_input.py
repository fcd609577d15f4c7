"""Wrong words, workloads and losses: said in one line, with the right exit code and nothing left behind."""

import subprocess
import sys

import pytest
import torch
import xarray as xr
from click.testing import CliRunner
from helpers_cli import TINY, fails, workload
from torch import nn

import influencekit as ik
from influencekit.cli import cli

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
    "twice": (("compare", TINY, "--estimators", "dit,loo,dit:curvature=hessian"), ["dit stands twice"]),
    "setting": (("compare", TINY, "--setting", "trainde"), ["'paper' or 'trained'", "'trainde'"]),
    "command": (("comapre",), ["no command 'comapre'; did you mean 'compare'? commands: compare, record"]),
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
    "epoch:2": "outside the run, which is epoch:0-2",
    "epoch:1-9": "outside the run",
    "step:0-7": "outside the run, which is step:0-6",
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
    for args in (("compare", TINY), ("estimate", recorded), ("verify", recorded)):
        line = fails(*args, "--device", "cuda", code=2)
        assert "--device cuda" in line and "use --device cpu" in line


# training -----------------------------------------------------------------------------------------


def test_a_loss_that_becomes_nan_names_the_step_and_keeps_what_came_before(tmp_path):
    store = tmp_path / "run.zarr"
    line = fails("record", TINY + ":lr=1e38", "--store", store, code=1)
    assert "NaN or infinite at step" in line and str(store) in line and "lower the learning rate" in line
    step = int(line.split("at step ")[1].split(";")[0])
    kept = xr.open_zarr(store, consolidated=False)
    assert kept.attrs["status"] == "stopped" and kept.attrs["committed"] == step < 6
    result = CliRunner().invoke(cli, ["verify", str(store)])
    assert result.exit_code == 0, result.output
    assert "stopped" in result.stdout and f"states 0 to {step}" in " ".join(result.stdout.split())
    assert "step" in fails(
        "compare", TINY + ":lr=1e38", "--estimators", "dit", "--out", tmp_path / "o", code=1
    )
    assert [p.name for p in tmp_path.iterdir()] == ["run.zarr"]


def test_a_loss_that_becomes_nan_before_the_window_leaves_nothing(tmp_path):
    line = fails(
        "record", TINY + ":lr=1e38", "--store", tmp_path / "run.zarr", "--window", "step:4-6", code=1
    )
    assert "NaN or infinite at step" in line and "kept" not in line and not list(tmp_path.iterdir())
    with pytest.raises(ik.DivergedError):
        ik.record(ik.make("workload", TINY + ":lr=1e38"), window=(4, 6))


def test_a_batch_of_one_example_alone():
    line = fails("compare", "mnist-1v7-lr:n_train=9:batch_size=8:epochs=1", code=2)
    assert "the batch of step 1 holds only the example at position" in line and "batch_size" in line


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
    def centred(outputs, target):
        return (outputs.reshape(-1) - outputs.mean()) ** 2

    with pytest.raises(ik.InputError, match=r"depends on the other examples.*no loss between examples"):
        ik.record(workload(loss=centred))
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    result = ik.estimate(ik.record(workload(model=model)))  # which is admitted, and the result says how
    assert "it stays in those statistics" in result.attrs["caution"]


def test_every_result_of_a_run_with_batch_norm_says_what_leaving_out_means():
    run = ik.record(workload(model=nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))))
    results = [
        ik.estimate(run), ik.trust(run, examples=4), ik.remove(run, ids=[1, 2]), ik.verify_top(run, top=2),
        ik.ceiling(run, runs=2), ik.compare(run, ["dit"]), *ik.evaluate(run, "lds:m=4,qld:draws=2").values(),
        *ik.evaluate(run, "lds:m=4", scores=ik.estimate(run)).values(),
    ]  # fmt: skip
    assert [result.attrs["caution"].count("it stays in those statistics") for result in results] == [1] * 9
    plain = ik.record(workload())
    assert "caution" not in ik.trust(plain, examples=4).attrs
    assert "caution" not in ik.evaluate(plain, "lds:m=4")["lds:m=4"].attrs


def test_a_loss_that_is_random():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    with pytest.raises(ik.InputError, match="random.*layers 1"):
        ik.record(workload(model=model))


def test_a_loss_that_is_already_a_mean():
    with pytest.raises(ik.InputError, match="one value per example"):
        ik.record(workload(loss=lambda out, y: ((out.squeeze(-1) - y) ** 2).mean()))


# whatever else ------------------------------------------------------------------------------------


def test_a_bug_is_one_line_that_says_how_to_see_more(monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("influencekit._verbs.compare.compare", broken)
    result = CliRunner().invoke(cli, ["compare", TINY])
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "ZeroDivisionError: division by zero" in result.stderr and "INFLUENCEKIT_DEBUG=1" in result.stderr
    result = CliRunner(env={"INFLUENCEKIT_DEBUG": "1"}).invoke(cli, ["compare", TINY])
    assert "Traceback" in result.stderr and "in broken" in result.stderr


def test_control_c_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("influencekit._verbs.compare.compare", interrupted)
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
