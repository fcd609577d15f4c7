"""Kept retrainings that were changed: any bit, file or place is named in one line; no figure comes of it."""

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers_evaluation import called, tiny

from influencekit import StoreError
from influencekit.evaluation import LDS, retraining

OLD = Path(__file__).parent / "stores_010" / "retrained-lds"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(retraining, "_PIECE", 4)


def call(folder, m=8, seed=0):
    return called(tiny(seed), LDS(m=m), "test-loss", "dit", folder=folder)


@pytest.fixture
def folder(tmp_path):
    call(tmp_path / "sets")
    return tmp_path / "sets"


FIRST, SECOND = "sets-000000-000004.zarr", "sets-000004-000008.zarr"


def named(folder, *words, m=8):
    with pytest.raises(StoreError) as caught:
        call(folder, m)
    line = str(caught.value)
    assert "\n" not in line and str(folder) in line and "; delete " in line and "retrained" in line
    assert all(word in line for word in words), line


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_every_flipped_bit_is_named(folder):
    draw = random.Random(0)
    for path in files(folder):
        data = path.read_bytes()
        for place in draw.sample(range(len(data)), min(3, len(data))):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :])
            named(folder)
        path.write_bytes(data)
    call(folder)


def test_every_file_that_is_cut_emptied_removed_or_added_is_named(folder):
    for path in files(folder / FIRST):
        data = path.read_bytes()
        for other in (data[: len(data) // 2], b"", bytes(len(data))):
            path.write_bytes(other)
            named(folder, FIRST)
        path.unlink()
        named(folder, FIRST)
        path.write_bytes(data)
    (folder / FIRST / "theta" / "c" / "more").write_text("")
    named(folder, FIRST)


def test_exchanged_files_and_pieces_are_named(folder, tmp_path):
    for name in ("theta/c/0/0/0", "left_out/c/0/0", "set/c/0", "zarr.json"):
        one, other = folder / FIRST / name, folder / SECOND / name
        data = one.read_bytes(), other.read_bytes()
        if data[0] != data[1]:
            one.write_bytes(data[1]), other.write_bytes(data[0])
            named(folder)
            one.write_bytes(data[0]), other.write_bytes(data[1])
    os.rename(folder / FIRST, tmp_path / "x")
    os.rename(folder / SECOND, folder / FIRST)
    os.rename(tmp_path / "x", folder / SECOND)
    named(folder, FIRST, "or of other sets")


def test_a_piece_of_another_run_or_of_other_draws_is_named(folder, tmp_path):
    call(tmp_path / "other", seed=1)
    called(tiny(), LDS(m=8, seed=1), "test-loss", "dit", folder=tmp_path / "drawn")
    for other in ("other", "drawn"):
        shutil.rmtree(folder / FIRST)
        shutil.copytree(tmp_path / other / FIRST, folder / FIRST)
        named(folder, FIRST, "of another folder")


def test_links_and_pipes_are_named_and_not_waited_for(folder, tmp_path):
    chunk, group = folder / FIRST / "theta" / "c" / "0" / "0" / "0", folder / FIRST / "theta"
    os.rename(chunk, tmp_path / "chunk")
    for make in (lambda: os.symlink(tmp_path / "chunk", chunk), lambda: os.mkfifo(chunk)):
        make()
        named(folder, FIRST, "it is not a regular file")
        chunk.unlink()
    os.rename(tmp_path / "chunk", chunk)
    os.rename(group, tmp_path / "theta")
    os.symlink(tmp_path / "theta", group)
    named(folder, FIRST, "it is not a regular file")
    head = folder / "retrained.json"
    text = head.read_text()
    head.unlink()
    for make in (lambda: os.mkfifo(head), lambda: os.symlink(tmp_path / "nothing", head)):
        make()
        named(folder, "retrained.json is damaged (it is not a regular file)")
        head.unlink()
    head.write_text(text)


def test_names_of_pieces_with_huge_numbers_are_named(folder):
    os.rename(folder / FIRST, folder / "sets-000000-999999999999.zarr")
    named(folder, "sets-000000-999999999999.zarr is damaged")


def rewritten(piece, **changes):
    """The piece as 0.3 wrote it, with other contents: without digests of its files."""
    found = xr.open_zarr(piece, consolidated=False, chunks=None).load()
    shutil.rmtree(piece)
    found.attrs = {"digest": found.attrs["digest"]}
    for name, change in changes.items():
        found[name] = change(found[name])
    for name in found.variables:
        found[name].encoding.clear()
    found.to_zarr(piece, zarr_format=3, consolidated=True)


def test_a_piece_of_0_3_has_a_digest_of_its_parameters_alone_and_is_read(folder):
    new = call(folder)
    rewritten(folder / FIRST)
    xr.testing.assert_identical(call(folder), new)


@pytest.mark.parametrize(
    ("name", "change"),
    {
        "theta": lambda x: x + 1, "recorded": lambda x: x[:, :3].rename(param="p"),
        "left_out": lambda x: x[:, :3].rename(train="t"), "set": lambda x: x + 4,
    }.items(),
)  # fmt: skip
def test_a_changed_piece_of_0_3_is_named(folder, name, change):
    rewritten(folder / FIRST, **{name: change})
    named(folder, f"{FIRST} is damaged")


def test_a_folder_of_0_1_has_no_digest_of_its_head_and_what_matters_of_it_is_compared(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    call(tmp_path / "old", m=3)
    head = json.loads((tmp_path / "old" / "retrained.json").read_text())
    for name in ("run", "states", "sets"):
        for other in (None, [], {}, 1, [[0, 6, 5]], {"seed": 10**30}):
            (tmp_path / "old" / "retrained.json").write_text(json.dumps(head | {name: other}))
            with pytest.raises(StoreError, match="is damaged|another run, or of other sets"):
                call(tmp_path / "old", m=3)
    call_more = json.dumps(head | {"more": 1})
    (tmp_path / "old" / "retrained.json").write_text(call_more)
    named(tmp_path / "old", "it has other entries", m=3)


def test_more_sets_in_a_folder_of_0_1_get_digests(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    grown = call(tmp_path / "old", m=6)
    root = json.loads((tmp_path / "old" / "sets-000003-000004.zarr" / "zarr.json").read_text())
    assert {"files", "whose", "metadata"} == set(root["consolidated_metadata"]["checksums"])
    xr.testing.assert_identical(call(tmp_path / "old", m=6), grown)
    np.testing.assert_allclose(grown.retrained, call(None, m=6).retrained, atol=1e-13)


def test_an_error_within_a_call_releases_the_folder(folder, monkeypatch):
    monkeypatch.setattr(retraining, "Models", None)
    try:
        call(folder)
    except TypeError as error:
        kept = error  # with its traceback, which holds the frames
    monkeypatch.undo()
    call(folder)
    assert kept is not None


def test_of_processes_that_begin_at_once_one_writes_and_the_others_are_refused(tmp_path):
    expected = call(None)
    for number in range(3):
        folder, children = tmp_path / str(number), []
        for _ in range(3):
            if not (child := os.fork()):
                code = 1
                try:
                    call(folder)
                    code = 0
                except StoreError as error:
                    code = 3 if "is being written by another process" in str(error) else 4
                finally:
                    os._exit(code)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert 0 in codes and set(codes) <= {0, 3}, codes
        assert sorted(p.name for p in folder.iterdir()) == ["retrained.json", FIRST, SECOND]
        xr.testing.assert_identical(call(folder), expected)
