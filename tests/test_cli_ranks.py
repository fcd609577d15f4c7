"""estimate, started as torchrun starts it: rank 0 prints, and one rank says what went wrong."""

import os
import socket
import subprocess
import sys

import xarray as xr

import influencekit as ik
from influencekit.cli.problems import WorkloadSource
from influencekit.cli.ranks import who_ends

WORK = WorkloadSource("mnist-1v7-lr:n_train=24:epochs=2")


def port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


def started(folders, *words):
    """(exit code, stdout, stderr) of each rank; `folders`: where each one stands."""
    common = {
        **os.environ,
        "WORLD_SIZE": str(len(folders)),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": port(),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "influencekit", *words], cwd=folder, env={**common, "RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank, folder in enumerate(folders)
    ]  # fmt: skip
    found = [rank.communicate(timeout=240) for rank in ranks]
    return [(rank.returncode, *said) for rank, said in zip(ranks, found, strict=True)]


def test_two_ranks_estimate_together(tmp_path):
    run = ik.record(WORK(0), store=tmp_path / "run.zarr")
    words = ["estimate", "run.zarr", "--trust", "none", "--contributions", "c.zarr", "--out", "s.zarr"]
    first, second = started([tmp_path, tmp_path], *words)
    assert first[0] == second[0] == 0, (first, second)
    assert "most harmful" in first[1] and second[1] == ""
    scores = xr.open_zarr(tmp_path / "s.zarr").influence.squeeze().values
    expected = ik.estimate(run).influence.squeeze().values
    assert abs(scores - expected).max() < 1e-6 * abs(expected).max()
    assert xr.open_zarr(tmp_path / "c.zarr").status == "complete"


def test_a_rank_that_cannot_open_the_run_says_so_for_all(tmp_path):
    ik.record(WORK(0), store=tmp_path / "run.zarr")
    (tmp_path / "elsewhere").mkdir()
    found = started([tmp_path, tmp_path / "elsewhere"], "estimate", "run.zarr", "--trust", "none")
    said = [line for _, _, text in found for line in text.splitlines() if line.startswith("error")]
    assert len(said) == 1 and said[0].startswith("error: rank 1: no trajectory at run.zarr"), found
    assert all(code for code, *_ in found)


def test_other_commands_are_refused(tmp_path):
    ((code, out, error),) = started([tmp_path], "list")
    assert code == 0 and out  # one process is no group
    found = started([tmp_path, tmp_path], "list")
    assert [code for code, *_ in found] == [2, 2]
    assert found[0][2].startswith("error: 2 processes were started for 'list'") and found[1][2] == ""


def test_a_rank_that_torchrun_ends_says_that_another_may_have_ended(monkeypatch):
    assert who_ends(143) == ""
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert who_ends(143).startswith(": torchrun ends a rank where another one has ended") and not who_ends(
        130
    )
