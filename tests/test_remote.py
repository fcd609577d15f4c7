"""Runs at addresses: what is read there is what was recorded, and whatever goes wrong is one line."""

import json
import multiprocessing
import os
import shutil
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers_cli import TINY, fails, run
from helpers_servers import google, s3, web

import influencekit as ik
from influencekit._trajectory.store import open_group
from influencekit.cli.problems import WorkloadSource, reopen

obstore = pytest.importorskip("obstore")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """A folder with a run, and contributions of it."""
    folder = tmp_path_factory.mktemp("web")
    trajectory = ik.record(WorkloadSource(TINY)(0), store=folder / "run.zarr")
    ik.contributions(trajectory, at=[3, 6], store=folder / "parts.zarr")
    return folder


@pytest.fixture(scope="module")
def served(recorded):
    with web(recorded) as (address, _):
        yield address


@pytest.fixture
def broken(recorded, tmp_path):
    """A folder with a run that may be broken, its address and its server."""
    folder = tmp_path / "web"
    shutil.copytree(recorded, folder)
    with web(folder) as (address, process):
        yield folder, f"{address}/run.zarr", process


@pytest.fixture(scope="module")
def bucket(recorded):
    """What the folder holds, in a bucket of S3."""
    pytest.importorskip("moto")
    before, keys = dict(os.environ), ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    with s3() as address:
        os.environ |= dict.fromkeys(keys, "any") | {"AWS_ENDPOINT_URL": address, "AWS_REGION": "us-east-1"}
        os.environ["AWS_ALLOW_HTTP"] = "true"
        urllib.request.urlopen(urllib.request.Request(f"{address}/bucket", method="PUT"))
        files = obstore.store.from_url("s3://bucket/runs", client_options={"allow_http": True})
        for path in recorded.rglob("*"):
            if path.is_file():
                obstore.put(files, path.relative_to(recorded).as_posix(), path.read_bytes())
        yield files
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.parametrize("place", ["served", "bucket"])
def test_a_run_elsewhere_is_the_run(recorded, place, request):
    found = request.getfixturevalue(place)
    there = f"{found}/run.zarr/" if place == "served" else "s3://bucket/runs/run.zarr"
    work = WorkloadSource(TINY)(0)
    mine, theirs = ik.open(recorded / "run.zarr", work), ik.open(there, work)
    for t in range(mine.steps + 1):
        assert (mine.state(t).theta == theirs.state(t).theta).all()
    assert ik.estimate(mine, "test-loss", "dit").equals(ik.estimate(theirs, "test-loss", "dit"))
    assert ik.verify(there, workload=work).gap == 0
    assert theirs.dataset.equals(xr.open_zarr(recorded / "run.zarr"))
    said = run("estimate", there, "--trust", "none").output
    assert said == run("estimate", recorded / "run.zarr", "--trust", "none").output
    looked = run("verify", there).output
    assert ("cannot be listed" in looked) == (place == "served")


@pytest.mark.parametrize("place", ["served", "bucket"])
def test_contributions_elsewhere_are_read_by_xarray(recorded, place, request):
    found = request.getfixturevalue(place)
    from obstore.store import from_url
    from zarr.storage import ObjectStore

    where = f"{found}/parts.zarr" if place == "served" else "s3://bucket/runs/parts.zarr"
    files = from_url(where, client_options={"allow_http": True})
    there = xr.open_zarr(ObjectStore(files, read_only=True))
    here = xr.open_zarr(recorded / "parts.zarr")
    windows = [ik.Window(0, 3), ik.Window(3, 6)]
    assert ik.sum_over_windows(there, windows).equals(ik.sum_over_windows(here, windows))


def test_a_run_in_a_bucket_of_google_is_the_run(recorded, tmp_path, monkeypatch):
    account = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    shutil.copytree(recorded, tmp_path / "objects" / "runs")
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    there = "gs://bucket/runs/run.zarr"
    with google(tmp_path / "objects") as address:
        (tmp_path / "account.json").write_text(json.dumps({"gcs_base_url": address, **account}))
        assert "GOOGLE_ALLOW_HTTP" in fails("estimate", there, code=1)
        monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
        said = run("estimate", there, "--trust", "none").output
        assert said == run("estimate", recorded / "run.zarr", "--trust", "none").output
        assert "cannot be listed" not in run("verify", there).output
        (tmp_path / "objects/runs/run.zarr/batch/c/0/0").unlink()
        assert "chunk batch/c/0/0 is missing" in fails("estimate", there, code=1)


def test_what_a_bucket_of_google_refuses_is_one_line(bucket, tmp_path, monkeypatch):
    """moto stands for its server. It knows no keys of Google's, so it refuses them."""
    account = {
        "gcs_base_url": os.environ["AWS_ENDPOINT_URL"], "disable_oauth": True, "client_email": "",
        "private_key": "", "private_key_id": "",
    }  # fmt: skip
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
    said = fails("estimate", "gs://bucket/runs/run.zarr", code=1)
    assert "gs://bucket/runs/run.zarr: zarr.json cannot be read: access is denied" in said


def test_what_is_in_the_bucket_and_not_of_the_run_is_named(bucket):
    obstore.put(bucket, "run.zarr/theta/c/9/9", b"x")
    try:
        assert "theta/c/9/9 is not of this recording" in fails("verify", "s3://bucket/runs/run.zarr", code=1)
    finally:
        obstore.delete(bucket, "run.zarr/theta/c/9/9")


