"""SIGKILL at random moments and chosen ones: what was committed stays, nothing is left over, no bit differs.

benchmarks/kills.py does the first 300 times.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers_cli import TINY, run

import influencekit as ik
from influencekit._executors import processes
from influencekit._files import hold, is_held
from influencekit._training.step import Step
from influencekit._trajectory.store import open_group
from influencekit.cli import cli
from influencekit.testing import tiny_workload

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks is not installed
from benchmarks import kills  # noqa: E402
from benchmarks.shared.kill_runs import unlike  # noqa: E402
from benchmarks.shared.killing import left_over, live  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*was cut off")
SOME = {
    "record every-k:k=7 adam": 2, "tape every-k:k=7": 2, "tape stream": 1, "tape loader workers": 1,
    "estimate --out nc": 2, "compare --subsets": 1, "reproduce": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", SOME)
def test_what_is_killed_loses_nothing_and_is_continued_to_the_same_bits(tmp_path, name):
    if name.startswith("reproduce"):
        pytest.importorskip("influencekit_paper")
    tally = kills.campaign(name, SOME[name], tmp_path, seed=len(name), rehearse=False)
    assert tally.kills >= SOME[name] and tally.continued
    assert kills.wrong({"campaigns": [tally.__dict__]}) == []


WORKLOAD = tiny_workload(ik.Adam(lr=0.05), dtype=torch.float32)


def recorded(path):
    ik.record(WORKLOAD, "every-k:k=2", path, resume=True)


def finished(folder):
    path = folder / "run.zarr"
    if not path.exists() or open_group(path).attrs["status"] != "complete":
        recorded(path)


def killed_at_changes(tmp_path, make, given=lambda folder: None, least=10, most=8):
    """`make(folder)`, killed before a change of a file, and called again: all end alike. `given`: before.

    `most` of the changes, from the first to the last; of the last ones, each.
    """

    def child(folder, change=None):
        if not folder.exists():
            folder.mkdir()
            given(folder)
        return live(lambda tell: make(folder), tmp_path / "log", change=change)

    whole = child(tmp_path / "whole")
    assert whole.code == 0 and whole.changes >= least, whole.text
    last = range(max(1, whole.changes - most // 3), whole.changes + 1)
    for change in sorted({*range(1, whole.changes, -(-whole.changes // most)), *last}):
        folder = tmp_path / str(change)
        assert child(folder, change).code == -signal.SIGKILL
        life = child(folder)
        assert "Traceback" not in life.text and (life.code == 0 or "exists already" in life.text), life.text
        assert unlike(folder, tmp_path / "whole") == [] and left_over(folder) == [], change
        shutil.rmtree(folder)


def test_a_recording_killed_before_changes_of_files(tmp_path):
    """Making the store, publishing it, every commit, and the last one that closes it."""
    killed_at_changes(tmp_path, finished, least=40)


def test_a_resume_killed_before_changes_of_files(tmp_path):
    advance = Step.advance

    def cut(self, state):
        if state.step == 3:
            raise KeyboardInterrupt
        return advance(self, state)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Step, "advance", cut)
        recorded(tmp_path / "cut.zarr")
    assert open_group(tmp_path / "cut.zarr").attrs["status"] == "recording"

    def given(folder):
        shutil.copytree(tmp_path / "cut.zarr", folder / "run.zarr")

    killed_at_changes(tmp_path, finished, given, least=15)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("given") / "run.zarr"
    run("record", TINY, "--store", path)
    return path


def test_scores_killed_before_changes_of_files(tmp_path, store):
    words = ("estimate", str(store), "--trust", "none", "--device", "cpu", "--out")

    def estimate(folder):
        cli.main([*words, str(folder / "scores.csv")], prog_name="influencekit")

    killed_at_changes(tmp_path, estimate, least=3)


def test_a_worker_that_outlives_a_killed_process_keeps_no_lock(tmp_path):
    reads, writes = os.pipe()
    if not (writer := os.fork()):
        release = hold(tmp_path)
        if not os.fork():  # the worker, which says so when it runs
            os.write(writes, os.getpid().to_bytes(8, "little"))
        time.sleep(60)
        release()
        os._exit(0)
    worker = int.from_bytes(os.read(reads, 8), "little")
    assert is_held(tmp_path)
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    try:
        os.kill(worker, 0)  # it is there
        assert not is_held(tmp_path)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_worker_of_reproduce_ends_with_its_parent(tmp_path):
    def parent(tell):
        me = os.getpid()
        if not os.fork():
            processes._begin(me)
            time.sleep(60)
            os._exit(0)
        time.sleep(0.3)
        os.kill(me, signal.SIGKILL)

    assert live(parent, tmp_path / "log", patience=5).orphans == []
