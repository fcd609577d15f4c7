"""The built-in workloads, and what builds them: seeded disjoint draws, the paper's models and settings."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from influencekit._training.optimizers import SGD
from influencekit._training.schedules import Constant, InverseSqrt
from influencekit.errors import InputError
from influencekit.registry import BUILTINS, load, make
from influencekit.workloads import draw, mnist
from influencekit.workloads.problem import Setting, problem


def same(a, b) -> bool:
    tensors = [(a.theta0, b.theta0), *zip(a.train, b.train, strict=True), *zip(a.test, b.test, strict=True)]
    return a.train_ids == b.train_ids and all(torch.equal(x, y) for x, y in tensors)


def numbered(n: int, first: int = 0) -> draw.Part:
    """n examples, each with its own number as its only feature."""
    rows = np.arange(first, first + n)
    return draw.Part(rows[:, None], rows % 2 == 1, rows.tolist())


@cache
def numbers(data_dir: str | None = None, test: bool = False) -> draw.Pool:
    """1000 numbers, odd or even; test examples among them, or 500 of their own."""
    return draw.Pool(
        train=numbered(1000), test=numbered(500, 1000) if test else None, scale=lambda x: x,
        classes=("even", "odd"), title="numbers", licence="none needed", source="bundled",
    )  # fmt: skip


odd_lr = problem("odd-lr", numbers, paper=Setting(0.1), trained=Setting(0.2))


# --- what a workload holds


@pytest.mark.parametrize("name", BUILTINS["workload"])
def test_sizes_models_and_settings_are_the_papers(name):
    workload = load("workload", name)()
    assert (workload.n_train, workload.n_test, len(workload.validation[1])) == (256, 256, 256)
    assert (workload.epochs, workload.batch_size, workload.name) == (21, 64, name)
    assert workload.l2 == (0.0 if name.endswith("-lr") else 0.001)
    assert workload.schedule == (InverseSqrt() if name.endswith("-lr") else Constant())
    assert workload.n_params == {"lr": 785, "dnn": 8 * 784 + 89, "cnn": 20417}[name.rpartition("-")[2]]
    for x, y in (workload.train, workload.validation, workload.test):
        assert x.dtype == y.dtype == workload.dtype == torch.float32
        assert set(y.tolist()) == {0.0, 1.0}
        assert torch.isfinite(x).all()
    assert workload.outputs(workload.theta0, workload.test).shape == (256,)
    assert workload.losses(workload.theta0, workload.test).shape == (256,)
    assert workload.info["setting"] == "paper" and workload.info["data_source"] == "bundled"
    assert all(isinstance(value, str) for value in workload.info.values())


@pytest.mark.parametrize(
    "name, lr", [("mnist-1v7-lr", 0.003), ("mnist-1v7-dnn", 0.0005), ("mnist-1v7-cnn", 0.0004)]
)
def test_the_paper_setting_has_the_authors_learning_rates(name, lr):
    settings = load("workload", name).settings
    assert settings["paper"].lr == lr
    changed = {"lr": settings["trained"].lr, "epochs": settings["trained"].epochs}
    assert settings["trained"] == type(settings["paper"])(**vars(settings["paper"]) | changed)


def test_images_are_standardised_each():
    x = mnist.mnist_1v7_lr().test[0].flatten(1)
    torch.testing.assert_close(x.mean(1), torch.zeros(256), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(1, correction=0), torch.ones(256), atol=1e-5, rtol=0)


# --- seeds


def test_a_seed_decides_everything_and_two_seeds_differ():
    function = mnist.mnist_1v7_lr
    assert same(function(seed=3), function(seed=3))
    a, b = function(seed=3), function(seed=4)
    assert a.train_ids != b.train_ids and not torch.equal(a.theta0, b.theta0)
    assert not torch.equal(a.plan.indices, b.plan.indices)
    assert torch.equal(a.plan.indices, function(seed=3).plan.indices)


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_the_three_draws_are_disjoint(test, seed):
    drawn = draw.draw(numbers(test=test), seed, 256, 256, 256)
    rows = [set(x.flatten().tolist()) for x, _ in (drawn.train, drawn.validation, drawn.test)]
    assert [len(each) for each in rows] == [256] * 3
    assert len(set.union(*rows)) == 768
    assert (min(rows[2]) >= 1000) == test


def test_settings_and_training_options_do_not_move_the_data():
    paper = mnist.mnist_1v7_lr(seed=1)
    other = mnist.mnist_1v7_lr(seed=1, setting="trained", epochs=2, lr=0.5, batch_size=32)
    assert same(paper, other)
    assert (other.epochs, other.batch_size, other.optimizer) == (2, 32, SGD(lr=0.5))
    fewer = mnist.mnist_1v7_lr(seed=1, n_train=100)
    assert fewer.train_ids == paper.train_ids[:100] and fewer.test_ids == paper.test_ids
    assert odd_lr(n_train=100).test_ids == odd_lr().test_ids


def test_the_global_random_state_is_neither_read_nor_changed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = mnist.mnist_1v7_cnn()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(mnist.mnist_1v7_cnn(), first)


def test_ids_are_places_in_the_original_files():
    with np.load(mnist.FILE) as archive:
        index, images = archive["index_train"], archive["x_train"]
    workload = mnist.mnist_1v7_lr()
    image = torch.from_numpy(images[np.flatnonzero(index == workload.train_ids[5])[0]]).float()[None, None]
    torch.testing.assert_close(workload.train[0][5:6], draw.by_example(image))


# --- options


def test_unknown_settings_and_options_are_named_with_what_there_is():
    with pytest.raises(InputError, match="setting must be 'paper' or 'trained', got 'papre'"):
        mnist.mnist_1v7_lr(setting="papre")
    with pytest.raises(InputError, match="sead.*did you mean 'seed'.*setting.*n_train"):
        mnist.mnist_1v7_lr(sead=1)
    with pytest.raises(InputError, match="numbers: 5512 .* has 1000"):
        odd_lr(n_train=5000)
    with pytest.raises(InputError, match="n_train must be at least 1"):
        odd_lr(n_train=0)
    made = make("workload", "mnist-1v7-lr:seed=2:epochs=3:lr=0.1:setting=trained")
    assert (made.epochs, made.optimizer.lr, made.info["setting"]) == (3, 0.1, "trained")


def test_the_trained_settings_are_the_tuned_ones():
    results = Path(__file__).parent.parent / "benchmarks" / "results" / "tune_trained.json"
    tuned = json.loads(results.read_text())["workloads"]
    for name in BUILTINS["workload"]:
        setting, found = load("workload", name).settings["trained"], tuned[name]
        assert (setting.lr, setting.epochs) == (found["chosen"]["lr"], found["chosen"]["epochs"]), name
        assert found["chosen"]["validation"] >= found["best_validation"] - 0.0035
        assert found["chosen"]["test"] >= found["best_test"] - 0.01


# --- training


def test_the_trained_setting_learns():
    workload = mnist.mnist_1v7_lr(setting="trained")
    x, y = workload.train
    theta = workload.theta0.clone()
    for t in range(workload.plan.steps):
        batch = workload.plan.batch(t)
        gradient = torch.func.grad(lambda p, b=batch: workload.losses(p, (x[b], y[b])).mean())(theta)
        theta -= workload.plan.lrs(t)[0] * gradient
    assert workload.accuracy(theta) > 0.95
