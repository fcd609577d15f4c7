"""The data behind the workloads: the bundled file verified, the user's own copy read, a missing one named."""

import json

import numpy as np
import pytest

from influencekit.errors import InputError, StoreError
from influencekit.workloads import files, mnist

DATA = mnist.FILE.parent


def digits(n, labels, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28), np.uint8), rng.choice(labels, n).astype(np.uint8)


def test_the_bundled_file_is_whole_and_described_and_small():
    (name, entry), *others = json.loads((DATA / "checksums.json").read_text()).items()
    assert not others and files.bundled(DATA / name).stat().st_size == entry["bytes"] < 2e6
    described = (DATA / "README.md").read_text()
    assert name in described and entry["sha256"] in described and str(entry["bytes"]) in described


def test_a_damaged_or_missing_bundled_file_is_reported(tmp_path, monkeypatch):
    (tmp_path / "checksums.json").write_bytes((DATA / "checksums.json").read_bytes())
    content = bytearray(mnist.FILE.read_bytes())
    content[1000] ^= 1
    (tmp_path / mnist.FILE.name).write_bytes(content)
    monkeypatch.setattr(mnist, "FILE", tmp_path / mnist.FILE.name)
    mnist.pool.cache_clear()
    with pytest.raises(StoreError, match="mnist-1v7.npz.*damaged.*install its package again"):
        mnist.mnist_1v7_lr()
    mnist.FILE.unlink()
    with pytest.raises(StoreError, match="mnist-1v7.npz is missing"):
        mnist.mnist_1v7_lr()


def test_mnist_reads_the_users_file_and_keeps_its_row_numbers(tmp_path):
    x, y = digits(1200, [1, 3, 7])
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    workload = mnist.mnist_1v7_lr(data_dir=str(tmp_path))
    assert workload.info["data_source"] == "data_dir"
    assert ((y[workload.train_ids] == 7) == workload.train[1].numpy()).all()
    assert ((y[workload.test_ids] == 7) == workload.test[1].numpy()).all()


def test_what_is_missing_is_named_with_its_folder(tmp_path):
    with pytest.raises(InputError, match="MNIST needs mnist.npz in data_dir .*, not found there") as e:
        mnist.mnist_1v7_lr(data_dir=str(tmp_path))
    assert str(tmp_path) in str(e.value) and "\n" not in str(e.value)
    with pytest.raises(InputError, match="nowhere is not a folder; expected one that holds MNIST"):
        mnist.mnist_1v7_lr(data_dir=str(tmp_path / "nowhere"))


def test_an_npz_without_the_arrays_is_named(tmp_path):
    np.savez(tmp_path / "mnist.npz", x=np.zeros(3))
    with pytest.raises(InputError, match="mnist.npz should be an npz file with the arrays x_train"):
        mnist.mnist_1v7_lr(data_dir=str(tmp_path))
    (tmp_path / "mnist.npz").write_bytes(b"no zip")
    with pytest.raises(InputError, match="mnist.npz should be an npz file"):
        mnist.mnist_1v7_lr(data_dir=str(tmp_path))


def test_cut_short_or_misshapen_files_are_named(tmp_path):
    path = tmp_path / "mnist.npz"
    path.write_bytes(mnist.FILE.read_bytes()[:100000])
    with pytest.raises(InputError, match="mnist.npz should be an npz file"):
        mnist.mnist_1v7_lr(data_dir=str(tmp_path))
    x, y = digits(20, [1, 7])
    np.savez(path, x_train=x[:9], y_train=y, x_test=x, y_test=y)
    with pytest.raises(
        InputError, match=r"mnist.npz: expected images .* got shapes \[9, 28, 28\] and \[20\]"
    ):
        mnist.mnist_1v7_lr(data_dir=str(tmp_path))
