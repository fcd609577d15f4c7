"""Processes that are forked or spawned: they compute as this one does and leave its recordings alone."""

import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from influencekit._trajectory.store import open_group
from influencekit._trajectory.writing import writer

SPEC = "mnist-1v7-dnn:n_train=16:epochs=2"
LOSS = torch.nn.CrossEntropyLoss(reduction="none")


def scores(seed):
    run = ik.record(ik.make("workload", SPEC, seed=seed))
    return ik.estimate(run, "test-loss", "dit", "each-epoch").influence.values.tobytes()


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_processes_of_a_pool_give_the_bits_of_this_one(how):
    expected = [scores(seed) for seed in range(2)]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(how)) as pool:
        assert list(pool.map(scores, range(2), timeout=120)) == expected


def in_child(function):
    """What a forked child says of it: "" or its error; it ends without any of the tests' own endings."""
    mine, its = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(60)
        try:
            said = f"{function() or ''}"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(its, said.encode())
        os._exit(0)
    os.close(its)
    with open(mine) as pipe:
        said = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the child hangs"
    return said


class Loop:
    """A loop that a tape records, step by step."""

    def __init__(self, path, workers=0):
        torch.manual_seed(0)
        x = torch.randn(24, 5)
        self.data = TensorDataset(x, (x[:, 0] > 0).long())
        self.model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Dropout(0.1), torch.nn.Linear(4, 2))
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.tape = ik.Tape(path, self.model, self.optimizer, loss=LOSS, data=self.data, check=1.0)
        self.loader = DataLoader(self.data, batch_size=4, shuffle=True, num_workers=workers)

    def steps(self, meanwhile=lambda number, step: None):
        for number, (_, (x, y)) in enumerate(self.tape.batches(self.loader)):
            meanwhile(number, lambda x=x, y=y: self.step(x, y))
            self.step(x, y)

    def step(self, x, y):
        self.optimizer.zero_grad()
        LOSS(self.model(x), y).mean().backward()
        self.optimizer.step()


@pytest.mark.parametrize("seconds", [0.001, 100.0])
def test_a_child_that_is_forked_while_a_tape_records_neither_writes_nor_waits(tmp_path, seconds, monkeypatch):
    monkeypatch.setattr(writer, "SECONDS", seconds)
    path, said = tmp_path / "run.zarr", []
    loop = Loop(path)

    def fork(number, step):
        if number == 3:
            before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
            said.append(in_child(step))
            said.append(in_child(loop.tape._recording.writer.opened.flush))
            said.append(in_child(lambda: loop.tape.close(SystemExit())))
            said.append(in_child(lambda: len(scores(0))))
            if seconds > 1:  # nothing else writes
                assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}

    with loop.tape:
        loop.steps(fork)
    pid = os.getpid()
    refused = f"StoreError: the process {pid} records this run, and "
    assert said[0].startswith(refused) and said[1].startswith(refused) and said[2:] == ["", "128"]
    assert "\n" not in said[0]
    assert open_group(path).attrs["status"] == "complete" and open_group(path).attrs["committed"] == 6
    assert ik.verify(loop.tape.trajectory(test=loop.data)).gap == 0


def test_workers_of_a_loader_while_a_tape_records(tmp_path):
    loop = Loop(tmp_path / "run.zarr", workers=2)
    with loop.tape:
        loop.steps()
    run = loop.tape.trajectory(test=loop.data)
    assert ik.verify(run).gap == 0 and ik.estimate(run).influence.shape == (1, 1, 24)


EXIT = """
import os, sys
sys.path.insert(0, sys.argv[1])
from test_forks import Loop
loop = Loop(sys.argv[2])
loop.tape.open()
def stop(number, step):
    if number == 4:
        {}
try:
    loop.steps(stop)
except KeyError:
    pass
"""
ENDS = {"exit": "raise KeyError", "raise": "1 / 0", "fork": "os.fork(); sys.exit()"}


@pytest.mark.parametrize("how", ENDS)
def test_what_was_handed_over_is_committed_when_the_program_ends_with_an_open_tape(tmp_path, how):
    path = tmp_path / "run.zarr"
    words = [sys.executable, "-c", EXIT.format(ENDS[how]), str(Path(__file__).parent), str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert open_group(path).attrs["committed"] == 4 and open_group(path).attrs["status"] == "recording"
    assert done.stderr.count("Traceback") == (how == "raise") and "Exception ignored" not in done.stderr


POOL = """
import multiprocessing, sys, torch
import influencekit as ik
torch.set_num_threads(2)
run = ik.record(ik.make("workload", "mnist-1v7-dnn:n_train=16:epochs=1"))
ik.estimate(run)
torch.randn(1000, 1000) @ torch.randn(1000, 1000)
context = multiprocessing.get_context("fork")
mine, its = context.Pipe(duplex=False)
child = context.Process(target=lambda: its.send(ik.estimate(run).influence.size))
child.start()
print(mine.recv() if mine.poll(60) else "hangs")
child.kill()
"""


def test_a_child_that_is_forked_after_torch_used_several_threads_does_not_wait_for_them():
    environment = os.environ | {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", POOL], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "16", done.stderr


def test_a_child_that_is_forked_after_dask_used_its_threads_reads_the_dataset():
    """dask's pool of threads is not there in the child, which waited for it."""
    import dask.array

    run = ik.record(ik.make("workload", SPEC))
    assert dask.array.ones((64, 64), chunks=8).sum().compute(scheduler="threads") == 64 * 64
    here = run.dataset.batch.values.sum()
    assert in_child(lambda: run.dataset.batch.values.sum() - here) == ""
