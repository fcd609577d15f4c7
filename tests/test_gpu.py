"""What a GPU must give: the CPU's numbers. Every test runs on the CPU as well, so that it cannot rot."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import influencekit as ik
from influencekit.testing import tiny_workload

sys.path.append(str(Path(__file__).parents[1]))
from benchmarks import gpu  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402

each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


@each_device
@pytest.mark.parametrize("recorder", ["full", "every-k:k=3", "revolve:states=3"])
def test_a_stored_run_is_read_on_a_device_as_it_was_recorded_there(device, recorder, tmp_path):
    """In float64: sums of a GPU in another order move the last digits."""
    work = tiny_workload(ik.AdamW(lr=0.05, eps=0.01))
    run = ik.record(work.to(device), recorder, store=tmp_path / "run.zarr")
    assert run.final.theta.device.type == device
    assert ik.verify(run).gap <= (0 if device == "cpu" else 1e-9)
    on_cpu = ik.open(tmp_path / "run.zarr", work)  # and on the other one
    scores = [ik.estimate(each, "test-loss", "dit").influence.values for each in (run, on_cpu)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-7, atol=1e-12)


@each_device
def test_contributions_on_a_device_add_up_to_the_scores(device, tmp_path):
    run = ik.record(tiny_workload(ik.SGD(lr=0.1)).to(device))
    parts = ik.contributions(run, at=[run.steps], store=tmp_path / "parts.zarr")
    summed = ik.sum_over_windows(parts, [ik.Window(0, run.steps)])
    np.testing.assert_allclose(summed.influence, ik.estimate(run).influence, rtol=1e-9, atol=1e-14)


@each_device
@pytest.mark.parametrize("part", ["replay", "loo of the CNN"])
def test_the_script_is_right_on_a_device(part, device, monkeypatch):
    """`replay` says bitwise of a CPU; exact `loo` agrees with the CPU's to float32."""
    found = gpu.PARTS[part][1](gpu.Asked(device, True, gpu.time.monotonic() + 600))
    if part == "replay":
        assert all(each["gap to the update"] <= 1e-4 for each in found.values())
        assert all(each["bitwise"] for each in found.values()) or device == "cuda"
        assert all(each["distance to the run on the CPU"] < 1e-3 for each in found.values())
    else:
        assert found["retrained"] == found["train"] == 16
        assert found["difference to the CPU's, of the largest"] < 1e-2


def test_the_script_saves_after_each_part_and_goes_on_when_one_fails(tmp_path, monkeypatch):
    def broken(asked):
        raise ValueError("no such\nthing")

    saved = []
    monkeypatch.setattr(gpu, "PARTS", {"a": (1, broken), "b": (1, lambda asked: {"x": asked.device})})
    found = gpu.run(
        gpu.Asked("cpu", True, gpu.time.monotonic() + 600), ["a", "b"], lambda f: saved.append(str(f))
    )
    assert found["not done"] == {"a": "ValueError: no such"} and found["parts"] == {"b": {"x": "cpu"}}
    assert len(saved) == 2 and "'b'" not in saved[0]


def test_what_does_not_fit_into_the_minutes_is_said():
    found = gpu.run(gpu.Asked("cuda", False, gpu.time.monotonic() + 15), ["table2"], lambda f: None)
    assert "s were left, and it needs about 60" in found["not done"]["table2"]


def test_the_script_as_a_command_on_the_cpu(tmp_path):
    """Parts that need weights are tried in tests/test_benchmarks.py's way: by hand. These are quick."""
    out = tmp_path / "gpu.json"
    words = ["gpu", "--device", "cpu", "--quick", "--save", str(out)]
    done = CliRunner().invoke(
        main, [*words, "--only", "table2", "--only", "small models", "--only", "loo of ones and sevens"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert "tried on a processor" in found["machine"] and found["not done"] == {}
    lr = found["parts"]["table2"]["mnist-1v7-lr"]
    assert set(lr["cpu"]["dit"]) == set(gpu.METRICS)
    assert max(lr["largest difference of scores to the CPU's"].values()) == 0
    assert found["parts"]["loo of ones and sevens"]["retrained"] == 32


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_it_is_one_line(tmp_path):
    done = CliRunner().invoke(main, ["gpu", "--save", str(tmp_path / "gpu.json")])
    assert done.exit_code == 1 and "sees no CUDA device; --device cpu --quick" in done.output
    assert not (tmp_path / "gpu.json").exists()
