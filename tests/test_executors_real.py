"""Retraining on real executors whose workers are killed: processes, a dask cluster, submitit; commands."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import pytest
from helpers_cli import fails
from helpers_cli import run as command
from helpers_executors import LOOP, recorded

import influencekit as ik
from influencekit._executors import processes
from influencekit.errors import InfluenceKitError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("executors") / "run.zarr")


@pytest.fixture(scope="module")
def truth(run):
    return ik.estimate(run, estimator=LOOP).influence


@contextmanager
def killing(folder, victims):
    """Within the block each of the processes is killed once another slice is there; whom that was."""

    def watch():
        while victims and not ended.wait(0.002):
            if len(list(folder.glob("effects-*.zarr"))) > len(killed):
                os.kill(victim := victims.pop(0), signal.SIGKILL)
                killed.append(victim)

    killed, ended = [], threading.Event()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def test_a_killed_process_is_replaced_and_no_process_stays(run, truth, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_begin", dies_once)
    monkeypatch.setenv("INFLUENCEKIT_TEST_DIES", str(tmp_path / "died"))
    workers = ik.Workers("processes:1", tmp_path / "s")
    assert ik.estimate(run, estimator=LOOP, executor=workers).influence.equals(truth)
    assert (tmp_path / "died").exists() and multiprocessing.active_children() == []


def dies_once(parent):
    """In a worker, in place of its beginning: it is killed at its first slice; the next one lives."""
    mark = os.environ["INFLUENCEKIT_TEST_DIES"]
    if not os.path.exists(mark):
        os.mkdir(mark)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_pool_of_the_users_that_is_broken_says_so(run, tmp_path):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        with pytest.raises(BrokenProcessPool):
            pool.submit(os._exit, 1).result()
        with pytest.raises(InfluenceKitError, match="takes no more work .*call again with a new executor"):
            ik.estimate(run, estimator=LOOP, executor=ik.Workers(pool, tmp_path / "s"))


def test_a_dask_cluster_of_three_processes_two_of_which_are_killed(tmp_path):
    distributed = pytest.importorskip("distributed")
    run, folder = recorded(tmp_path / "run.zarr", "mnist-1v7-lr:n_train=48:epochs=2"), tmp_path / "run.slices"
    quiet = {"processes": True, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with distributed.LocalCluster(n_workers=3, **quiet) as cluster, distributed.Client(cluster) as client:
        executor = client.get_executor(pure=False, retries=3)
        with killing(folder, sorted(worker.pid for worker in cluster.workers.values())[:2]) as killed:
            found = ik.estimate(run, estimator=LOOP, executor=executor)
    assert found.influence.equals(ik.estimate(run, estimator=LOOP).influence)
    assert len(killed) == 2 and found.retrained_on.endswith("(12 slices)")


def test_submitit_by_its_name(run, truth, tmp_path):
    pytest.importorskip("submitit")
    workers = ik.Workers("submitit:cluster=debug", tmp_path / "s")
    assert ik.estimate(run, estimator=LOOP, executor=workers).influence.equals(truth)
    with pytest.raises(ik.InputError, match=r"submitit:cluster=nowhere.*nowhere"):
        ik.estimate(run, estimator=LOOP, executor="submitit:cluster=nowhere")


def test_commands_take_an_executor(recorded, tmp_path):
    pytest.importorskip("submitit")
    debug = ("--executor", "submitit:cluster=debug", "--slices", tmp_path / "s")
    asked = ("estimate", recorded, "--estimator", LOOP, "--trust", "none")
    here = command(*asked, "--out", tmp_path / "here.csv")
    there = command(*asked, *debug, "--out", tmp_path / "there.csv")
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "there.csv").read_bytes()
    assert here.output.splitlines()[:5] == there.output.splitlines()[:5]
    assert "--executor processes:4" in fails("estimate", recorded, "--slices", tmp_path / "s", code=2)
    tiny = ("compare", "mnist-1v7-lr:n_train=12:epochs=2", "--estimators", "if")
    assert "--slices DIR" in fails(*tiny, *debug[:2], code=2)
    command(*tiny, *debug)
    assert any(path.name.startswith("run-") for path in (tmp_path / "s").glob("*.zarr"))


def test_commands_say_that_nothing_was_sent(recorded, run, tmp_path):
    """`dit` and `if` do not retrain; `verify_top` and `lds` do."""
    one = ("--executor", "processes:1", "--slices", tmp_path / "s")
    line = (
        "--executor processes:1: nothing was sent: what was asked is not cut into slices, and was computed "
        "here; docs/executors.md says what is cut\n"
    )
    plain = ("estimate", recorded, "--trust", "none")
    assert command(*plain, *one).stderr == line
    assert command(*plain, "--verify-top", "2", *one).stderr == command(*plain).stderr == ""
    pair = ("compare", recorded, "--estimators", "dit", "--reference", "if")
    assert command(*pair, *one).stderr == line and command(*pair).stderr == ""
    assert "nothing was sent" not in command(*pair, "--evaluate", "lds:m=8", *one).stderr
    assert "retrained_on" not in ik.estimate(run, executor=ik.Workers("processes:1")).attrs
