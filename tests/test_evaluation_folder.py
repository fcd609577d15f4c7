"""Kept retrainings: after any break the same folder and figures; nothing twice; nothing of another run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers_cli import TINY
from helpers_evaluation import called, evaluated, tiny

import influencekit as ik
from influencekit import StoreError
from influencekit._files import hold
from influencekit._sealed import sealed
from influencekit.cli.problems import WorkloadSource
from influencekit.evaluation import LDS, LeaveKOut, retraining


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(retraining, "_PIECE", 4)


@pytest.fixture
def trained(monkeypatch) -> list[int]:
    """How many sets every retraining was of, as they happen."""
    counts: list[int] = []
    real = retraining.retrained

    def counted(run, weightings, *rest):
        counts.append(len(weightings))
        return real(run, weightings, *rest)

    monkeypatch.setattr(retraining, "retrained", counted)
    return counts


def kept(folder) -> dict[str, np.ndarray]:
    """{piece: its parameters}, as plain xarray opens them."""
    return {
        p.name: xr.open_zarr(p, consolidated=False).theta.values for p in sorted(folder.glob("sets-*.zarr"))
    }


def test_a_folder_changes_no_figure_and_xarray_opens_its_pieces(tmp_path):
    run, folder = tiny(), tmp_path / "deep" / "sets"
    plain = called(run, LDS(m=10), "test-losses", "dit")
    xr.testing.assert_identical(called(run, LDS(m=10), "test-losses", "dit", folder=folder), plain)
    assert list(kept(folder)) == [f"sets-{a:06d}-{b:06d}.zarr" for a, b in ((0, 4), (4, 8), (8, 10))]
    piece = xr.open_zarr(folder / "sets-000004-000008.zarr", consolidated=False).load()
    assert piece.theta.dims == ("set", "state", "param") and piece["set"].values.tolist() == [4, 5, 6, 7]
    assert piece.train.values.tolist() == [str(i) for i in run.workload.train_ids]
    assert (piece.left_out.values == plain.left_out.values[4:8]).all()
    assert (piece.absent_start.item(), piece.absent_stop.item(), piece.step.item()) == (0, 6, 6)
    np.testing.assert_array_equal(piece.recorded[0], run.final.theta)


def test_what_is_there_is_not_retrained_for_no_query_and_no_estimator(tmp_path, trained):
    run = tiny()
    called(run, LDS(m=6), "test-loss", "dit", folder=tmp_path)
    assert trained == [4, 2]
    for query in ("test-losses", "alignment", "prediction:example=2"):
        again = called(run, LDS(m=6), query, ["if"], folder=tmp_path)
        np.testing.assert_allclose(again.lds, called(run, LDS(m=6), query, ["if"]).lds)
    assert trained == [4, 2, *[4, 2] * 3], "only the calls without a folder"
    called(run, LDS(m=3), "test-loss", "dit", folder=tmp_path)
    assert len(trained) == 8, "fewer are the first of them"


@pytest.mark.parametrize("first", [3, 4, 9])
def test_a_larger_m_adds_to_what_is_there_and_equals_all_from_scratch(first, tmp_path, trained):
    run = tiny()
    called(run, LDS(m=first), "test-losses", "dit", folder=tmp_path)
    before = sum(trained)
    grown = called(run, LDS(m=14), "test-losses", "dit", folder=tmp_path)
    assert sum(trained) - before == 14 - first
    fresh = called(run, LDS(m=14), "test-losses", "dit")
    assert grown.left_out.equals(fresh.left_out) and grown.predicted.equals(fresh.predicted)
    # other batches round otherwise; ranks of effects that are equal (one example is in no batch) may change
    np.testing.assert_allclose(grown.retrained, fresh.retrained, atol=1e-13)


def test_more_groups_add_to_leave_k_out(tmp_path, trained):
    run = tiny()
    called(run, LeaveKOut(k=(1, 2), groups=3), "test-loss", "dit", folder=tmp_path)
    grown = called(run, LeaveKOut(k=(1, 2), groups=5), "test-loss", "dit", folder=tmp_path)
    assert sum(trained) == 10
    xr.testing.assert_allclose(
        grown, called(run, LeaveKOut(k=(1, 2), groups=5), "test-loss", "dit"), rtol=1e-10
    )


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_a_call_that_is_interrupted_while_it_writes_continues_to_the_same_bits(killed, tmp_path, monkeypatch):
    run = tiny()
    whole = called(run, LDS(m=10), "test-losses", "dit", folder=tmp_path / "whole")
    real, seen = os.replace, []

    def replace(source, goal):
        seen.extend([goal] * ("sets-" in Path(goal).name))
        if len(seen) == killed + 1:
            raise KeyboardInterrupt  # the piece is written beside its place, and not yet there
        real(source, goal)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        called(run, LDS(m=10), "test-losses", "dit", folder=tmp_path / "cut")
    monkeypatch.setattr(os, "replace", real)
    assert len(kept(tmp_path / "cut")) == killed
    again = called(run, LDS(m=10), "test-losses", "dit", folder=tmp_path / "cut")
    xr.testing.assert_identical(again, whole)
    both = kept(tmp_path / "whole"), kept(tmp_path / "cut")
    assert list(both[0]) == list(both[1]) and not list((tmp_path / "cut").glob("*.partial"))
    for name in both[0]:
        np.testing.assert_array_equal(both[0][name], both[1][name])


def test_a_process_that_is_killed_leaves_whole_pieces(tmp_path):
    code = f"""
