"""The paper's other problems: real data, its models and settings, features by column."""

import json
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from influencekit_paper import adult, features, kmnist, newsgroups

import influencekit as ik
from influencekit.registry import load

POINTS = entry_points(group="influencekit.workloads")
NAMES = sorted(point.name for point in POINTS if point.value.startswith("influencekit_paper."))
BUNDLED = [name for name in NAMES if not name.startswith("emnist")]
LR = {
    **{"kmnist-lr": 0.003, "kmnist-dnn": 0.06, "kmnist-cnn": 0.2},
    **{"emnist-ab-lr": 0.003, "emnist-ab-dnn": 0.06, "emnist-ab-cnn": 0.2},
    **{"adult-lr": 0.1, "adult-dnn": 0.3, "20news-lr": 0.1, "20news-dnn": 0.1},
}


def test_every_workload_is_registered():
    assert NAMES == sorted(LR)


@pytest.mark.parametrize("name", BUNDLED)
def test_sizes_models_and_settings_are_the_papers(name):
    workload = load("workload", name)()
    n = 200 if name == "20news-dnn" else 256
    assert (workload.n_train, workload.n_test, len(workload.validation[1])) == (n, 256, 256)
    assert (workload.epochs, workload.batch_size, workload.name) == (21, 64, name)
    assert workload.l2 == (0.0 if name.endswith("-lr") else 0.001)
    assert workload.schedule == ik.InverseSqrt()
    d = workload.train[0][0].numel()
    sizes = {"lr": d + 1, "dnn": 8 * d + 89, "cnn": 20417}
    assert workload.n_params == sizes[name.rpartition("-")[2]]
    for x, y in (workload.train, workload.validation, workload.test):
        assert x.dtype == y.dtype == workload.dtype == torch.float32
        assert set(y.tolist()) == {0.0, 1.0}
        assert torch.isfinite(x).all()
    assert workload.losses(workload.theta0, workload.test).shape == (256,)
    assert workload.info["setting"] == "paper" and workload.info["data_source"] == "bundled"
    again, other = load("workload", name)(seed=3), load("workload", name)(seed=4)
    assert again.train_ids != other.train_ids and not torch.equal(again.theta0, other.theta0)


@pytest.mark.parametrize("name", LR)
def test_the_paper_setting_has_the_authors_learning_rates(name):
    settings = load("workload", name).settings
    assert settings["paper"].lr == LR[name]
    changed = {"lr": settings["trained"].lr, "epochs": settings["trained"].epochs}
    assert settings["trained"] == type(settings["paper"])(**vars(settings["paper"]) | changed)


def test_the_trained_settings_are_the_tuned_ones():
    results = Path(__file__).parents[3] / "benchmarks" / "results" / "tune_trained.json"
    tuned = json.loads(results.read_text())["workloads"]
    for name in BUNDLED:
        setting, found = load("workload", name).settings["trained"], tuned[name]
        assert (setting.lr, setting.epochs) == (found["chosen"]["lr"], found["chosen"]["epochs"]), name
        assert found["chosen"]["validation"] >= found["best_validation"] - 0.0035
        assert found["chosen"]["test"] >= found["best_test"] - 0.01
        stand_in = name.replace("kmnist", "emnist-ab")
        assert load("workload", stand_in).settings["trained"] == setting


@pytest.mark.parametrize("name, least", [("kmnist-lr", 0.9), ("adult-lr", 0.75)])
def test_the_trained_setting_learns(name, least):
    workload = load("workload", name)(setting="trained")
    x, y = workload.train
    theta = workload.theta0.clone()
    for t in range(workload.plan.steps):
        batch = workload.plan.batch(t)
        gradient = torch.func.grad(lambda p, b=batch: workload.losses(p, (x[b], y[b])).mean())(theta)
        theta -= workload.plan.lrs(t)[0] * gradient
    assert workload.accuracy(theta) > least


@pytest.mark.parametrize("problem", [kmnist.kmnist_lr, adult.adult_lr, newsgroups.newsgroups_lr])
def test_an_example_is_in_one_of_the_three_sets(problem):
    pool, drawn = sys.modules[problem.__module__].pool(None), problem()
    assert len(set(drawn.train_ids)) == len(set(drawn.test_ids)) == 256
    assert pool.test is not None or not set(drawn.train_ids) & set(drawn.test_ids)
    assert len(pool.train.y) == len(pool.train.ids) == len(set(pool.train.ids))


# --- features


def test_features_are_standardised_by_column():
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


def test_tfidf_by_hand():
    documents = [
        features.words("The disk, the DISK and a 486!"),
        features.words("disk driver"),
        features.words("The mouse"),
    ]
    assert documents == [["disk", "disk", "486"], ["disk", "driver"], ["mouse"]]
    idf = features.vocabulary(documents, least=0.0, most=1.0)
    assert list(idf) == ["486", "disk", "driver", "mouse"]
    assert idf["disk"] == pytest.approx(np.log(4 / 3) + 1)
    rows = features.tfidf(documents, idf)
    first = np.array([np.log(4 / 2) + 1, 2 * (np.log(4 / 3) + 1), 0, 0])
    np.testing.assert_allclose(rows[0], first / np.linalg.norm(first), rtol=1e-6)
    assert (features.tfidf([["modem"]], idf) == 0).all()
    assert "disk" not in features.vocabulary(documents, least=0.0, most=0.5)
    assert list(features.vocabulary(documents, least=0.5, most=1.0)) == ["disk"]


def test_a_news_body_has_no_header_quote_or_signature():
    post = "Subject: disk\nFrom: x\n\nJoe EMAIL writes:\n> old\n| older\nNew words.\n-- \nJoe\n"
    assert newsgroups.body(post).split() == ["New", "words."]
