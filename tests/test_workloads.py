"""The built-in workloads: seeded disjoint draws of real data, verified files, clear words where one is missing."""

import csv
import gzip
import json
import re
import struct

import numpy as np
import pytest
import torch

from influencekit.errors import InputError, StoreError
from influencekit.optimizers import SGD
from influencekit.registry import BUILTINS, load, make
from influencekit.schedules import Constant, InverseSqrt
from influencekit.workloads import adult, draw, emnist, files, kmnist, mnist, newsgroups, text

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
    x = adult.adult_lr().train[0]
    deviation = x.std(0, correction=0)
    torch.testing.assert_close(x.mean(0), torch.zeros(x.shape[1]), atol=1e-5, rtol=0)
    assert ((deviation - 1).abs() < 1e-4).logical_or(deviation == 0).all()


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
        scale=lambda reference, x: x,
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
    torch.testing.assert_close(workload.train[0][5:6], draw.by_example(image, image))


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


# --- bundled files


@pytest.mark.parametrize("name", json.loads((files.DATA / "checksums.json").read_text()))
def test_every_bundled_file_is_whole_and_described(name):
    entry = json.loads((files.DATA / "checksums.json").read_text())[name]
    assert files.bundled(name).stat().st_size == entry["bytes"]
    described = (files.DATA / "README.md").read_text()
    assert name in described and entry["sha256"] in described and str(entry["bytes"]) in described


def test_bundled_data_stay_small():
    assert sum(path.stat().st_size for path in files.DATA.iterdir()) < 5e6


def test_a_damaged_or_missing_bundled_file_is_reported(tmp_path, monkeypatch):
    for path in files.DATA.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(files, "DATA", tmp_path)
    content = bytearray((tmp_path / "mnist-1v7.npz").read_bytes())
    content[1000] ^= 1
    (tmp_path / "mnist-1v7.npz").write_bytes(content)
    mnist.pool.cache_clear()
    with pytest.raises(StoreError, match="mnist-1v7.npz.*damaged.*install influencekit again"):
        mnist.mnist_1v7_lr()
    (tmp_path / "kmnist-o-ki.npz").unlink()
    with pytest.raises(StoreError, match="kmnist-o-ki.npz is missing"):
        files.bundled("kmnist-o-ki.npz")


def test_no_address_is_left_in_the_news_texts():
    lines = files.text_lines(files.bundled("newsgroups-hardware-masked.jsonl.gz"))
    texts = [json.loads(line)["text"] for line in lines]
    assert len(texts) == 1945
    assert not any("@" in each for each in texts)
    assert not any(
        re.search(r"(?i)^(from|reply-to|message-id|originator|x-sender|cc|to):", each) for each in texts
    )
    assert not any(re.search(r"[A-Za-z][\w.-]+![A-Za-z][\w.-]+![A-Za-z]", each) for each in texts)  # UUCP
    assert sum(each.count("EMAIL") for each in texts) > 1000


# --- the user's own copies


def image_files(folder, x, y, name="mnist.npz"):
    np.savez(folder / name, x_train=x, y_train=y, x_test=x, y_test=y)


def idx(array) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def digits(n, labels, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28), np.uint8), rng.choice(labels, n).astype(np.uint8)


def test_mnist_reads_the_users_file_and_keeps_its_row_numbers(tmp_path):
    x, y = digits(1200, [1, 3, 7])
    image_files(tmp_path, x, y)
    workload = mnist.mnist_1v7_lr(data_dir=str(tmp_path))
    assert workload.info["data_source"] == "data_dir"
    assert ((y[workload.train_ids] == 7) == workload.train[1].numpy()).all()
    assert ((y[workload.test_ids] == 7) == workload.test[1].numpy()).all()


def test_kmnist_reads_the_official_files_or_the_test_split_alone(tmp_path):
    for split, n in (("train", 1500), ("test", 800)):
        x, y = digits(n, [0, 1, 2])
        np.savez(tmp_path / f"kmnist-{split}-imgs.npz", x)
        np.savez(tmp_path / f"kmnist-{split}-labels.npz", y)
    official = kmnist.kmnist_lr(data_dir=str(tmp_path))
    assert max(official.test_ids) < 800 < max(official.train_ids)
    alone = tmp_path / "alone"
    alone.mkdir()
    np.savez(alone / "kmnist-test.npz", x=x.repeat(3, 0), y=y.repeat(3))
    workload = kmnist.kmnist_lr(data_dir=str(alone))
    assert not set(workload.train_ids) & set(workload.test_ids)


def test_emnist_reads_the_users_idx_files_upright(tmp_path):
    for packed in (True, False):
        folder = tmp_path / str(packed)
        folder.mkdir()
        for split in ("train", "test"):
            x, y = digits(2000, np.arange(1, 5), seed=len(split))
            for kind, array in (("images-idx3", x), ("labels-idx1", y)):
                path = folder / f"emnist-letters-{split}-{kind}-ubyte{'.gz' * packed}"
                path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
        workload = emnist.emnist_ab_cnn(data_dir=str(folder))
        assert workload.train[0].shape == (256, 1, 28, 28)
        row = workload.test_ids[0]
        upright = torch.from_numpy(x[row].T.copy()).float()[None, None]
        torch.testing.assert_close(workload.test[0][:1], draw.by_example(upright, upright))
        assert (y[workload.test_ids] <= 2).all()
        assert ((y[workload.test_ids] == 2) == workload.test[1].numpy()).all()