import os, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from helpers_evaluation import called, tiny
from influencekit.evaluation import LDS, retraining
retraining._PIECE = 4
real, done = os.replace, []
def replace(source, goal):
    done.extend([goal] * ("sets-" in os.path.basename(goal)))
    if len(done) == 3:
        os.kill(os.getpid(), 9)
    real(source, goal)
os.replace = replace
called(tiny(), LDS(m=10), "test-losses", "dit", folder={str(tmp_path / "cut")!r})
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert ended.returncode == -9, ended.stderr.decode()
    assert len(kept(tmp_path / "cut")) == 2 and list((tmp_path / "cut").glob("*.partial"))
    xr.testing.assert_identical(
        called(tiny(), LDS(m=10), "test-losses", "dit", folder=tmp_path / "cut"),
        called(tiny(), LDS(m=10), "test-losses", "dit"),
    )
    assert not list((tmp_path / "cut").glob("*.partial"))


def test_a_piece_that_was_deleted_is_retrained(tmp_path, trained):
    run = tiny()
    whole = called(run, LDS(m=10), "test-loss", "dit", folder=tmp_path)
    shutil.rmtree(tmp_path / "sets-000004-000008.zarr")
    xr.testing.assert_identical(called(run, LDS(m=10), "test-loss", "dit", folder=tmp_path), whole)
    assert trained == [4, 4, 2, 4]


def test_a_folder_of_0_1_0_is_recognised_and_nothing_in_it_is_retrained(tmp_path, trained):
    """tests/stores_010/retrained-lds was made by 0.1.0: lds(tiny(), "test-loss", "dit", m=3, subsets=...)."""
    shutil.copytree(Path(__file__).parent / "stores_010" / "retrained-lds", tmp_path / "lds")
    again = evaluated(tiny(), LDS(m=3), subsets=tmp_path)
    assert trained == []
    np.testing.assert_allclose(again.retrained, evaluated(tiny(), LDS(m=3)).retrained, atol=1e-13)


def test_folders_have_the_names_of_the_options_that_decide_which_models_they_hold(tmp_path):
    """As they were written, in that order: what is asked for again finds its folder."""
    specs = "lds:m=3,lds:fraction=0.5:m=3,lds:m=3:seed=2:fraction=.25:resamples=9,leave-k-out:groups=3:k=1+2"
    ik.evaluate(tiny(), f"{specs},brittleness:k=1", subsets=tmp_path)
    names = ["lds", "lds-fraction_0.5", "lds-seed_2-fraction_0.25", "leave-k-out-k_1+2"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)


# one clear line -----------------------------------------------------------------------------------------


