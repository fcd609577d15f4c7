"""Retraining on executors gives what one process gives, whoever works, in whatever order, how often."""

import json
from concurrent.futures import Future

import numpy as np
import pytest
import torch
from helpers_executors import LOOP, SPEC, Later, Losing, Now, parts, recorded, taped
from hypothesis import given, settings
from hypothesis import strategies as st

import influencekit as ik
from influencekit._executors import slices
from influencekit._executors.machine import this_machine
from influencekit.errors import InfluenceKitError, InputError, StoreError
from influencekit.queries import FixedVector


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("executors") / "run.zarr")


@pytest.fixture(scope="module")
def truth(run):
    return ik.estimate(run, estimator=LOOP).influence


def slices_in(folder):
    return sorted(path.name for path in folder.glob("*.zarr"))


# the law ------------------------------------------------------------------------------------------------


@settings(max_examples=6)
@given(order=st.permutations(range(3)), times=st.integers(1, 3))
def test_any_order_and_any_number_of_answers_give_the_bits_of_one_process(
    run, truth, tmp_path_factory, order, times
):
    workers = ik.Workers(Later(lambda count: order, times), tmp_path_factory.mktemp("slices"))
    assert ik.estimate(run, estimator=LOOP, executor=workers).influence.equals(truth)


@pytest.mark.parametrize("removal", ["window", "occurrence"])
def test_windows_and_examples_are_cut_as_one_process_trains_them(run, tmp_path, removal):
    given = {"estimator": "loo:examples=9", "windows": "each-epoch", "removal": removal}
    found = ik.estimate(run, **given, executor=ik.Workers(Now(), tmp_path / "s"))
    assert found.influence.equals(ik.estimate(run, **given).influence)


def equal(call, executor=None):
    here, there = call(None), call(executor or Now())
    for name in here.variables:
        if "seconds" not in name:
            assert here[name].equals(there[name]), name
    assert set(here.variables) == set(there.variables)
    return here, there


def test_ceilings_removals_verified_and_expected_effects(run, tmp_path):
    folder = tmp_path / "s"
    ids = run.workload.train_ids[:4] if run.workload.train_ids else list(range(4))
    calls = {
        "run": lambda e: ik.ceiling(run, runs=3, moved=0.01, executor=e),
        "removed": lambda e: ik.remove(run, ids=ids, estimator="if", runs=3, executor=e),
        "repeated": lambda e: ik.estimate(run, estimator="expected-loo:runs=3", executor=e),
        "effects": lambda e: ik.verify_top(run, estimator="if", top=3, executor=e),
    }
    for what, call in calls.items():
        equal(call, ik.Workers(Now(), folder))
        assert any(name.startswith(f"{what}-") for name in slices_in(folder)), what


def test_sets_of_evaluations_with_and_without_a_folder_of_models(run, tmp_path):
    spec = "lds:m=12:strategy=loop"
    here = ik.evaluate(run, spec, estimators=["if"])[spec]
    for subsets in (None, tmp_path / "subsets"):
        now = Now()
        workers = ik.Workers(now, tmp_path / f"s-{subsets is None}")
        there = ik.evaluate(run, spec, estimators=["if"], subsets=subsets, executor=workers)[spec]
        assert there.equals(here) and now.calls == 3
    assert len(list((tmp_path / "subsets").rglob("sets-*.zarr"))) == 3


def test_seeds_of_a_comparison(tmp_path):
    heard = []

    def call(spec, executor):
        return ik.compare(
            spec, ["if"], seeds=(0, 1), ceiling=0.01, runs=2, cross_seed=True, executor=executor,
            each=lambda seed, run, scores: heard.append((seed, scores)),
        )  # fmt: skip

    for spec in (SPEC, f"{SPEC}:data_seed=0"):  # other examples by seed, and the same ones
        here, there = equal(lambda e, spec=spec: call(spec, e and ik.Workers(e, tmp_path / "s")))
        assert there.attrs.pop("retrained_on").endswith("(2 slices)")
        assert there.attrs == here.attrs
        assert [seed for seed, _ in heard] == [0, 1, 0, 1]
        assert heard[0][1].equals(heard[2][1]) and heard[1][1].equals(heard[3][1])
        heard.clear()


# what is kept -------------------------------------------------------------------------------------------