def test_without_emnist_one_line_says_what_is_missing_and_what_stands_in(tmp_path):
    with pytest.raises(
        InputError, match="data_dir.*emnist-letters-train-images-idx3-ubyte.gz.*kmnist-lr"
    ) as e:
        emnist.emnist_ab_lr()
    assert "\n" not in str(e.value)
    (tmp_path / "emnist-letters-train-labels-idx1-ubyte.gz").write_bytes(b"")
    with pytest.raises(InputError, match="test-labels-idx1-ubyte.gz.*not found there.*kmnist-lr") as e:
        emnist.emnist_ab_lr(data_dir=str(tmp_path))
    assert "train-labels" not in str(e.value) and str(tmp_path) in str(e.value)
    with pytest.raises(InputError, match="nowhere is not a folder"):
        emnist.emnist_ab_lr(data_dir=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\1\0\0\0\5abc", b"\x1f\x8bno", b"some text"])
def test_a_file_that_is_not_idx_is_named(tmp_path, content):
    (tmp_path / "some-idx").write_bytes(content)
    with pytest.raises(InputError, match="some-idx"):
        files.read_idx(tmp_path / "some-idx")


def test_an_npz_without_the_arrays_is_named(tmp_path):
    np.savez(tmp_path / "mnist.npz", x=np.zeros(3))
    with pytest.raises(InputError, match="mnist.npz should be an npz file with the arrays x_train"):
        mnist.mnist_1v7_lr(data_dir=str(tmp_path))
    (tmp_path / "mnist.npz").write_bytes(b"no zip")
    with pytest.raises(InputError, match="mnist.npz should be an npz file"):
        mnist.mnist_1v7_lr(data_dir=str(tmp_path))


def test_adult_reads_both_forms_of_the_files_alike(tmp_path):
    parts = {}
    for split in ("train", "test"):
        lines = files.text_lines(files.bundled(f"adult-{split}.csv.gz"))[:1500]
        (tmp_path / f"adult-{split}.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
        rows = [", ".join(row) for row in csv.reader(lines[1:])]
        parts[split] = [row + "." for row in rows] if split == "test" else rows
    original = tmp_path / "original"
    original.mkdir()
    (original / "adult.data").write_text("\n".join(parts["train"]) + "\n\n")
    (original / "adult.test").write_text("\n".join(["|1x3 Cross validator", *parts["test"]]) + "\n")
    a, b = (adult.adult_lr(data_dir=str(folder)) for folder in (tmp_path, original))
    assert same(a, b)
    (original / "adult.data").write_text("1, 2\n")
    adult.pool.cache_clear()
    with pytest.raises(InputError, match="adult.data should have the 15 columns.*row 0 has 2"):
        adult.adult_lr(data_dir=str(original))


def test_newsgroups_reads_the_users_file_and_names_a_wrong_line(tmp_path):
    path = tmp_path / "newsgroups-hardware.jsonl.gz"
    lines = files.text_lines(files.bundled("newsgroups-hardware-masked.jsonl.gz"))
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    ours, bundled = newsgroups.newsgroups_lr(data_dir=str(tmp_path)), newsgroups.newsgroups_lr()
    assert same(ours, bundled)
    path.write_bytes(gzip.compress(b'{"id": 1, "split": "train", "label": "sci.med", "text": ""}'))
    newsgroups.pool.cache_clear()
    with pytest.raises(InputError, match="newsgroups-hardware.jsonl.gz, line 1: expected a JSON object"):
        newsgroups.newsgroups_lr(data_dir=str(tmp_path))


# --- features


def test_tfidf_by_hand():
    documents = [
        text.words("The disk, the DISK and a 486!"),
        text.words("disk driver"),
        text.words("The mouse"),
    ]
    assert documents == [["disk", "disk", "486"], ["disk", "driver"], ["mouse"]]
    idf = text.vocabulary(documents, least=1, most=1.0, size=3)
    assert list(idf) == ["486", "disk", "driver"]  # disk first by count, then by alphabet
    assert idf["disk"] == pytest.approx(np.log(4 / 3) + 1)
    rows = text.tfidf(documents, idf)
    first = np.array([np.log(4 / 2) + 1, 2 * (np.log(4 / 3) + 1), 0])
    np.testing.assert_allclose(rows[0], first / np.linalg.norm(first), rtol=1e-6)
    assert (rows[2] == 0).all()
    assert "disk" not in text.vocabulary(documents, least=1, most=0.5, size=9)
    assert list(text.vocabulary(documents, least=2, most=1.0, size=9)) == ["disk"]


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
