"""Threads and forked processes: results are those of calls in a row, or the call is refused by name."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import influencekit as ik
from influencekit._exclusive import exclusive

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import threads  # noqa: E402

SPEC = "mnist-1v7-lr:n_train=12:epochs=2"


def in_thread(function, *args):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result(60)


def test_four_threads_give_the_bits_of_calls_in_a_row_and_leave_the_switches():
    """A tenth of benchmarks/threads.py."""
    assert not threads.wrong(report := threads.answer(20, 4, 3))
    assert report["calls"] == 20


@pytest.fixture
def taping():
    """An open tape, and its model, optimizer and loader."""
    model, data = torch.nn.Linear(24, 2), threads._data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = torch.utils.data.TensorDataset(data.tensors[0].flatten(1), data.tensors[1])
    with ik.Tape(None, model, optimizer, loss=threads.LOSS, data=data) as tape:
        yield tape, model, optimizer, DataLoader(data, batch_size=8)


def train(tape, model, optimizer, loader, meanwhile=lambda: None):
    for _, (x, y) in tape.batches(loader):
        meanwhile()
        optimizer.zero_grad()
        threads.LOSS(model(x), y).mean().backward()
        optimizer.step()


def test_while_a_tape_is_open_other_threads_are_refused_by_name_and_its_own_is_not(taping):
    work = ik.make("workload", SPEC)
    assert ik.record(work).steps == 2  # in the thread of the tape
    for call in (lambda: ik.record(work), lambda: work.losses(work.theta0, work.test), lambda: open_tape()):
        with pytest.raises(ik.InputError, match="tape in memory is open in the thread MainThread") as told:
            in_thread(call)
        assert "\n" not in str(told.value)
    train(*taping)
    taping[0].close()
    assert in_thread(ik.record, work).steps == 2
    taping[0].open()


def open_tape():
    model = torch.nn.Linear(24, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return ik.Tape(None, model, optimizer, loss=threads.LOSS, data=threads._data()).open()


def test_a_tape_belongs_to_the_thread_whose_loop_asks_it_for_batches(taping):
    in_thread(train, *taping)
    work = ik.make("workload", SPEC)  # that thread has ended
    trains, done = threading.Event(), threading.Event()

    def meanwhile():
        trains.set()
        done.wait(60)

    thread = threading.Thread(target=train, args=[*taping, meanwhile], name="the loop")
    thread.start()
    trains.wait(60)
    with pytest.raises(ik.InputError, match="open in the thread the loop"):
        work.losses(work.theta0, work.test)
    done.set()
    thread.join()


def test_a_tape_that_was_never_closed_does_not_outlive_its_thread():
    in_thread(open_tape)
    assert ik.make("workload", SPEC).n_train == 12


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), RuntimeError()])
def test_the_turn_is_given_back_also_after_an_error(error):
    def call():
        with exclusive(), exclusive():
            if error is not None:
                raise error

    for _ in range(2):
        try:
            in_thread(call)
        except BaseException as raised:
            assert raised is error
    with exclusive():
        pass


@contextmanager
def held_by_another():
    """Within the block another thread has the turn."""
    held, done = threading.Event(), threading.Event()

    def hold():
        with exclusive():
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_ctrl_c_gets_through_to_a_thread_that_waits_for_its_turn():
    with held_by_another():
        threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt), exclusive():
            raise AssertionError("it is another's turn")
        assert time.monotonic() - began < 10
    with exclusive():
        pass


def test_a_child_that_was_forked_while_another_thread_had_the_turn_has_it():
    with held_by_another():
        child = os.fork()
        if not child:
            signal.alarm(30)
            with exclusive():
                os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


FIRST = """
import threading
import influencekit as ik
found, begin = [], threading.Barrier(4)
def call(use):
    begin.wait()
    try:
        found.append(use())
    except BaseException as error:
        found.append(repr(error))
uses = [lambda: ik.make("workload", "mnist-1v7-lr:n_train=12").n_train, lambda: ik.Tape.__name__,
        lambda: ik.spec(ik.make("estimator", "dit")), lambda: ik.trust.__name__]
threads = [threading.Thread(target=call, args=[use]) for use in uses]
[t.start() for t in threads]
[t.join() for t in threads]
print(sorted(map(str, found)))
"""


def test_the_first_use_may_be_in_several_threads():
    done = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("['12', 'Tape', 'dit', 'trust']", "")
