"""The built-in workloads: seeded disjoint draws of real data, the papers' models and settings."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from influencekit.errors import InputError
from influencekit.registry import BUILTINS, load, make
from influencekit.training.optimizers import SGD
from influencekit.training.schedules import Constant, InverseSqrt
from influencekit.workloads import adult, draw, files, kmnist, mnist, newsgroups, text

BUNDLED = [name for name in BUILTINS["workload"] if not name.startswith("emnist")]
SMALL = ["mnist-1v7-lr", "kmnist-lr", "adult-lr", "20news-lr"]


def same(a, b) -> bool:
    tensors = [(a.theta0, b.theta0), *zip(a.train, b.train, strict=True), *zip(a.test, b.test, strict=True)]
    return a.train_ids == b.train_ids and all(torch.equal(x, y) for x, y in tensors)


# --- what a workload holds


@pytest.mark.parametrize("name", BUNDLED)
def test_sizes_models_and_settings_are_the_papers(name):
    workload = load("workload", name)()
    n = 200 if name == "20news-dnn" else 256
    assert (workload.n_train, workload.n_test, len(workload.validation[1])) == (n, 256, 256)
    assert (workload.epochs, workload.batch_size, workload.name) == (21, 64, name)
    assert workload.l2 == (0.0 if name.endswith("-lr") else 0.001)
    constant = name in ("mnist-1v7-dnn", "mnist-1v7-cnn")
    assert workload.schedule == (Constant() if constant else InverseSqrt())
    d = workload.train[0][0].numel()
    sizes = {"lr": d + 1, "dnn": 8 * d + 89, "cnn": 20417}
    assert workload.n_params == sizes[name.rpartition("-")[2]]
    for x, y in (workload.train, workload.validation, workload.test):
        assert x.dtype == y.dtype == workload.dtype == torch.float32
        assert set(y.tolist()) == {0.0, 1.0}
        assert torch.isfinite(x).all()
    assert workload.outputs(workload.theta0, workload.test).shape == (256,)
    assert workload.losses(workload.theta0, workload.test).shape == (256,)
    assert workload.info["setting"] == "paper" and workload.info["data_source"] == "bundled"
    assert all(isinstance(value, str) for value in workload.info.values())


@pytest.mark.parametrize(
    "name, lr",
    [
        *(("mnist-1v7-lr", 0.003), ("mnist-1v7-dnn", 0.0005), ("mnist-1v7-cnn", 0.0004)),
        *(("emnist-ab-lr", 0.003), ("emnist-ab-dnn", 0.06), ("emnist-ab-cnn", 0.2)),
        *(("kmnist-lr", 0.003), ("kmnist-dnn", 0.06), ("kmnist-cnn", 0.2)),
        *(("adult-lr", 0.1), ("adult-dnn", 0.3), ("20news-lr", 0.1), ("20news-dnn", 0.1)),
    ],
)
def test_the_paper_setting_has_the_authors_learning_rates(name, lr):
    settings = load("workload", name).settings
    assert settings["paper"].lr == lr
    changed = {"lr": settings["trained"].lr, "epochs": settings["trained"].epochs}
    assert settings["trained"] == type(settings["paper"])(**vars(settings["paper"]) | changed)


def test_images_are_standardised_each_and_features_by_column():
    x = mnist.mnist_1v7_lr().test[0].flatten(1)
    torch.testing.assert_close(x.mean(1), torch.zeros(256), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(1, correction=0), torch.ones(256), atol=1e-5, rtol=0)
    pool = adult.pool()
    x = pool.scale(torch.from_numpy(pool.train.x))
    one_hot = ((x == 0) | (x == 1)).all(0)
    assert one_hot.sum() == x.shape[1] - len(adult.NUMERIC)
    numbers = x[:, ~one_hot]
    torch.testing.assert_close(numbers.mean(0), torch.zeros(numbers.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(numbers.std(0), torch.ones(numbers.shape[1]), atol=1e-3, rtol=0)
    pool = newsgroups.pool()
    x = pool.scale(torch.from_numpy(pool.train.x))
    torch.testing.assert_close(x.std(0), torch.ones(x.shape[1]), atol=1e-3, rtol=0)


# --- seeds


@pytest.mark.parametrize("name", SMALL)
def test_a_seed_decides_everything_and_two_seeds_differ(name):
    function = load("workload", name)
    assert same(function(seed=3), function(seed=3))
    a, b = function(seed=3), function(seed=4)
    assert a.train_ids != b.train_ids and not torch.equal(a.theta0, b.theta0)
    assert not torch.equal(a.plan.indices, b.plan.indices)
    assert torch.equal(a.plan.indices, function(seed=3).plan.indices)


@pytest.mark.parametrize("module", [mnist, kmnist, adult, newsgroups])
@pytest.mark.parametrize("seed", range(5))
def test_the_three_draws_are_disjoint(module, seed):
    pool = module.pool(None)
    numbered = draw.Pool(  # the same pool with the row number as its only feature
        train=draw.Part(np.arange(len(pool.train.y))[:, None], pool.train.y, pool.train.ids),
        test=pool.test and draw.Part(-1 - np.arange(len(pool.test.y))[:, None], pool.test.y, pool.test.ids),
        scale=lambda x: x,
        classes=pool.classes,
        title=pool.title,
        licence=pool.licence,
        source=pool.source,
    )
    drawn = draw.draw(numbered, seed, 256, 256, 256)
    rows = [set(x.flatten().tolist()) for x, _ in (drawn.train, drawn.validation, drawn.test)]
    assert [len(each) for each in rows] == [256] * 3
    assert len(set.union(*rows)) == 768


def test_settings_and_training_options_do_not_move_the_data():
    paper = mnist.mnist_1v7_lr(seed=1)
    other = mnist.mnist_1v7_lr(seed=1, setting="trained", epochs=2, lr=0.5, batch_size=32)
    assert same(paper, other)
    assert (other.epochs, other.batch_size, other.optimizer) == (2, 32, SGD(lr=0.5))
    fewer = mnist.mnist_1v7_lr(seed=1, n_train=100)
    assert fewer.train_ids == paper.train_ids[:100] and fewer.test_ids == paper.test_ids
    assert kmnist.kmnist_lr(n_train=100).test_ids == kmnist.kmnist_lr().test_ids


@pytest.mark.parametrize("name", ["mnist-1v7-cnn", "20news-dnn"])
def test_the_global_random_state_is_neither_read_nor_changed(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = load("workload", name)()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(load("workload", name)(), first)


def test_ids_are_places_in_the_original_files():
    with np.load(files.bundled("mnist-1v7.npz")) as archive:
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
    with pytest.raises(InputError, match="KMNIST o against ki: 5512 .* has 2000"):
        kmnist.kmnist_lr(n_train=5000)
    with pytest.raises(InputError, match="n_train must be at least 1"):
        kmnist.kmnist_lr(n_train=0)
    made = make("workload", "mnist-1v7-lr:seed=2:epochs=3:lr=0.1:setting=trained")
    assert (made.epochs, made.optimizer.lr, made.info["setting"]) == (3, 0.1, "trained")


# --- features


def test_tfidf_by_hand():
    documents = [
        text.words("The disk, the DISK and a 486!"),
        text.words("disk driver"),
        text.words("The mouse"),
    ]
    assert documents == [["disk", "disk", "486"], ["disk", "driver"], ["mouse"]]
    idf = text.vocabulary(documents, least=0.0, most=1.0)
    assert list(idf) == ["486", "disk", "driver", "mouse"]
    assert idf["disk"] == pytest.approx(np.log(4 / 3) + 1)
    rows = text.tfidf(documents, idf)
    first = np.array([np.log(4 / 2) + 1, 2 * (np.log(4 / 3) + 1), 0, 0])
    np.testing.assert_allclose(rows[0], first / np.linalg.norm(first), rtol=1e-6)
    assert (text.tfidf([["modem"]], idf) == 0).all()
    assert "disk" not in text.vocabulary(documents, least=0.0, most=0.5)
    assert list(text.vocabulary(documents, least=0.5, most=1.0)) == ["disk"]


def test_the_trained_settings_are_the_tuned_ones():
    results = Path(__file__).parent.parent / "benchmarks" / "results" / "tune_trained.json"
    for name, found in json.loads(results.read_text())["workloads"].items():
        setting, chosen = load("workload", name).settings["trained"], found["chosen"]
        assert (setting.lr, setting.epochs) == (chosen["lr"], chosen["epochs"]), name
        assert chosen["validation"] >= found["best_validation"] - 0.0035
        assert chosen["test"] >= found["best_test"] - 0.01
        stand_in = name.replace("kmnist", "emnist-ab")
        assert load("workload", stand_in).settings["trained"] == setting


def test_a_news_body_has_no_header_quote_or_signature():
    post = "Subject: disk\nFrom: x\n\nJoe EMAIL writes:\n> old\n| older\nNew words.\n-- \nJoe\n"
    assert newsgroups.body(post).split() == ["New", "words."]


# --- training


@pytest.mark.parametrize("name, least", [("mnist-1v7-lr", 0.95), ("kmnist-lr", 0.9), ("adult-lr", 0.75)])
def test_the_trained_setting_learns(name, least):
    workload = load("workload", name)(setting="trained")
    x, y = workload.train
    theta = workload.theta0.clone()
    for t in range(workload.plan.steps):
        batch = workload.plan.batch(t)
        gradient = torch.func.grad(lambda p, b=batch: workload.losses(p, (x[b], y[b])).mean())(theta)
        theta -= workload.plan.lrs(t)[0] * gradient
    assert workload.accuracy(theta) > least
