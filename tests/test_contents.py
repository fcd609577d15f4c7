"""A store knows its data: any other example, frozen weight or test row is named, also if changed in place."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import zarr
from helpers_stores import changed
from helpers_tape import Examples, network, per_example
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import influencekit as ik
from influencekit._tape import fingerprint
from influencekit._trajectory.contents import compare, of_items, of_tensors

N, TEST = 300, 20


def examples(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 4, generator=generator)
    return x, (x[:, 0] > 0).long()


def workload(**changes):
    x, y = examples()
    torch.manual_seed(0)
    made = ik.Workload(
        model=nn.Linear(4, 2), loss=per_example, train=(x, y), test=(x[:TEST].clone(), y[:TEST].clone()),
        optimizer=ik.SGD(lr=0.1), batch_size=50,
    )  # fmt: skip
    return replace(made, **changes)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("contents") / "run.zarr"
    ik.record(workload(), store=path)
    return path


def taped(path, data, model=None, loss=per_example, steps=3):
    model = network(torch.float32) if model is None else model
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with ik.Tape(path, model, optimizer, loss=loss, data=data) as tape:
        for _, (x, y) in tape.batches(DataLoader(data, batch_size=100)):
            optimizer.zero_grad()
            loss(model(x), y).mean().backward()
            optimizer.step()
    return tape


def reopened(path, data, **changes):
    return ik.open(path, **{"model": network(torch.float32), "loss": per_example, "data": data, **changes})


class Fetched(Dataset):
    """The rows of tensors as somebody's own data set gives them."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


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


class Frozen(nn.Module):
    """A model with a table of which the loop reads little."""

    def __init__(self, value=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.table = nn.Linear(4, 2), nn.Embedding(3000, 4)
        nn.init.ones_(self.table.weight)
        with torch.no_grad():
            self.table.weight[1234, 1] += value
        self.table.requires_grad_(False)

    def forward(self, x):
        return self.layer(x * self.table.weight[0])


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


# changes in place ------------------------------------------------------------------------------------------


def in_place(tensor, row):
    tensor[row] = tensor[row] * 0 + 3


def through_numpy(tensor, row):
    tensor.numpy()[row] = 3


@pytest.mark.parametrize("change", [in_place, through_numpy])
@pytest.mark.parametrize("which", ["train", "test"])
@pytest.mark.parametrize("entry", [0, 1])
@pytest.mark.parametrize("kept", ["memory", "opened"])
def test_data_that_change_in_place_after_recording_are_named(tmp_path, change, which, entry, kept):
    w = workload()
    run = ik.record(w, store=None if kept == "memory" else tmp_path / "run.zarr")
    run = run if kept == "memory" else ik.open(tmp_path / "run.zarr", w)
    ik.estimate(run)
    tensor = getattr(w, which)[entry]
    before = tensor.clone()
    change(tensor, 11)
    names = {"train": "training data", "test": "test data"}
    what = f"{names[which]} changed in place .*{['inputs', 'targets'][entry]} "
    for verb in (ik.estimate, ik.compare, ik.contributions, ik.verify):
        with pytest.raises(ik.InputError, match=what):
            verb(run, *([["dit"]] if verb is ik.compare else []))
    tensor.copy_(before)
    assert np.isfinite(ik.estimate(run).influence.values).all()


def test_one_block_of_rows_is_named_as_such():
    x = torch.zeros(300, 2)
    found = compare(
        of_tensors({"0": x, "1": x}), of_tensors({"0": x, "1": x.index_fill(0, torch.tensor(9), 1)})
    )
    assert found.difference == "targets among rows 9 to 10"


def test_the_model_as_it_was_recorded_is_the_runs_own():
    model = Frozen()
    run = ik.record(workload(model=model))
    before = ik.estimate(run).influence.values
    with torch.no_grad():
        model.table.weight.mul_(2)
        model.layer.weight.zero_()
    assert np.array_equal(ik.estimate(run).influence.values, before)


@pytest.mark.parametrize("kind", [TensorDataset, Fetched])
def test_a_taped_run_whose_data_change_in_place_names_them(tmp_path, kind):
    x, y = examples()
    loss = nn.CrossEntropyLoss(weight=torch.ones(3), reduction="none")
    test = x[:5].clone(), y[:5].clone()
    taped(tmp_path / "run.zarr", kind(x, y), loss=loss)
    run = reopened(tmp_path / "run.zarr", kind(x, y), loss=loss, test=test)
    before = ik.estimate(run).influence.values
    for tensor, name in ((x, "training data"), (test[0], "test data"), (loss.weight, "tensors of the loss")):
        tensor.mul_(2)
        with pytest.raises(ik.InputError, match=f"{name} changed in place"):
            ik.estimate(run)
        tensor.div_(2)
    assert np.array_equal(ik.estimate(run).influence.values, before)


class Focal(nn.Module):
    """A loss with settings, one of them deeper, which counts its calls."""

    def __init__(self):
        super().__init__()
        self.inner = nn.CrossEntropyLoss(reduction="none")
        self.powers, self.weight, self.calls = (1.0, 2.0), torch.ones(3), 0

    def forward(self, outputs, target):
        self.calls += 1
        return self.powers[0] * self.inner(outputs, target) * self.weight[0]


@pytest.mark.parametrize("kept", ["memory", "opened", "taped"])
def test_settings_of_a_loss_that_change_after_the_first_use_are_named(tmp_path, kept):
    """Its number of calls is none, and `eval()` means nothing to it."""
    loss, (x, y) = Focal(), examples()
    if kept == "taped":
        taped(tmp_path / "run.zarr", TensorDataset(x, y), loss=loss)
        run = reopened(tmp_path / "run.zarr", TensorDataset(x, y), loss=loss, test=(x[:5], y[:5]))
    else:
        w = workload(loss=loss)
        run = ik.record(w, store=None if kept == "memory" else tmp_path / "run.zarr")
        run = run if kept == "memory" else ik.open(tmp_path / "run.zarr", w)
    before = ik.estimate(run).influence.values
    loss(torch.randn(2, 3), torch.zeros(2, dtype=torch.long)), loss.eval()
    changes = [
        (loss.inner, "label_smoothing", 0.3),
        (loss, "powers", (2.0, 2.0)),
        (loss, "weight", 2 * loss.weight),
    ]
    for owner, name, value in changes:
        was = getattr(owner, name)
        setattr(owner, name, value)
        with pytest.raises(
            ik.InputError, match=rf"the loss has changed .* its setting \S*{name} was"
        ) as error:
            ik.estimate(run)
        assert "\n" not in str(error.value)
        setattr(owner, name, was)
    assert np.array_equal(ik.estimate(run).influence.values, before)
