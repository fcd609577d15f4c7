"""The data behind the workloads: bundled files verified, the user's own copies read, missing ones named."""

import csv
import gzip
import json
import re
import struct

import numpy as np
import pytest
import torch

from influencekit.errors import InputError, StoreError
from influencekit.workloads import adult, draw, emnist, files, kmnist, mnist, newsgroups


def same(a, b) -> bool:
    tensors = [(a.theta0, b.theta0), *zip(a.train, b.train, strict=True), *zip(a.test, b.test, strict=True)]
    return a.train_ids == b.train_ids and all(torch.equal(x, y) for x, y in tensors)


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


def idx(array) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def digits(n, labels, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28), np.uint8), rng.choice(labels, n).astype(np.uint8)


def test_mnist_reads_the_users_file_and_keeps_its_row_numbers(tmp_path):
    x, y = digits(1200, [1, 3, 7])
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x, y_test=y)
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
        torch.testing.assert_close(workload.test[0][:1], draw.by_example(upright))
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


def test_cut_short_or_misshapen_files_are_named(tmp_path):
    path = tmp_path / "mnist.npz"
    path.write_bytes(files.bundled("mnist-1v7.npz").read_bytes()[:100000])
    with pytest.raises(InputError, match="mnist.npz should be an npz file"):
        mnist.mnist_1v7_lr(data_dir=str(tmp_path))
    x, y = digits(20, [1, 7])
    np.savez(path, x_train=x[:9], y_train=y, x_test=x, y_test=y)
    with pytest.raises(
        InputError, match=r"mnist.npz: expected images .* got shapes \[9, 28, 28\] and \[20\]"
    ):
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
    (original / "adult.data").write_text("\n".join(["old" + parts["train"][0][2:], *parts["train"]]))
    with pytest.raises(InputError, match="adult.data: column age should hold numbers"):
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