def test_slices_are_kept_beside_the_run_and_listed_in_a_manifest(tmp_path):
    run, now = recorded(tmp_path / "run.zarr"), Now()
    first = ik.estimate(run, estimator=LOOP, executor=now)
    assert now.calls == 3 and first.retrained_on == f"{this_machine()} (3 slices)"
    (manifest,) = (tmp_path / "run.slices").glob("manifest-*.json")
    named = json.loads(manifest.read_text())["slices"]
    assert sorted(f"{name}.zarr" for name in named) == slices_in(tmp_path / "run.slices")
    assert ik.estimate(run, estimator=LOOP, executor=now).equals(first) and now.calls == 3


def test_a_lost_worker_is_replaced_and_after_four_the_next_call_goes_on(run, truth, tmp_path):
    workers = ik.Workers(Losing(3), tmp_path / "a")
    assert ik.estimate(run, estimator=LOOP, executor=workers).influence.equals(truth)
    with pytest.raises(
        InfluenceKitError, match=r"4 workers in a row were lost \(OSError: the machine is gone"
    ):
        ik.estimate(run, estimator=LOOP, executor=ik.Workers(Losing(99), tmp_path / "b"))

    class Ending(Now):
        def submit(self, *args):
            if self.calls == 2:
                raise RuntimeError("no more")
            return super().submit(*args)

    with pytest.raises(InfluenceKitError, match=r"takes no more work .*no more.*call again with a new"):
        ik.estimate(run, estimator=LOOP, executor=ik.Workers(Ending(), tmp_path / "b"))
    now = Now()
    found = ik.estimate(run, estimator=LOOP, executor=ik.Workers(now, tmp_path / "b"))
    assert now.calls == 1 and found.influence.equals(truth)


def test_ctrl_c_cancels_what_waits_and_keeps_what_is_done(run, tmp_path):
    cancelled = []

    class Stopped(Later):
        def submit(self, *args):
            future = super().submit(*args)
            future.cancel = lambda: cancelled.append(future)
            return future

        def work(self):
            future, function, args = self.waiting[0]
            function(*args)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stop:
        ik.estimate(run, estimator=LOOP, executor=ik.Workers(Stopped(), tmp_path / "s"))
    assert "the same call continues" in stop.value.__notes__[0] and len(cancelled) == 3
    now = Now()
    ik.estimate(run, estimator=LOOP, executor=ik.Workers(now, tmp_path / "s"))
    assert now.calls == 2


def test_other_numbers_behind_the_same_name_are_other_slices(run, tmp_path):
    now = Now()
    workers = ik.Workers(now, tmp_path / "s")
    for scale in (1.0, 2.0):  # both are called vector:vector=<Tensor>
        query = FixedVector(scale * torch.ones(run.workload.n_params))
        found = ik.estimate(run, query, LOOP, executor=workers).influence
        assert found.equals(ik.estimate(run, query, LOOP).influence)
    assert now.calls == 6


