"""A workload is data: batches in three forms, one flattening order, one plan; and what it refuses."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import influencekit as ik
from influencekit import SGD, AdamW, Constant, Cosine, Factors, Group, InputError, InverseSqrt, Workload
from influencekit._training.batch import select, tensors_of
from influencekit.testing import tiny_workload


def problem(n=6, **options):
    x = torch.arange(n * 2, dtype=torch.float32).reshape(n, 2)
    data = (x, x.sum(1))
    settings = {"model": nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), "loss": nn.MSELoss(reduction="none")}
    settings |= {"train": data, "test": data, "optimizer": SGD(lr=0.1), "batch_size": 2}
    return Workload(**settings | options)


# the model as a function --------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", ["tuple", "dict", "tensor"])
def test_outputs_and_losses_are_the_modules(batches):
    w = tiny_workload(batches=batches, classes=2)
    x, y = {
        "tuple": lambda: w.train,
        "dict": lambda: (w.train["x"], w.train["labels"]),
        "tensor": lambda: (w.train, w.train),
    }[batches]()
    torch.testing.assert_close(w.outputs(w.theta0, w.train), w.model(x).detach(), rtol=0, atol=0)
    torch.testing.assert_close(w.losses(w.theta0, w.train), w.loss(w.model(x), y).detach(), rtol=0, atol=0)


def test_several_inputs_go_before_the_target():
    class Two(nn.Linear):
        def forward(self, a, b):
            return super().forward(a * b).squeeze(-1)

    a, b, y = torch.rand(4, 3), torch.rand(4, 3), torch.rand(4)
    w = problem(model=Two(3, 1), train=(a, b, y), test=(a, b, y))
    torch.testing.assert_close(w.losses(w.theta0, w.train), (w.model(a, b).detach() - y) ** 2)


def test_a_dict_may_name_its_target():
    w = tiny_workload(batches="dict")
    train, test = ({"x": d["x"], "y": d["labels"]} for d in (w.train, w.test))
    named = replace(w, train=train, test=test, target_key="y")
    assert torch.equal(named.losses(w.theta0, train), w.losses(w.theta0, w.train))
    with pytest.raises(InputError, match="no entry 'labels' for the target; it has x, y"):
        replace(w, train=train)


def test_theta_is_the_trainable_parameters_in_their_order_tied_ones_once():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1), nn.Flatten(0))
    model[2].weight = model[1].weight
    model[0].bias.requires_grad_(False)
    w = problem(model=model)
    expected = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
    assert torch.equal(w.theta0, expected) and w.n_params == len(expected)
    assert torch.equal(w.outputs(w.theta0, w.train), model(w.train[0]))


@given(st.data())
@settings(max_examples=30)
def test_find_is_the_position_in_theta(data):
    layout = tiny_workload().layout
    theta = torch.arange(layout.size)
    name = data.draw(st.sampled_from(layout.names))
    part = layout.split(theta)[name]
    index = tuple(data.draw(st.integers(0, n - 1)) for n in part.shape)
    assert layout.find(name, index) == part[index]
    assert torch.equal(layout.join(layout.split(theta)), theta)


def test_the_model_is_copied_and_never_modified():
    model = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    before = [p.detach().clone() for p in model.parameters()]
    w = problem(model=model)
    assert w.model is not model and w.model is not replace(w, seed=1).model
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(w.theta0, torch.cat([p.flatten() for p in before]))


def test_to_another_dtype_moves_floats_only():
    w = tiny_workload(classes=3).to(dtype=torch.float32)
    assert (w.dtype, w.train[0].dtype, w.train[1].dtype) == (torch.float32, torch.float32, torch.int64)
    assert torch.equal(w.plan.indices, tiny_workload(classes=3).plan.indices)


@pytest.mark.parametrize(
    ("classes", "batches"), [(2, "tuple"), (2, "dict"), (3, "tuple"), (3, "dict"), (2, "tensor")]
)
def test_accuracy_is_the_share_of_right_classes(classes, batches):
    w = tiny_workload(classes=classes, batches=batches)
    outputs = w.outputs(w.theta0, w.test)
    if batches == "tensor":
        assert w.accuracy(w.theta0) != w.accuracy(w.theta0)  # NaN: a regression has none
        return
    y = w.target(w.test)
    guess = [int(o > 0) if classes == 2 else max(range(3), key=o.tolist().__getitem__) for o in outputs]
    right = sum(g == int(t) for g, t in zip(guess, y.tolist(), strict=True))
    assert w.accuracy(w.theta0) == pytest.approx(right / 5, abs=1e-12)


# the plan -----------------------------------------------------------------------------------------------


@given(
    n=st.integers(2, 30),
    b=st.integers(2, 8),
    epochs=st.integers(1, 4),
    drop=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_epoch_visits_every_example_once(n, b, epochs, drop, seed):
    if (drop and n < b) or (not drop and n % b == 1):
        return  # no batch at all, or a batch of one: refused, below
    plan = problem(n, batch_size=b, epochs=epochs, drop_last=drop, seed=seed).plan
    per_epoch = n // b if drop else -(-n // b)
    assert plan.steps == epochs * per_epoch and plan.indices.shape[1] == b
    for e in range(epochs):
        rows = [plan.batch(t).tolist() for t in range(plan.steps) if plan.epoch[t] == e]
        visited = [i for row in rows for i in row]
        assert len(set(visited)) == len(visited) == (per_epoch * b if drop else n)
        assert all(len(row) == b for row in rows[:-1])


def test_the_seed_decides_the_order_and_nothing_else():
    a, b, c = (problem(seed=s, epochs=3).plan.indices for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    w = problem(seed=7)
    first = torch.get_rng_state()
    _ = w.plan
    assert torch.equal(first, torch.get_rng_state())


def test_without_shuffling_examples_come_in_their_order():
    assert problem(shuffle=False).plan.indices.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_learning_rates_are_those_of_each_group_times_the_schedule():
    groups = (Group(("0.bias",), {"lr": 0.5}),)
    plan = problem(optimizer=AdamW(lr=0.1, groups=groups), schedule=InverseSqrt(), epochs=2).plan
    expected = torch.tensor(
        [[0.1 / (t + 1) ** 0.5, 0.5 / (t + 1) ** 0.5] for t in range(6)], dtype=torch.float64
    )
    torch.testing.assert_close(plan.lr, expected, rtol=1e-15, atol=0)
    assert plan.lrs(3) == plan.lr[3].tolist()


@given(st.integers(1, 200))
def test_schedules(steps):
    assert set(Constant().factors(steps)) == {1.0}
    # the papers write the decay as a recursion: lr *= sqrt(c / (c + 1)) after step c = 1, 2, ...
    lr, seen = 1.0, []
    for c in range(1, steps + 1):
        seen.append(lr)
        lr *= (c / (c + 1)) ** 0.5
    assert InverseSqrt().factors(steps) == pytest.approx(seen, rel=1e-12)
    cosine = Cosine(warmup=3, final=0.1).factors(steps)
    assert len(cosine) == steps and all(0 < f <= 1 for f in cosine)
    assert all(a >= b for a, b in pairwise(cosine[3:])) and all(a < b for a, b in pairwise(cosine[:4]))


def test_a_listed_schedule_must_have_the_runs_length():
    assert problem(schedule=Factors((1.0, 0.5, 0.25))).plan.lr[:, 0].tolist() == [0.1, 0.05, 0.025]
    with pytest.raises(InputError, match="lists 2 factors, but the run has 3 steps"):
        _ = problem(schedule=Factors((1.0, 0.5))).plan


# batches ------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 7), min_size=1, max_size=9), st.sampled_from(["tuple", "dict", "tensor"]))
@settings(max_examples=30)
def test_select_takes_the_same_examples_from_every_tensor(rows, batches):
    batch = tiny_workload(batches=batches).train
    chosen = select(batch, torch.tensor(rows))
    assert type(chosen) is type(batch)
    for whole, part in zip(tensors_of(batch), tensors_of(chosen), strict=True):
        assert torch.equal(part, torch.stack([whole[i] for i in rows]))


# refusals -----------------------------------------------------------------------------------------------

X = torch.zeros(6, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train": (X, torch.zeros(5))}, r"train: .*same number of examples.*\(6, 2\), \(5,\)"),
        ({"test": (X[:0], torch.zeros(0))}, "test: .*at least one"),
        ({"train": (X, torch.tensor(1.0))}, "train: .*first dimension"),
        ({"train_ids": [1, 2, 3, 4, 5, 2]}, "train_ids: expected 6 different example ids; 2 appears twice"),
        ({"train_ids": list("abcde")}, "train_ids: expected 6 different example ids; got 5 ids"),
        ({"test_ids": list("aabcde")}, "test_ids: .*'a' appears twice"),
        ({"train_ids": [1, 2, 3, 4, 5, "1"]}, "train_ids: .*; 1 and '1' look the same in tables and on disk"),
        ({"train_ids": [1, 2, 3, 4, 5, 1.0]}, "1 and 1.0 look the same"),
        ({"train_ids": np.array([1, 2, 3, 4, 5, 2])}, "2 appears twice"),
        ({"train_ids": X}, r"train_ids: expected one id an example, \[6\], got an array of shape \[6, 2\]"),
        ({"train_ids": X.tolist()}, r"text or a number for each example, got \[0.0, 0.0\]"),
        ({"train_ids": [(i, 0) for i in range(6)]}, r"text or a number for each example, got \(0, 0\)"),
        ({"test_ids": 6}, "test_ids: expected a list of 6 different example ids, got 6"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "must be at least 1"),
        ({"l2": -1.0}, "l2 must be at least 0"),
    ],
)
def test_data_that_does_not_fit_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        problem(**options)


@pytest.mark.parametrize(
    "made",
    [
        tuple,
        np.array,
        torch.tensor,
        lambda ids: [torch.tensor(i) for i in ids],
        lambda ids: list(np.array(ids)),
    ],
    ids=["tuple", "numpy", "torch", "list of torch", "list of numpy"],
)
def test_ids_in_any_container_are_the_plain_ones(made):
    ids = [7, 3, 12, 1, 20, 5]
    workload = problem(train_ids=made(ids), test_ids=made(ids), loss=lambda o, y: (o - y) ** 2)
    assert workload.train_ids == workload.test_ids == ids and {type(i) for i in workload.train_ids} == {int}
    found = ik.estimate(ik.record(workload), "test-losses", "dit")
    assert found.train.values.tolist() == found["query"].values.tolist() == ids


def test_text_ids_in_an_array_are_the_plain_ones(tmp_path):
    workload = problem(train_ids=np.array(list("abcdef")))
    assert workload.train_ids == list("abcdef") and {type(i) for i in workload.train_ids} == {str}
    ik.record(workload, store=tmp_path / "run.zarr")
    assert xr.open_zarr(tmp_path / "run.zarr").train.values.tolist() == list("abcdef")


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1, [0, 0, 0, 1, 1, 1]), (2, [0, 0, 0, 1, 1, 1]), (3, [0, 0, 1, 1, 2, 2])]
)
def test_the_steps_of_an_order_are_that_many_epochs(epochs, expected):
    assert problem(order=torch.tensor([[0, 1]] * 6), epochs=epochs).plan.epoch.tolist() == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"order": torch.tensor([[0, 1]] * 6), "epochs": 4}, "order: 6 steps are not 4 equal epochs"),
        ({"batch_size": 5}, "the batch of step 1 holds only the example at position"),
        ({"batch_size": 1}, "the batch of step 0 holds only"),
        ({"batch_size": 7, "drop_last": True}, "drop_last leaves no batch: 6 examples in batches of 7"),
        ({"order": torch.tensor([[0, 6]])}, "order must be .* positions below 6"),
        ({"order": torch.tensor([[0, -2]])}, "order must be"),
        ({"order": torch.tensor([0, 1])}, "order must be"),
        ({"order": torch.tensor([[0, 1], [3, 3]])}, "step 1 holds only the example at position 3"),
    ],
)
def test_impossible_plans_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        _ = problem(**options).plan


def test_a_loss_must_give_one_value_an_example():
    with pytest.raises(
        InputError, match=r'one value per example, shape \[6\], got \[\]; use reduction="none"'
    ):
        w = problem(loss=nn.MSELoss())
        w.losses(w.theta0, w.train)


def test_a_frozen_model_is_refused():
    model = nn.Linear(2, 1).requires_grad_(False)
    with pytest.raises(InputError, match="unfreeze at least one"):
        _ = problem(model=model).theta0


def test_an_empty_batch_is_refused():
    with pytest.raises(InputError):
        _ = problem(order=torch.tensor([[0, 1], [-1, -1]])).plan
