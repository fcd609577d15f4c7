"""A store lists what was committed: what is not that is found where it is read, by everything that reads."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers_stores import changed, sealed
from helpers_writing import STEPS, begin, contents, go_on, never_killed, same, whole_and_true
from hypothesis import given, settings
from hypothesis import strategies as st

import influencekit as ik
from influencekit import StoreError
from influencekit._trajectory import store as stores
from influencekit._trajectory.digests import Checks, digest_of_document
from influencekit._trajectory.integrity import read_all
from influencekit._trajectory.store import open_group, read
from influencekit._trajectory.writing import Writer, ledger
from influencekit.testing import tiny_workload

sys.path.append(str(Path(__file__).parents[1]))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of four rows, so that every run crosses their borders."""
    monkeypatch.setattr(ledger, "_ROWS", 4)


@pytest.fixture
def path(tmp_path) -> Path:
    """A run that was recorded whole."""
    writing = begin(tmp_path / "run.zarr")
    go_on(writing, commits={3, 7})
    writing.close()
    return tmp_path / "run.zarr"


def document(path: Path) -> dict:
    return json.loads((path / "zarr.json").read_text())


# what is listed ------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(
    cuts=st.lists(st.integers(0, STEPS), max_size=3).map(sorted),
    commits=st.sets(st.integers(0, STEPS)),
    end=st.integers(0, STEPS),
)
def test_the_list_is_that_of_the_chunks_however_the_run_was_cut_and_committed(
    tmp_path_factory, cuts, commits, end
):
    path = tmp_path_factory.mktemp("cut") / "run.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "_ROWS", 4)
        writing = begin(path)
        for cut in cuts:
            go_on(writing, max(min(cut, end), writing.steps), commits)
            writing.leave()
            writing = Writer.resume(path)
        go_on(writing, max(end, writing.steps), commits)
        writing.close("recording")
    before = document(path)
    for name, said in before["attributes"]["checks"].items():
        checks, array = Checks.parse(said), open_group(path)[name]
        steps = array.metadata.dimension_names[0] == "step"
        assert checks.rows == (before["attributes"]["committed"] if steps else array.shape[0])
        across = -(-array.shape[1] // array.chunks[1]) if array.ndim > 1 else 1
        assert len(checks.full) == checks.rows // array.chunks[0] * across
        assert len(checks.last) == (across if checks.rows % array.chunks[0] else 0)
    sealed(path)
    assert document(path) == before


def test_a_run_that_goes_on_after_its_end_keeps_the_list(tmp_path):
    path = tmp_path / "run.zarr"
    writing = begin(path)
    for stop in (3, 6, STEPS):
        go_on(writing, stop, commits=set())
        writing.close(may_go_on=True)
        copy = shutil.copytree(path, tmp_path / f"{stop}.zarr")
        sealed(copy)
        assert document(copy) == document(path) and whole_and_true(path, stop) == stop
        if stop < STEPS:
            writing.reopen()
    same(path, never_killed())


def test_memory_keeps_no_list_and_needs_none():
    assert not {"checks", "digest"} & open_group(begin(None).store).attrs.keys()


# chunks ---------------------------------------------------------------------------------------------------


def chunk_files(path: Path, name: str) -> list[Path]:
    return sorted(file for file in (path / name / "c").rglob("*") if file.is_file())


@pytest.mark.parametrize("name", ["theta", "buffers", "rng", "loss", "epoch", "kept"])
def test_chunks_that_are_exchanged_or_rolled_back_are_named(path, name):
    a, *_, b = chunk_files(path, name)
    first, last = a.read_bytes(), b.read_bytes()
    for one, other in ((last, first), (first, first), (last, last)):
        a.write_bytes(one)
        b.write_bytes(other)
        with pytest.raises(
            StoreError, match=rf"chunk {name}/c/\S+ \(rows \d+ to \d+\) is not the one that was"
        ):
            read(open_group(path), name)
        with pytest.raises(StoreError, match=f"chunk {name}/"):
            read_all(open_group(path))


def test_a_chunk_of_another_array_and_one_of_before_are_named(path, tmp_path):
    shutil.copy(chunk_files(path, "theta")[0], chunk_files(path, "m")[0])
    with pytest.raises(StoreError, match="chunk m/c/0/0 .* not the one that was committed"):
        read(open_group(path), "m", slice(1, 2))
    writing = begin(tmp_path / "other.zarr")
    go_on(writing, 5, commits=set())
    writing.flush()
    old = {file: file.read_bytes() for file in chunk_files(tmp_path / "other.zarr", "loss")}
    go_on(writing)
    writing.close()
    for file, content in old.items():
        if file.read_bytes() != content:
            file.write_bytes(content)
            with pytest.raises(StoreError, match="chunk loss/c/1/0"):
                read(open_group(tmp_path / "other.zarr"), "loss", slice(4, 5))


def test_rows_beside_a_chunk_that_is_not_the_right_one_can_still_be_read(path):
    file = chunk_files(path, "theta")[-1]
    file.write_bytes(chunk_files(path, "theta")[0].read_bytes())
    values = read(open_group(path), "theta", slice(0, 3))
    np.testing.assert_array_equal(values, never_killed()["theta"][:3])


def test_resuming_refuses_rows_that_are_not_those_that_were_committed(tmp_path):
    writing = begin(tmp_path / "run.zarr")
    go_on(writing, 6)
    writing.leave()
    chunks = tmp_path / "run.zarr" / "loss" / "c"
    shutil.copy(chunks / "0" / "0", chunks / "1" / "0")
    before = document(tmp_path / "run.zarr")
    with pytest.raises(StoreError, match="chunk loss/c/1/0 .* is not the one that was committed"):
        Writer.resume(tmp_path / "run.zarr")
    assert document(tmp_path / "run.zarr") == before


# the document ---------------------------------------------------------------------------------------------


def places(value, path=()):
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


def test_any_value_of_the_root_document_that_is_taken_out_or_replaced_is_found(path):
    whole = document(path)
    for place in places(whole):
        if place == ("attributes",):  # without them it is no store of ours
            continue
        for new in (None, "x", 7):
            root = json.loads(json.dumps(whole))
            holder = root
            for key in place[:-1]:
                holder = holder[key]
            if new is None:
                del holder[place[-1]]
            elif holder[place[-1]] == new:
                continue
            else:
                holder[place[-1]] = new
            assert digest_of_document(root) != whole["attributes"]["digest"] or place[-1] == "digest"
    for name in ("status", "lossless", "created", "checks", "digest", "buffers"):
        root = json.loads(json.dumps(whole))
        root["attributes"][name] = "x"
        (path / "zarr.json").write_text(json.dumps(root))
        with pytest.raises(StoreError):
            open_group(path)
        root["attributes"].pop(name)
        (path / "zarr.json").write_text(json.dumps(root))
        if name in whole["attributes"]:
            with pytest.raises(StoreError):
                open_group(path)
    (path / "zarr.json").write_text(json.dumps(whole))  # another layout of the same content
    assert contents(path).keys() == never_killed().keys()


def test_a_store_of_a_version_that_keeps_digests_is_refused_without(path):
    changed(path, checks=None, digest=None, influencekit_version="0.3.0")
    open_group(path)
    for version in ("0.4.0", "0.4.0rc1", "1.0"):
        changed(path, influencekit_version=version)
        with pytest.raises(StoreError, match="the attribute '(checks|digest)' is missing"):
            open_group(path)


def test_a_commit_while_the_store_is_opened_is_no_error(tmp_path, monkeypatch):
    writing = begin(tmp_path / "run.zarr")
    go_on(writing, 3)
    writing.flush()
    check, opened = stores.check_store, []

    def and_then_commit(*args):
        found = check(*args)
        opened.append(len(opened))
        if len(opened) == 1:
            go_on(writing, 5, commits=set())
            writing.flush()
        return found

    monkeypatch.setattr(stores, "check_store", and_then_commit)
    group = open_group(tmp_path / "run.zarr")
    assert group.attrs["committed"] == 5 and len(opened) == 2
    writing.leave()


# what verify says -----------------------------------------------------------------------------------------


def test_verify_says_what_was_compared_and_no_more(path):
    said = str(read_all(open_group(path)))
    assert said.endswith(" read, all as committed")
    changed(path, checks=None, digest=None, influencekit_version="0.3.0")
    said = str(read_all(open_group(path)))
    assert said.endswith("0.3.0 kept no digests: their place is not checked") and "as committed" not in said


def test_an_array_without_its_checksum_codec_is_said(path):
    """Of a store that lists no checksums, since the list would not be that of other metadata."""
    changed(path, checks=None, digest=None, influencekit_version="0.3.0")
    root = document(path)
    root["consolidated_metadata"]["metadata"]["loss"]["codecs"].pop()
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match="the array 'loss' has no checksums"):
        open_group(path)


