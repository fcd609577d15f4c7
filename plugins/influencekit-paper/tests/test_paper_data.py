"""The data of the paper's workloads: bundled files verified, the user's copies read, missing ones named."""

import csv
import gzip
import json
import re
import struct

import numpy as np
import pytest
import torch
from influencekit_paper import adult, emnist, files, kmnist, newsgroups

from influencekit.errors import InputError
from influencekit.workloads import by_example


def same(a, b) -> bool:
    tensors = [(a.theta0, b.theta0), *zip(a.train, b.train, strict=True), *zip(a.test, b.test, strict=True)]
    return a.train_ids == b.train_ids and all(torch.equal(x, y) for x, y in tensors)


# --- bundled files


@pytest.mark.parametrize("name", json.loads((files.DATA / "checksums.json").read_text()))
def test_every_bundled_file_is_whole_and_described(name):
    entry = json.loads((files.DATA / "checksums.json").read_text())[name]
    assert files.bundled_file(name).stat().st_size == entry["bytes"]
    described = (files.DATA / "README.md").read_text()
    assert name in described and entry["sha256"] in described and str(entry["bytes"]) in described


def test_bundled_data_stay_small():
    assert sum(path.stat().st_size for path in files.DATA.iterdir()) < 3e6


def test_no_address_is_left_in_the_news_texts():
    lines = files.text_lines(files.bundled_file("newsgroups-hardware-masked.jsonl.gz"))
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
        torch.testing.assert_close(workload.test[0][:1], by_example(upright))
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


def test_adult_reads_both_forms_of_the_files_alike(tmp_path):
    parts = {}
    for split in ("train", "test"):
        lines = files.text_lines(files.bundled_file(f"adult-{split}.csv.gz"))[:1500]
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
    lines = files.text_lines(files.bundled_file("newsgroups-hardware-masked.jsonl.gz"))
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    ours, bundled = newsgroups.newsgroups_lr(data_dir=str(tmp_path)), newsgroups.newsgroups_lr()
    assert same(ours, bundled)
    path.write_bytes(gzip.compress(b'{"id": 1, "split": "train", "label": "sci.med", "text": ""}'))
    newsgroups.pool.cache_clear()
    with pytest.raises(InputError, match="newsgroups-hardware.jsonl.gz, line 1: expected a JSON object"):
        newsgroups.newsgroups_lr(data_dir=str(tmp_path))
