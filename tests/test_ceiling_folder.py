"""The folder in which `ceiling` keeps its runs: a killed call goes on, what is of another run is refused."""

from dataclasses import replace

import pytest
import xarray as xr
from helpers_ceiling import LINEAR, SPEC

import influencekit as ik
from influencekit._verbs import repeated_effects as verb
from influencekit.errors import StoreError


@pytest.fixture(scope="module")
def run():
    return ik.record(ik.make("workload", SPEC))


def asked(run, folder=None, runs=4, **more):
    return ik.ceiling(run, runs=runs, moved=0.05, examples=5, store=folder, **more)


def test_a_killed_call_goes_on_and_more_runs_are_added(run, tmp_path, monkeypatch):
    expected = asked(run)
    retrain, count = verb._retrained, []

    def killed(*arguments):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return retrain(*arguments)

    monkeypatch.setattr(verb, "_retrained", killed)
    with pytest.raises(KeyboardInterrupt):
        asked(run, tmp_path / "kept")
    two = asked(run, tmp_path / "kept", runs=2)  # are there
    assert len(count) == 3 and two.seconds.isnull().all()
    whole = asked(run, tmp_path / "kept")
    assert len(count) == 5 and whole.seconds.isnull().values.tolist() == [True, True, False, False]
    xr.testing.assert_identical(whole.drop_vars("seconds"), expected.drop_vars("seconds"))


def test_a_folder_of_something_else_is_refused(run, tmp_path):
    folder = tmp_path / "kept"
    asked(run, folder, 2)
    asked(ik.record(run.workload, "every-k:k=2"), folder, 2)  # recorded again: the same run
    other = ik.record(ik.make("workload", SPEC, seed=1))
    for what, change in {
        "training data": lambda: asked(other, folder, 2),
        "query": lambda: asked(run, folder, 2, query="test-losses"),
        "windows": lambda: asked(run, folder, 2, windows="each-epoch"),
        "average": lambda: asked(run, folder, 2, average="after:epoch=1"),
        "other starts": lambda: ik.ceiling(run, runs=2, moved=0.01, examples=5, store=folder),
        "examples": lambda: ik.ceiling(run, runs=2, moved=0.05, examples=6, store=folder),
        "test set": lambda: asked(
            ik.record(replace(run.workload, test=run.workload.train, test_ids=None)), folder, 2
        ),
    }.items():
        with pytest.raises(StoreError, match=rf"{what}.* differ.*name a new folder") as caught:
            change()
        assert "\n" not in str(caught.value)


def test_a_folder_of_a_run_with_another_loss_or_seed_function_is_refused(run, tmp_path):
    asked(run, tmp_path / "loss", 2)
    other = replace(run.workload, loss=lambda outputs, target: (outputs - target) ** 2)
    with pytest.raises(StoreError, match="end of training differ"):
        asked(ik.record(other), tmp_path / "loss", 2)
    ik.ceiling(LINEAR, seeds=[7], examples=3, store=tmp_path / "seeds")

    def shifted(seed):
        return ik.make("workload", LINEAR, seed=seed and seed + 1)

    with pytest.raises(StoreError, match="starts otherwise"):
        ik.ceiling(shifted, seeds=[7], examples=3, store=tmp_path / "seeds")


def test_a_folder_of_a_run_with_one_other_label_is_refused_however_many_examples_there_are(tmp_path):
    """Of many examples the fingerprint reads some; the end of training knows them all."""
    workload = ik.make("workload", "mnist-1v7-lr:n_train=200:epochs=2")
    ik.ceiling(ik.record(workload), runs=2, examples=3, store=tmp_path / "kept")
    x, y = workload.train
    y = y.clone()
    y[1] = 1 - y[1]
    other = ik.record(replace(workload, train=(x, y)))
    with pytest.raises(StoreError, match="end of training differ"):
        ik.ceiling(other, runs=2, examples=3, store=tmp_path / "kept")


def test_a_damaged_piece_and_a_foreign_folder_are_refused(run, tmp_path):
    asked(run, tmp_path / "kept", 2)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="not a folder of effects"):
        asked(run, tmp_path / "foreign", 2)
    piece = tmp_path / "kept" / "moved-1.zarr" / "effects" / "c" / "0" / "0" / "0"
    piece.write_bytes(piece.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="moved-1.zarr is damaged"):
        asked(run, tmp_path / "kept", 2)
    (tmp_path / "kept" / "ceiling.json").write_text("{}")
    with pytest.raises(StoreError, match="ceiling.json is damaged"):
        asked(run, tmp_path / "kept", 2)


def test_the_pieces_of_another_folder_do_not_fit(run, tmp_path):
    asked(run, tmp_path / "kept", 2)
    ik.ceiling(run, runs=2, moved=0.01, examples=5, store=tmp_path / "other")
    (tmp_path / "kept" / "moved-1.zarr").rename(tmp_path / "spare")
    (tmp_path / "other" / "moved-1.zarr").rename(tmp_path / "kept" / "moved-1.zarr")
    with pytest.raises(StoreError, match="of another folder"):
        asked(run, tmp_path / "kept", 2)
