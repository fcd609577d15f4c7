"""A store knows its data: any other example, frozen weight or test row is named."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
import zarr
from helpers_contents import Fetched, Frozen, N, examples, reopened, taped, workload
from helpers_stores import changed
from helpers_tape import Examples, network, per_example
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import influencekit as ik
from influencekit._tape import fingerprint
from influencekit._trajectory.contents import compare, of_items, of_tensors


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("contents") / "run.zarr"
    ik.record(workload(), store=path)
    return path


changes = st.tuples(st.sampled_from(["input", "label", "order"]), st.integers(0, N - 1), st.integers(0, 3))


def one_changed(kind, row, column):
    """The examples with one of them changed, or two that change places."""
    x, y = examples()
    if kind == "input":
        x[row, column] = torch.nextafter(x[row, column], torch.tensor(9.0))
    elif kind == "label":
        y[row] = 1 - y[row]
    else:
        both = [row, (row + 1 + column) % N]
        x[both], y[both] = x[both[::-1]], y[both[::-1]]
    return x, y


# training data ---------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(changes)
def test_a_run_is_not_opened_with_a_single_other_example(store, change):
    with pytest.raises(ik.StoreError, match="not a run of this workload: training data differ") as error:
        ik.open(store, workload(train=one_changed(*change)))
    what = {"input": ["inputs"], "label": ["targets"], "order": ["inputs"]}[change[0]]
    assert all(word in str(error.value) for word in what) and "\n" not in str(error.value)


@settings(max_examples=25, deadline=None)
@given(changes, st.sampled_from([TensorDataset, Fetched, lambda *x: x]))
def test_nor_is_a_taped_one(taped_store, change, kind):
    with pytest.raises(ik.StoreError, match=r"other training data .*(inputs|targets) .*rows? \d+"):
        reopened(taped_store, kind(*one_changed(*change)))


@pytest.fixture(scope="module")
def taped_store(tmp_path_factory):
    path = tmp_path_factory.mktemp("taped-contents") / "run.zarr"
    taped(path, TensorDataset(*examples()))
    return path


def test_the_rows_that_differ_are_named(store):
    x, y = examples()
    y[200:] = 1 - y[200:]
    with pytest.raises(
        ik.StoreError, match=r"targets of 43 of 128 blocks of rows, first among rows 199 to 20"
    ):
        ik.open(store, workload(train=(x, y)))


def test_the_same_examples_are_the_same_in_whatever_data_set(taped_store):
    x, y = examples()
    back = torch.arange(N - 1, -1, -1)
    for data in (
        TensorDataset(x, y),
        Fetched(x, y),
        Subset(TensorDataset(x.flip(0), y.flip(0)), back),
        Subset(Subset(TensorDataset(x.flip(0), y.flip(0)), back.tolist()), range(N)),
        (x, y),
    ):
        run = reopened(taped_store, data)
        assert run.attrs["examples_compared"] == N


def test_every_example_is_compared_and_the_run_says_so(store):
    assert ik.open(store, workload()).attrs["examples_compared"] == N


def test_of_an_old_store_a_sample_is_compared_and_the_run_says_so(store, tmp_path):
    path = tmp_path / "old.zarr"
    ik.record(workload(), store=path)
    changed(path, contents=None)
    run = ik.open(path, workload())
    assert run.attrs["examples_compared"] == 75  # of 300, every fourth
    assert np.isfinite(ik.estimate(run).influence.values).all()


def test_examples_that_take_long_to_fetch_are_hashed_for_two_seconds(tmp_path, monkeypatch):
    """Here for 0.02 seconds: some are hashed, evenly spread, and another time the same ones are compared."""
    monkeypatch.setattr(fingerprint, "_SECONDS", 0.02)

    class Slow(Fetched):
        def __getitem__(self, i):
            torch.linalg.svd(torch.ones(60, 60))
            return super().__getitem__(i)

    path = tmp_path / "run.zarr"
    taped(path, Slow(*examples()))
    hashed = zarr.open_group(path, mode="r").attrs["contents"]["training data"]
    assert 1 <= hashed["hashed"] < N and hashed["examples"] == N
    run = reopened(path, Fetched(*examples()))
    assert 1 <= run.attrs["examples_compared"] <= hashed["hashed"]
    x, y = examples()
    with pytest.raises(ik.StoreError, match="other training data"):
        reopened(path, Fetched(x, 1 - y))


def test_time_that_runs_out_leaves_blocks_that_are_spread_over_the_data():
    def fetch(rows):
        seen.extend(rows)
        return rows

    seen = []
    whole = of_items(fetch, 1000, 1000, 60.0, nullcontext)
    assert sorted(seen) == list(range(1000))
    seen.clear()
    part = of_items(fetch, 1000, 1000, 0.0, nullcontext)
    assert 1 <= compare(whole, part).examples == len(seen) < 1000 and not compare(whole, part).difference


def test_augmentation_is_drawn_from_a_fixed_seed(tmp_path):
    path, data = tmp_path / "run.zarr", Examples(noisy=True)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ik.Tape(path, model, optimizer, loss=per_example, data=data) as tape:
        for _, (x, y) in tape.batches(DataLoader(data, batch_size=4)):
            optimizer.zero_grad()
            per_example(model(x), y).mean().backward()
            optimizer.step()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    run = ik.open(path, model=network(), loss=per_example, data=Examples(noisy=True))
    assert torch.equal(torch.get_rng_state(), state) and run.attrs["examples_compared"] == len(data)


def picked(x, rows):
    return [x[i] for i in rows]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), max_size=3), min_size=1, max_size=5),
    st.lists(st.lists(st.integers(0, 2), max_size=3), min_size=1, max_size=5),
)
def test_examples_of_any_length_have_one_digest_each(a, b):
    """Examples of several lengths do not run together: [1, 2], [] is not [1], [2]."""
    forms = [
        lambda rows: [{"text": "".join(map(str, row)), "n": len(row)} for row in rows],
        lambda rows: [(torch.tensor(row), 0) for row in rows],
        lambda rows: [np.array(row, dtype=np.int64) for row in rows],
        lambda rows: [(list(row),) for row in rows],
        lambda rows: [{str(k): 1 for k in row} or {"none": 1} for row in rows],
    ]
    for k, form in enumerate(forms):
        one, other = (of_items(partial(picked, form(x)), len(x), len(x), 60.0, nullcontext) for x in (a, b))
        alike = a == b if k < 4 else [set(x) for x in a] == [set(x) for x in b]
        assert (one == other) == alike


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int16, torch.complex64])
def test_rows_of_a_tensor_are_what_its_items_are(dtype):
    for shape in ((7,), (7, 3), (7, 2, 0), (1, 5), (300, 2)):
        x = torch.randn(shape).to(dtype)
        for each in (x, x.flip(0), x[::1], x.expand(shape)):
            rows = of_tensors({"0": each})
            assert rows == of_items(partial(picked, each), len(x), len(x), 60.0, nullcontext)


# what is not trained, and the test set ---------------------------------------------------------------------


def test_every_entry_of_frozen_parameters_counts(tmp_path):
    x, y = examples()
    path, data = tmp_path / "taped.zarr", TensorDataset(x, y)
    taped(path, data, Frozen())
    reopened(path, data, model=Frozen())
    with pytest.raises(ik.StoreError, match="frozen parameters or constant buffers"):
        reopened(path, data, model=Frozen(1e-3))
    ik.record(workload(model=Frozen()), store=tmp_path / "run.zarr")
    ik.open(tmp_path / "run.zarr", workload(model=Frozen()))
    with pytest.raises(ik.StoreError, match="frozen parameters and constant buffers differ"):
        ik.open(tmp_path / "run.zarr", workload(model=Frozen(1e-3)))


def test_weights_of_classes_in_the_loss_count(tmp_path):
    x, y = examples()

    def weighted(value):
        return nn.CrossEntropyLoss(weight=torch.tensor([1.0, value, 1.0]), reduction="none")

    path, data = tmp_path / "taped.zarr", TensorDataset(x, torch.zeros_like(y))
    taped(path, data, loss=weighted(2.0))  # of a class that no example has
    reopened(path, data, loss=weighted(2.0))
    with pytest.raises(ik.StoreError, match="weights of classes, are not those of the run"):
        reopened(path, data, loss=weighted(3.0))


def test_what_of_the_test_set_changed_is_said(store):
    w = workload()
    x, y = (each.clone() for each in w.test)
    y[[3, 7]] = 1 - y[[3, 7]]
    other = workload(test=(x, y))
    with pytest.warns(
        UserWarning, match="test set is not that of the recording: targets of 2 rows, first of row 3"
    ):
        run = ik.open(store, other)
    assert run.attrs["accuracy"] == other.accuracy(run.final.theta) != ik.open(store, w).attrs["accuracy"]
    assert "targets of 2 rows" in ik.estimate(run).attrs["caution"]
    with pytest.warns(UserWarning, match="19 examples, not 20"):
        ik.open(store, workload(test=(x[1:], y[1:])))
    assert "caution" not in ik.estimate(ik.open(store, w)).attrs