def test_files_that_are_not_the_stores_and_documents_that_disagree_are_named(path):
    (path / "theta" / "c" / "7").mkdir()
    (path / "theta" / "c" / "7" / "0").write_bytes(chunk_files(path, "theta")[0].read_bytes())
    with pytest.raises(StoreError, match="the file theta/c/7/0 is not of this recording"):
        read_all(open_group(path))
    shutil.rmtree(path / "theta" / "c" / "7")
    (path / "elsewhere").symlink_to(path / "theta")
    with pytest.raises(StoreError, match="the file elsewhere is not of this recording"):
        read_all(open_group(path))
    (path / "elsewhere").unlink()
    own = path / "theta" / "zarr.json"
    content = own.read_text()
    for new in (content.replace("zstd", "lz4"), content.replace('"shape"', '"shapes"'), "{", ""):
        own.write_text(new)
        with pytest.raises(StoreError, match="theta/zarr.json is "):
            read_all(open_group(path))
    own.write_text(content)
    assert read_all(open_group(path)).later == 0


def test_files_that_file_managers_leave_are_no_part_of_the_store(tmp_path):
    path = tmp_path / "run.zarr"
    workload = ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2")
    ik.record(workload, store=path)
    for name in (".DS_Store", "Thumbs.db", "theta/._zarr.json", "kept/.nfs0001"):
        (path / name).write_bytes(b"x")
    assert ik.verify(path, workload=workload).steps == 2


def test_what_is_not_committed_yet_is_counted_and_not_called_right(tmp_path):
    writing = begin(tmp_path / "run.zarr")
    go_on(writing, 4)
    writing.leave()
    (tmp_path / "run.zarr" / "theta" / "c" / "1").mkdir(exist_ok=True)
    shutil.copy(
        chunk_files(tmp_path / "run.zarr", "theta")[0], tmp_path / "run.zarr" / "theta" / "c" / "1" / "0"
    )
    assert str(read_all(open_group(tmp_path / "run.zarr"))).endswith(
        "1 files of steps that are not committed, not read"
    )


def test_a_store_of_before_goes_on_without_a_list(tmp_path):
    """What it holds was never listed, so nothing that is added can make the whole of it right."""
    path, workload = tmp_path / "run.zarr", tiny_workload()
    writing = begin(path)
    go_on(writing, 6)
    writing.leave()
    changed(path, checks=None, digest=None, influencekit_version="0.3.0")
    writing = Writer.resume(path)
    go_on(writing)
    writing.close()
    same(path, never_killed())
    assert not {"checks", "digest"} & open_group(path).attrs.keys()
    assert read_all(open_group(path)).unlisted
    assert "checks" in ik.record(workload, store=tmp_path / "new.zarr").attrs