def test_a_changed_slice_is_refused_and_so_is_a_folder_of_something_else(run, tmp_path):
    folder = tmp_path / "s"
    ik.estimate(run, estimator=LOOP, executor=ik.Workers(Now(), folder))
    chunk = next(path for path in (folder / slices_in(folder)[0]).rglob("c/*/*/*"))
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="is damaged .*delete it, and it is done again"):
        ik.estimate(run, estimator=LOOP, executor=ik.Workers(Now(), folder))
    (tmp_path / "other" / "notes").mkdir(parents=True)
    with pytest.raises(StoreError, match="is not a folder of slices; name a new one"):
        ik.estimate(run, estimator=LOOP, executor=ik.Workers(Now(), tmp_path / "other"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="file is a file: expected a folder that keeps what is done"):
        ik.estimate(run, estimator=LOOP, executor=ik.Workers(Now(), tmp_path / "file"))


def test_another_machine_says_so(run, truth, tmp_path, monkeypatch):
    names = iter(["A", "A", "B"])
    monkeypatch.setattr(slices, "this_machine", lambda device: next(names))
    found = ik.estimate(run, estimator=LOOP, executor=ik.Workers(Now(), tmp_path / "s"))
    assert found.retrained_on == "A (2 slices); B (1 slice)"
    assert found.caution.startswith("retrained on A (2 slices); B (1 slice); this machine is ")
    assert found.influence.equals(truth)


# how a worker gets the run ------------------------------------------------------------------------------


def test_a_run_in_memory_is_refused_without_a_folder_and_written_to_one(truth, tmp_path):
    run = ik.record(ik.make("workload", SPEC))
    with pytest.raises(InputError, match="the run is in memory.*folder=.*--slices DIR, or record"):
        ik.estimate(run, estimator=LOOP, executor=Now())
    found = ik.estimate(run, estimator=LOOP, executor=ik.Workers(Now(), tmp_path / "s"))
    assert found.influence.equals(truth)
    assert any(name.startswith("run-") for name in slices_in(tmp_path / "s"))


def test_a_taped_run_needs_a_function_that_makes_its_parts(tmp_path):
    run = taped(tmp_path / "run.zarr")
    with pytest.raises(InputError, match="needs the model, loss and data of this taped run.*opens="):
        ik.estimate(run, estimator=LOOP, executor=Now())
    found = ik.estimate(run, estimator=LOOP, executor=ik.Workers(Now(), opens=parts))
    assert found.influence.equals(ik.estimate(run, estimator=LOOP).influence)
    run = taped(tmp_path / "another.zarr")  # which no worker has opened yet
    wrong = ik.Workers(Now(), opens=lambda: {**parts(), "test": None})
    with pytest.raises(InputError, match="what a worker opens is another run.* or has another test set"):
        ik.estimate(run, "prediction:example=0", LOOP, executor=wrong)


def test_averages_of_states_go_along(run, tmp_path):
    given = {"estimator": LOOP, "average": "ema:decay=0.5"}
    found = ik.estimate(run, **given, executor=ik.Workers(Now(), tmp_path / "s"))
    assert found.influence.equals(ik.estimate(run, **given).influence)


def test_an_error_in_a_worker_is_the_error_of_the_call(run, tmp_path, monkeypatch):
    def fails(*args, **options):
        raise TypeError("of the user's own loss")

    monkeypatch.setattr("influencekit._effects.sliced._summed", fails)
    with pytest.raises(InfluenceKitError, match="a worker failed on .*TypeError: of the user's own loss"):
        ik.estimate(run, estimator=LOOP, executor=ik.Workers(Now(), tmp_path / "s"))


# what is no executor ------------------------------------------------------------------------------------


def test_what_is_no_executor_is_refused(run, tmp_path):
    for wrong, words in {
        "threads:2": r"no executor 'threads'; write one of: processes:4, dask:.*, submitit:",
        "processes:many": "expected a number of processes",
        "dask": "needs the address of a scheduler",
        "dask:nowhere.json": "there is no file nowhere.json; `dask scheduler --scheduler-file nowhere.json`",
        "submitit:x": "expected submitit:KEY=VALUE",
        3: "expected processes:4, dask:ADDRESS, .* or an object with submit, got 3",
    }.items():
        with pytest.raises(InputError, match=words):
            ik.estimate(run, estimator=LOOP, executor=wrong)

    class Mute:
        def submit(self, *args):
            return 1

    with pytest.raises(InputError, match=r"submit must give a future \(done, result, cancel\), got 1"):
        ik.estimate(run, estimator=LOOP, executor=ik.Workers(Mute(), tmp_path / "s"))


def test_threads_of_this_process_are_refused_instead_of_waiting_forever(run, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool, pytest.raises(InputError, match="threads of the process that asks"):
        ik.estimate(run, estimator=LOOP, executor=ik.Workers(pool, tmp_path / "s"))


def test_what_cannot_be_pickled_is_one_line(run, tmp_path):
    lost = Losing(1, AttributeError("Can't pickle local object 'main.<locals>.loss'"))
    with pytest.raises(InputError, match=r"cannot be pickled \(.*<locals>.loss'\): define it at the top"):
        ik.estimate(run, estimator=LOOP, executor=ik.Workers(lost, tmp_path / "s"))


@pytest.mark.parametrize("value", [42, {"wrong": 1}])
def test_a_future_that_gives_another_object_is_refused(run, tmp_path, value):
    class Wrong:
        def submit(self, *args):
            future = Future()
            future.set_result(value)
            return future

    with pytest.raises(InputError, match=r"a future gave .*, which is not what the function gave that was"):
        ik.estimate(run, estimator=LOOP, executor=ik.Workers(Wrong(), tmp_path / "s"))


def test_estimators_that_retrain_nothing_need_no_executor(run):
    class Never:
        def submit(self, *args):
            raise AssertionError

    found = ik.estimate(run, estimator="if", executor=Never())
    assert "retrained_on" not in found.attrs and np.isfinite(found.influence).all()
