"""Stores that somebody made hostile, with all checksums right, and machines that refuse memory and files.

A part of benchmarks/hostile.py; the laws of the schema are below.
"""

import json
import os
import resource
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers_cli import TINY, fails
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import influencekit as ik
from influencekit._trajectory.schema import read_document
from influencekit._trajectory.store import open_group
from influencekit.cli import cli
from influencekit.cli.problems import WorkloadSource

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks is not installed
from benchmarks import hostile  # noqa: E402
from benchmarks.shared.hostile_stores import make_good, seal  # noqa: E402
from benchmarks.shared.processes import memory  # noqa: E402


@pytest.fixture
def store(recorded, tmp_path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "run.zarr"))


def test_some_of_the_hostile_stores_end_by_one_line_or_with_the_same_scores():
    report = hostile.answer(every=20)
    assert report["stores"] >= 10 and report["became"]["refused"] > 5
    assert hostile.wrong(report) == [], report["odd"]


def document(store: Path) -> dict:
    return json.loads((store / "zarr.json").read_text())


def write(store: Path, root: dict) -> None:
    """The document with its digest made anew, as whoever is hostile does."""
    seal(root)
    (store / "zarr.json").write_text(json.dumps(root))


def entries(value: object, *path: str) -> list[tuple[str, ...]]:
    """Where every entry of every object in a document stands."""
    if not isinstance(value, dict):
        return []
    return [found for key, each in value.items() for found in ((*path, key), *entries(each, *path, key))]


junk = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5),
    st.lists(st.integers(-1, 1), max_size=3), st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_document_with_any_entry_changed_opens_or_is_refused_in_one_line(store, recorded, data):
    """Also one that was removed; the digest is made anew. Nothing else than a StoreError may come of it."""
    root = document(recorded)
    place = data.draw(st.sampled_from(entries(root)))
    *way, last = place
    at = root
    for key in way:
        at = at[key]
    if data.draw(st.booleans()):
        at[last] = data.draw(junk)
    else:
        del at[last]
    try:
        write(store, root)
        open_group(store)
    except ik.StoreError as error:
        assert "\n" not in str(error) and str(store) in str(error)


def test_every_attribute_is_named_where_it_is_not_of_its_type(store, recorded):
    attrs = document(recorded)["attributes"]
    for name in attrs.keys() - {"digest", "influencekit_schema"}:
        root = document(recorded)
        root["attributes"][name] = [[]]
        write(store, root)
        with pytest.raises(ik.StoreError, match=f"'{name}'"):
            open_group(store)


def test_every_array_is_named_where_its_shape_is_not_that_of_its_files(store, recorded):
    for name, doc in document(recorded)["consolidated_metadata"]["metadata"].items():
        for length in (10**15, doc["shape"][0] + 1000):
            root = document(recorded)
            root["consolidated_metadata"]["metadata"][name]["shape"][0] = length
            write(store, root)
            with pytest.raises(ik.StoreError, match=rf"'{name}'|along|states|chunk {name}/"):
                open_group(store)


def test_an_unknown_attribute_and_array_are_let_be_where_a_later_version_wrote_them(store):
    root = document(store)
    root["attributes"] |= {"from_the_future": {"a": 1}, "influencekit_version": "99.0.0"}
    docs = root["consolidated_metadata"]["metadata"]
    shutil.copytree(store / "epoch", store / "mood")
    docs["mood"] = docs["epoch"]
    root["attributes"]["checks"]["mood"] = root["attributes"]["checks"]["epoch"]
    write(store, root)
    assert ik.open(store, WorkloadSource(TINY)(0)).last == 6
    root["attributes"]["influencekit_version"] = ik.__version__
    write(store, root)
    with pytest.raises(ik.StoreError, match="'from_the_future' is unknown"):
        open_group(store)