def test_a_bucket_that_misses_a_chunk_is_refused_at_the_door(bucket):
    data = bytes(obstore.get(bucket, "run.zarr/batch/c/0/0").bytes())
    obstore.delete(bucket, "run.zarr/batch/c/0/0")
    try:
        said = fails("estimate", "s3://bucket/runs/run.zarr", code=1)
        assert "chunk batch/c/0/0 is missing" in said and "copy the store there again" in said
    finally:
        obstore.put(bucket, "run.zarr/batch/c/0/0", data)


def old(folder: Path) -> None:  # such a store has no list of its chunks, so it could say anything
    file = folder / "run.zarr/zarr.json"
    said = json.loads(file.read_text())
    said["attributes"]["influencekit_version"] = "0.3.0"
    del said["attributes"]["checks"], said["attributes"]["digest"]
    file.write_text(json.dumps(said))


def truncated(folder: Path) -> None:
    file = folder / "run.zarr/theta/c/0/0"
    file.write_bytes(file.read_bytes()[:-9])


def lost(folder: Path) -> None:
    (folder / "run.zarr/theta/c/0/0").unlink()


def other(folder: Path) -> None:  # a right chunk, but of another place
    again = ik.record(WorkloadSource(TINY)(1), store=folder / "other.zarr")
    shutil.copy(folder / "other.zarr/theta/c/0/0", folder / "run.zarr/theta/c/0/0")
    assert again.steps == 6


def page(folder: Path) -> None:  # what a portal shows for any address
    (folder / "run.zarr/theta/c/0/0").write_text("<html>please log in</html>")


def root(folder: Path) -> None:
    (folder / "run.zarr/zarr.json").write_text("<html>please log in</html>")


def edited(folder: Path) -> None:
    file = folder / "run.zarr/zarr.json"
    said = json.loads(file.read_text())
    said["attributes"]["accuracy"] = 1.0
    file.write_text(json.dumps(said))


def half(folder: Path) -> None:  # the server closes the connection within the file
    (folder / "cut").write_text("theta/c/0/0")


def large(folder: Path) -> None:
    with open(folder / "run.zarr/theta/c/0/0", "r+b") as file:
        file.truncate(1 << 40)  # sparse


BROKEN = {
    truncated: "is corrupted", lost: "is missing", other: "is not the one that was committed",
    page: "is corrupted", root: "see what the address gives", edited: "is not as it was committed",
    half: "cannot be read", old: "before 0.4", large: "expected at most",
}  # fmt: skip


@pytest.mark.parametrize("break_it", BROKEN, ids=lambda f: f.__name__)
def test_what_is_broken_there_is_one_line(broken, break_it):
    folder, address, _ = broken
    break_it(folder)
    said = fails("estimate", address, code=1)
    assert address in said and BROKEN[break_it] in said and len(said) < 300


def test_a_server_that_dies_is_one_line(broken):
    _, address, process = broken
    trajectory = reopen(address, None)
    process.kill()
    process.wait()
    trajectory.group.store._held.clear()
    with pytest.raises(ik.StoreError, match="cannot be read .*; try again") as said:
        ik.estimate(trajectory, "test-loss", "dit")
    assert "\n" not in str(said.value) and address in str(said.value)


def test_nothing_there(served, bucket):
    for address in (f"{served}/none.zarr", "s3://bucket/none.zarr", "s3://no-such-bucket/run.zarr"):
        assert f"no trajectory at {address}" in fails("estimate", address, code=1)


def test_without_credentials(served, bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "no credentials were found" in fails("estimate", "s3://bucket/runs/run.zarr", code=1)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", served)  # where a machine in a cloud would ask
    said = fails("estimate", "s3://bucket/runs/run.zarr", code=1)
    assert "s3://bucket/runs/run.zarr: zarr.json cannot be read: no credentials were found" in said


@pytest.mark.parametrize(
    "text, why",
    [
        ("http://example.org/run.zarr", "use https"),
        ("https://me:secret@example.org/run.zarr", "without user, password"),
        ("https://example.org/run.zarr?signature=secret", "without user, password"),
        ("s3://", "expected s3://bucket"),
        ("s3://a b/run.zarr", "expected s3://bucket"),
        ("https://host:port/run.zarr", "no address that can be read"),
        ("az://container/run.zarr", "is an address"),
    ],
)
def test_addresses_that_are_refused(text, why):
    for said in (fails("estimate", text, code=2), fails("verify", text, code=2)):
        assert why in said and "secret" not in said


def test_without_the_library_it_is_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    monkeypatch.delitem(__import__("sys").modules, "influencekit._trajectory.remote", raising=False)
    assert "pip install 'influencekit[remote]'" in fails("estimate", "s3://bucket/run.zarr", code=2)


def _forked(address: str, queue) -> None:
    try:
        open_group(address)
    except ik.StoreError as error:
        queue.put(str(error))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_is_refused_and_does_not_hang(served):
    open_group(f"{served}/run.zarr")
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_forked, args=(f"{served}/run.zarr", queue))
    child.start()
    child.join(60)
    assert child.exitcode == 0 and "'spawn'" in queue.get()


def test_reading_twice_fetches_once(served, monkeypatch):
    group = open_group(f"{served}/run.zarr")
    asked = []
    fetch = group.store._fetch
    monkeypatch.setattr(group.store, "_fetch", lambda key, most: asked.append(key) or fetch(key, most))
    from influencekit._trajectory.store import read

    first, again = read(group, "theta"), read(group, "theta", slice(2, 4))
    assert np.array_equal(first[2:4], again) and len(asked) == len(set(asked)) > 0