def refused(call, *words: str) -> None:
    with pytest.raises(StoreError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and all(word in line for word in words), line


def test_retrainings_of_another_run_or_of_other_sets_are_refused(tmp_path):
    run, other = tiny(), tiny(seed=1)
    called(run, LDS(m=3), "test-loss", "dit", folder=tmp_path / "a")

    def refuses(*words, run=run, windows=None, **options):
        refused(
            lambda: called(run, LDS(**{"m": 3, **options}), "test-loss", "dit", windows, tmp_path / "a"),
            *words,
        )

    refuses("another run", "training data", "order of batches", "name a new folder", run=other)
    refuses("fraction differ", "(there 0.5, here 0.25)", fraction=0.25)
    refuses("seed differ", seed=3)
    refuses("states differ", windows=[ik.Window(0, 3)])
    refused(
        lambda: called(run, LeaveKOut(k=(1,), groups=3), "test-loss", "dit", folder=tmp_path / "a"),
        "k",
        "differ",
    )
    cropped = ik.record(WorkloadSource(TINY)(0))
    refuses("parameters", "dtype", "training examples", run=cropped)


def test_a_run_that_differs_only_in_a_label_that_the_fingerprint_does_not_see_is_refused(tmp_path):
    """The fingerprint looks at 64 examples, spread over the training set; the final parameters see all."""
    big = ik.make("workload", "mnist-1v7-lr", epochs=1, lr=0.1, setting="trained")
    inputs, labels = big.train
    changed = labels.clone()
    changed[1] = 1 - changed[1]  # every fourth is looked at, and this one is not
    run, other = ik.record(big), ik.record(ik.Workload(**{**vars_of(big), "train": (inputs, changed)}))
    assert run.attrs["fingerprint"] == other.attrs["fingerprint"], "or this test is of nothing"
    called(run, LDS(m=3), "test-loss", "dit", folder=tmp_path)
    refused(
        lambda: called(other, LDS(m=3), "test-loss", "dit", folder=tmp_path), "another run", "its parameters"
    )


def vars_of(workload: ik.Workload) -> dict[str, object]:
    import dataclasses

    return {field.name: getattr(workload, field.name) for field in dataclasses.fields(workload)}


def test_damage_is_named(tmp_path):
    run = tiny()

    def call():
        return called(run, LDS(m=8), "test-loss", "dit", folder=tmp_path / "sets")

    call()
    piece = tmp_path / "sets" / "sets-000004-000008.zarr"
    chunk = next(p for p in (piece / "theta" / "c").rglob("*") if p.is_file())
    data = chunk.read_bytes()
    chunk.write_bytes(data[: len(data) // 2])
    refused(call, str(piece), "is damaged (", "); delete it, and its sets are retrained")
    other = next(
        p for p in (tmp_path / "sets" / "sets-000000-000004.zarr" / "theta" / "c").rglob("*") if p.is_file()
    )
    chunk.write_bytes(other.read_bytes())  # a whole chunk, but of another piece
    refused(call, str(piece), "is damaged")
    chunk.unlink()
    refused(call, str(piece), "is damaged")
    shutil.rmtree(piece)
    assert call().sizes["subset"] == 8
    head = tmp_path / "sets" / "retrained.json"
    text = head.read_text()
    head.write_text(text[:50])
    refused(call, "retrained.json is damaged")
    content = {k: v for k, v in json.loads(text).items() if k != "digest"}
    head.write_text(sealed({**content, "influencekit_sets": 99}, indent=1))
    refused(call, "format differ (there 99, here 1)")
    head.unlink()
    refused(call, "is not a folder of retrained models; name a new one")


def test_a_folder_of_something_else_a_file_and_one_in_use_are_refused(tmp_path):
    run = tiny()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for name, words in (
        ("mine", "is not a folder of retrained models"),
        ("file", "file is a file: expected a folder that keeps what is done; name one, or a new path"),
        ("file/below", "file/below lies below"),
    ):
        refused(lambda name=name: called(run, LDS(m=3), folder=tmp_path / name), words)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    called(run, LDS(m=3), folder=tmp_path / "held")
    release = hold(tmp_path / "held")
    try:
        refused(
            lambda: called(run, LDS(m=3), folder=tmp_path / "held"), "is being written by another process"
        )
    finally:
        release()
    assert called(run, LDS(m=3), folder=tmp_path / "held").sizes["subset"] == 3


def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    run, real, seen = tiny(), xr.Dataset.to_zarr, []

    def full(self, *args, **named):
        seen.append(args)
        if len(seen) == 2:
            raise OSError(28, "No space left on device")
        return real(self, *args, **named)

    monkeypatch.setattr(xr.Dataset, "to_zarr", full)
    refused(
        lambda: called(run, LDS(m=8), folder=tmp_path), "No space left on device; what was kept before stays"
    )
    assert len(kept(tmp_path)) == 1 and not list(tmp_path.glob("*.partial"))


def test_retraining_that_diverges_is_said_and_not_kept(tmp_path):
    from dataclasses import replace

    from influencekit.errors import DivergedError

    run = ik.record(WorkloadSource(TINY)(0))
    wild = replace(run.workload, loss=lambda out, y: out.flatten() ** 4, optimizer=ik.SGD(lr=1e-3))
    run = ik.record(wild)
    hot = ik.Trajectory(run.group, replace(wild, optimizer=ik.SGD(lr=1e12)), None)
    with pytest.raises(DivergedError, match="gave NaN or infinity; lower the learning rate"):
        called(hot, LDS(m=3), "test-loss", ik.estimate(run), folder=tmp_path)
    assert kept(tmp_path) == {}