def test_documents_are_read_with_limits(tmp_path):
    file = tmp_path / "zarr.json"
    for text, words in (
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ('{"a": ' + "[" * 70 + "]" * 70 + "}", "nested too deeply"),
        ('{"a": ' + "[" * 99999 + "]" * 99999 + "}", "nested too deeply"),
        ('{"big": 99999999999999999999}', "'big' has a number of more than 64 bits"),
        ("[" + "1," * 300_000 + "1]", "more than 300,000 values"),
        ("[]", "expected an object"),
        ('{"a"', "not JSON"),
    ):
        file.write_text(text)
        with pytest.raises(ik.StoreError, match=words):
            read_document(file)
    file.write_text('{"a": [1.5, NaN, "x", {}]}')
    assert read_document(file)["a"][3] == {}


@pytest.mark.parametrize(
    "spec", ["epochs=1000000000000", "epochs=2:batch_size=100000000000000", "n_train=9000000000000000"]
)
def test_a_plan_that_a_store_asks_for_is_no_longer_than_the_store(store, spec):
    root = document(store)
    root["attributes"]["info"]["spec"] = f"mnist-1v7-lr:{spec}"
    write(store, root)
    for command in ("estimate", "verify"):
        result = CliRunner().invoke(cli, [command, str(store)])
        assert result.exit_code in (1, 2) and result.stderr.count("\n") == 1
        assert "not a run of this workload" in result.stderr or "ask for fewer" in result.stderr


def test_a_store_names_no_folder_of_data(store):
    root = document(store)
    root["attributes"]["info"]["spec"] += ":data_dir=/dev"
    write(store, root)
    assert "names a folder of data" in fails("estimate", store, code=2)


# machines -----------------------------------------------------------------------------------------------


def limited(kind: int, most: int, *words: str) -> tuple[int, str]:
    """Exit code and errors of a command in a process that the system refuses more than so much."""

    def command() -> list:
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most, hard))
        result = CliRunner().invoke(cli, list(words), prog_name="influencekit")
        resource.setrlimit(kind, (hard, hard))
        return [result.exit_code, result.stderr]

    found = hostile.forked(command, Path.cwd())["found"]
    return found[0], found[1]


@pytest.mark.parametrize("files", [4, 8, 50])
def test_few_open_files_are_enough_or_are_one_line(tmp_path, recorded, files):
    CliRunner().invoke(cli, ["estimate", str(recorded), "--trust", "none"])  # whatever is imported once
    commands = (
        ("record", TINY, "--store", str(tmp_path / "run.zarr")),
        ("estimate", str(recorded), "--trust", "none", "--out", str(tmp_path / "scores.zarr")),
    )
    for words in commands:
        code, errors = limited(resource.RLIMIT_NOFILE, len(os.listdir("/proc/self/fd")) + files, *words)
        assert (code, errors.count("\n")) in ((0, 0), (1, 1)) and "this is a bug" not in errors, errors
        assert code == 0 or files < 50
    for path in tmp_path.glob("[!.]*.zarr"):  # whole, or not there
        assert (path / "zarr.json").exists()


@pytest.mark.parametrize("room", [20, 100])
def test_memory_that_is_refused_is_one_line_and_leaves_what_was_recorded(tmp_path, recorded, room):
    most = (round(memory("VmSize")) + room) << 20
    for words in (
        ("compare", "mnist-1v7-cnn:epochs=1:n_train=200", "--estimators", "dit", "--loo-examples", "4"),
        ("record", "mnist-1v7-cnn:epochs=1:n_train=200", "--store", str(tmp_path / "run.zarr")),
    ):
        code, errors = limited(resource.RLIMIT_AS, most, *words)
        assert (code, errors.count("\n")) in ((0, 0), (1, 1)) and "this is a bug" not in errors, errors
    for path in tmp_path.glob("*.zarr"):
        assert open_group(path).attrs["committed"] >= 0


def test_what_a_good_store_is_stays_so(tmp_path):
    """The kinds of stores that are made hostile open, and give finite scores."""
    for kind in hostile.KINDS:
        path = make_good(kind, tmp_path / f"{kind}.zarr")
        scores = ik.estimate(hostile.opened(kind, path)).influence.values
        assert np.isfinite(scores).all() and scores.any()
