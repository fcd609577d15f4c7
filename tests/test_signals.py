"""Signals: what was handed over is committed, a command ends with one line and the exit code of the first."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from influencekit._signals import deferred

HELPERS = Path(__file__).parent / "helpers_signals.py"


def lives(folder, seed, count, cases):
    done = subprocess.run(
        [sys.executable, HELPERS, folder, str(seed), str(count), cases], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_no_step_is_lost_by_one_to_three_signals_at_any_time(tmp_path):
    """20 children, and one of each kind that is left alone."""
    found = lives(tmp_path, 5, 20, "record,tape,api")
    assert not [f"{one['wrong']} of {one}" for one in found if one["wrong"]]
    cut = [one for one in found if one["signals"] and 0 < one["committed"] < 150]
    assert len(found) == 23 and len(cut) > 4 and any(len(one["signals"]) > 1 for one in cut)


def test_a_command_that_gets_signals_says_one_line(tmp_path):
    found = lives(tmp_path, 1, 4, "estimate,compare,verify,list")
    assert not [f"{one['wrong']} of {one}" for one in found if one["wrong"]]
    assert {one["stderr"].strip() for one in found} == {"", "interrupted"}


@pytest.mark.parametrize("delay", [0.1, 1.0])
def test_ctrl_c_during_imports_is_one_line(delay):
    """From the moment on at which Python runs code of ours."""
    code = "import os; from influencekit.cli import main; os.write(1, b'!'); main()"
    words = [sys.executable, "-c", code, "compare", "mnist-1v7-lr", "--estimators", "dit,loo"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.read(1)
    time.sleep(delay)
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=60)[1].strip() == b"interrupted"
    assert child.returncode == 130


def test_what_nohup_ignores_stays_ignored():
    code = "from influencekit.cli import main; main()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, "list"], stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    time.sleep(0.5)
    child.send_signal(signal.SIGHUP)
    assert child.wait(60) == 0


@pytest.fixture
def heard(monkeypatch):
    """The signals that handlers of the test's own got; that of SIGINT raises."""
    found = []

    def stop(number, frame):
        found.append(number)
        raise KeyboardInterrupt

    before = [signal.signal(signal.SIGTERM, lambda n, _: found.append(n)), signal.signal(signal.SIGINT, stop)]
    yield found
    signal.signal(signal.SIGTERM, before[0])
    signal.signal(signal.SIGINT, before[1])


def test_deferred_signals_come_once_after_the_block_and_handlers_are_back(heard):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(KeyboardInterrupt), deferred():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            with deferred():
                os.kill(os.getpid(), number)
        assert heard == []
    assert heard == [signal.SIGINT, signal.SIGTERM]
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def test_an_error_inside_comes_through_with_the_signal_behind_it(heard):
    @deferred()
    def call():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError

    with pytest.raises(ValueError):
        call()
    assert heard == [signal.SIGTERM]


def test_other_threads_and_ignored_signals_are_left_alone(heard):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with deferred():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    found = []

    def look():
        with deferred():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


SCRIPT = """
import signal, sys, time, torch
import influencekit as ik

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
data = torch.utils.data.TensorDataset(torch.randn(8, 2), torch.randint(2, (8,)))
model = torch.nn.Linear(2, 2)
optimizer, loss = torch.optim.SGD(model.parameters(), lr=0.1), torch.nn.CrossEntropyLoss(reduction="none")
with ik.Tape(sys.argv[1], model, optimizer, loss=loss, data=data) as tape:
    for _ in range(10_000):
        for _, (x, y) in tape.batches(torch.utils.data.DataLoader(data, batch_size=4)):
            optimizer.zero_grad()
            loss(model(x), y).mean().backward()
            optimizer.step()
            print("step", flush=True)
            time.sleep(0.01)
"""


def test_a_script_that_handles_sigterm_as_the_documentation_says_commits_all_steps(tmp_path):
    store = tmp_path / "run.zarr"
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(store)], stdout=subprocess.PIPE) as script:
        lines = [script.stdout.readline() for _ in range(10)]
        script.terminate()
        lines += script.stdout.readlines()
    committed = json.loads((store / "zarr.json").read_text())["attributes"]["committed"]
    assert (
        script.returncode == 143 and 10 <= len(lines) <= committed <= len(lines) + 1
    )  # one is not printed yet
