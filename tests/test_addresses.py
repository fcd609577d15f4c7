"""What is written goes to this machine: `~` and file:// are expanded, addresses are refused by name."""

import os
from pathlib import Path

import pytest
import torch
from helpers_cli import TINY, fails, run, workload
from hypothesis import given
from hypothesis import strategies as st

import influencekit as ik
from influencekit._address import local
from influencekit.extend import NewStore

ELSEWHERE = (
    "s3://bucket/x.zarr", "gs://bucket/x.zarr", "memory://x.zarr", "http://host/x.zarr", "zip::x.zip",
    "https://host/x.zarr", "simplecache::s3://bucket/x.zarr", "file://host/x.zarr", "s3:/bucket/x.zarr",
)  # fmt: skip
NO_PATHS = ("", "a\0b.zarr", "x" * 300 + ".zarr", "~nobody-of-this-name/x.zarr", "file:///a%00b.zarr")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """This test's own home and current folder, in which nothing may be left."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.mark.parametrize("text", ELSEWHERE)
def test_an_address_elsewhere_is_refused_by_name(text):
    with pytest.raises(ik.InputError, match="is an address; recorded runs are read from") as refused:
        local(text)
    assert str(refused.value).startswith(text)


@pytest.mark.parametrize("text", NO_PATHS)
def test_what_is_no_path_is_refused_in_one_line(text):
    with pytest.raises(ik.InputError) as refused:
        local(text)
    assert str(refused.value).isprintable() and len(str(refused.value)) < 150


@pytest.mark.parametrize("what", [None, 3, ["a"], object()])
def test_what_is_not_even_text_is_refused(what):
    with pytest.raises(ik.InputError, match="expected a path, got"):
        local(what)


def test_home_and_file_addresses_are_expanded(home):
    assert local("~/run.zarr") == home / "run.zarr" == local(Path("~/run.zarr"))
    for text in ("file:///a%20b/c", "file:/a%20b/c", "file://localhost/a%20b/c", "FILE:///a b/c"):
        assert local(text) == Path("/a b/c")


@given(st.text(st.characters(exclude_characters="\0~", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_other_text_is_itself(text):
    name = f"./{text}"
    assert local(name) == Path(name)


def test_names_with_a_colon_are_names():
    for text in ("a:b", "C:/x", "2026-11-29T01:42/x", "./s3:/x"):
        assert local(text) == Path(text)


def doors(path, work):
    """Every public call that takes a path, by name."""
    run, data, model = ik.record(work), [(work.train[0][0], 0.0)], work.model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return {
        "record": lambda: ik.record(work, store=path),
        "resume": lambda: ik.record(work, store=path, resume=True),
        "open": lambda: ik.open(path, work),
        "Tape": lambda: ik.Tape(path, model, optimizer, loss=lambda o, y: o, data=data).open(),
        "contributions": lambda: ik.contributions(run, store=path),
        "evaluate": lambda: ik.evaluate(run, "lds:m=3", subsets=path),
        "NewStore": lambda: NewStore(path),
        "workload": lambda: ik.make("workload", "mnist-1v7-lr", data_dir=path),
    }


@pytest.mark.parametrize("text", ["s3://bucket/x.zarr", "memory://x", "zip::x.zip", "a\0b"])
def test_every_verb_refuses_it_and_leaves_nothing(text):
    calls = doors(text, workload())
    calls |= {
        "open": doors(text.replace("s3:", "az:"), workload())["open"]
    }  # S3 is read: tests/test_remote.py
    for name, call in calls.items():
        with pytest.raises(ik.InputError) as refused:
            call()
        assert "\n" not in str(refused.value), name
        assert os.listdir() == [], name


def test_every_verb_expands_home(home):
    work = workload()
    for name in ("record", "contributions"):
        doors(f"~/{name}.zarr", work)[name]()
        assert (home / f"{name}.zarr" / "zarr.json").exists()
    assert ik.open("~/record.zarr", work).steps == 2
    assert ik.open(f"file://{home}/record.zarr", work).steps == 2
    doors("~/subsets", work)["evaluate"]()
    assert (home / "subsets").is_dir() and os.listdir() == []


def test_the_trainers_refuse_it_before_training():
    pytest.importorskip("transformers")
    pytest.importorskip("lightning")
    from influencekit.trainers.lightning import InfluenceCallback as Lightning
    from influencekit.trainers.transformers import InfluenceCallback as Transformers

    for kind in (Lightning, Transformers):
        with pytest.raises(ik.InputError, match="is an address"):
            kind("s3://bucket/x.zarr", loss=lambda o, y: o)


COMMANDS = (
    ("record", TINY, "--store", "{}"),
    ("estimate", "{}"),
    ("estimate", "run.zarr", "--out", "{}.csv"),
    ("estimate", "run.zarr", "--remove", "{}"),
    ("compare", "{}"),
    ("compare", TINY, "--out", "{}"),
    ("compare", TINY, "--json", "{}"),
    ("compare", TINY, "--evaluate", "lds", "--subsets", "{}"),
    ("compare", TINY, "--data-dir", "{}"),
    ("plot", "{}"),
    ("plot", "scores.zarr", "--out", "{}"),
    ("verify", "{}"),
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("text", ["s3://bucket/x", "gs://b/x.zarr", "zip::x.zip"])
def test_every_command_refuses_it_and_leaves_nothing(words, text):
    if words[0] in ("estimate", "compare", "verify") and words[1] == "{}":
        text = text.replace("s3:", "az:").replace("gs:", "az:")  # those are read: tests/test_remote.py
    if words[0] == "compare" and "://" not in text and words[1] == "{}":
        assert "no workload named" in fails(*(word.format(text) for word in words), code=2)
    else:
        assert "is an address" in fails(*(word.format(text) for word in words), code=2)
    assert os.listdir() == []


def test_every_command_expands_home(home):
    run("record", TINY, "--store", "~/run.zarr")
    run("estimate", "~/run.zarr", "--out", f"file://{home}/scores.zarr")
    run("verify", "~/run.zarr")
    run("plot", "~/scores.zarr", "--out", "~/plots")
    run("compare", "~/run.zarr", "--estimators", "if", "--json", "~/found.json")
    assert {"run.zarr", "scores.zarr", "plots", "found.json"} <= set(os.listdir(home))
    assert os.listdir() == []
