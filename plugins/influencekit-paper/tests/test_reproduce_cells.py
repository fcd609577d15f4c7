"""The files of cells: whatever was done to one is named in one line, and no figure is made of it."""

import json
import os
import random
import shutil
from functools import cache

import pytest
from influencekit_paper.reproduce import Extent, cells, experiments, forms, plan
from influencekit_paper.reproduce import reproduce as in_python
from influencekit_paper.reproduce.cells import Cell

import influencekit as ik
from influencekit.errors import StoreError
from influencekit.extend import hold, sealed

TINY = "mnist-1v7-lr:setting=paper:epochs=6:n_train=24:batch_size=8"
OPTIONS = {
    "patterns": (), "agreement": (), "by-pattern": (), "stages": (), "detection": (("flipped", 0.2),),
    "retraining": (("flipped", 0.2), ("examples", 10)), "ceiling": (("moved", 0.01), ("runs", 2)),
    "ceiling-by-pattern": (("moved", 0.01), ("runs", 2)),
}  # fmt: skip
CELLS = {name: Cell(name, TINY, 0, options) for name, options in OPTIONS.items()}


@cache
def result(name):
    return cells.run(CELLS[name], "cpu")


@pytest.fixture
def cell(tmp_path):
    """A cell that was saved, its path and its content without the digest."""
    cells.save(tmp_path, CELLS["stages"], "cpu", result("stages"))
    path = tmp_path / CELLS["stages"].file
    content = json.loads(path.read_text())
    del content["digest"]
    return CELLS["stages"], path, content


def named(tmp_path, cell, path, *words):
    with pytest.raises(StoreError) as caught:
        cells.load(tmp_path, cell, "cpu")
    line = str(caught.value)
    assert line.startswith(f"{path} cannot be used: ") and "; delete it, and the cell is done again" in line
    assert "\n" not in line and line.isprintable() and len(line) < len(str(path)) + 250
    assert all(word in line for word in words), line
    return line


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_of_every_experiment_is_read_as_it_was_saved(tmp_path, name):
    cells.save(tmp_path, CELLS[name], "cpu", result(name))
    found = cells.load(tmp_path, CELLS[name], "cpu")
    assert found.found == json.loads(json.dumps(result(name).found)) and found.checked


def test_every_flipped_bit_is_named(tmp_path, cell):
    cell, path, _ = cell
    data = path.read_bytes()
    draw = random.Random(0)
    for place in draw.sample(range(len(data)), 300):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :])
        named(tmp_path, cell, path)
    for length in (0, 1, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        named(tmp_path, cell, path)
    path.write_bytes(data + b"\n")
    named(tmp_path, cell, path, "its digest")


def leaves(value, at=()):
    """Where every number and word of a content is."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*at, key))
    else:
        yield at


def changed(content, at, value):
    other = json.loads(json.dumps(content))
    part = other
    for key in at[:-1]:
        part = part[key]
    if value is None:
        del part[at[-1]]
    else:
        part[at[-1]] = value
    return other


@pytest.mark.parametrize("name", CELLS)
def test_what_has_a_right_digest_and_is_none_of_the_experiment_is_named(tmp_path, name):
    """Values that no experiment gives, in every place, written by somebody who makes the digest, too."""
    cell = CELLS[name]
    cells.save(tmp_path, cell, "cpu", result(name))
    path = tmp_path / cell.file
    content = json.loads(path.read_text())
    del content["digest"]
    places = [at for at in leaves(content) if at[0] != "made_with"]
    draw = random.Random(1)
    for at in draw.sample(places, min(30, len(places))):
        for value in (None, [], {"a": 1}, True, 10**400, -(10**30), float("inf"), "\x1b[2J"):
            if value is None and isinstance(at[-1], int):
                continue  # a shorter list is as good
            path.write_text(sealed(changed(content, at, value)))
            named(tmp_path, cell, path)
    path.write_text(sealed(content | {"found": content["found"] | {"accuracy": float("nan")}}))
    named(tmp_path, cell, path, "'found.accuracy' is not a number from 0 to 1")
    path.write_text(sealed(content | {"schema": 2}))
    named(tmp_path, cell, path, "its schema is 2, this version reads 1")
    for entry in content:
        path.write_text(sealed({k: v for k, v in content.items() if k != entry}))
        named(tmp_path, cell, path)
    path.write_text(sealed(content | {"more": 1}))
    named(tmp_path, cell, path, "'more' does not belong there")


def test_lists_that_belong_together_are_of_one_length(tmp_path):
    for name, entry in (("patterns", "ids"), ("detection", "epochs")):
        content = {"seconds": 1.0, "machine": "m", "found": result(name).found}
        assert forms.misfit(name, content) is None
        shorter = content["found"] | {entry: content["found"][entry][:-1]}
        assert "different lengths" in forms.misfit(name, content | {"found": shorter})


def test_exchanged_cells_are_named(tmp_path, cell):
    cell, path, _ = cell
    for other in (Cell("stages", TINY, 1), Cell("stages", TINY.replace("=6", "=5"), 0)):
        cells.save(tmp_path, other, "cpu", result("stages"))
        shutil.copy(tmp_path / other.file, path)
        named(tmp_path, cell, path, "it is of another cell, with another")


@pytest.mark.parametrize(
    "text", ["", "[]", "1", "null", '"a"', "[" * 100_000, "{" * 9, "9" * 5000, "\x00" * 50]
)
def test_what_is_no_cell_at_all_is_named(tmp_path, cell, text):
    cell, path, _ = cell
    path.write_text(text)
    named(tmp_path, cell, path)


def test_links_pipes_folders_and_huge_files_are_named_and_not_waited_for(tmp_path, cell, monkeypatch):
    cell, path, _ = cell
    os.rename(path, tmp_path / "elsewhere")
    for make in (lambda: os.symlink(tmp_path / "elsewhere", path), lambda: os.mkfifo(path), path.mkdir):
        make()
        named(tmp_path, cell, path, "it is not a regular file")
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # of nothing
    named(tmp_path, cell, path, "it has more than 64 MiB")


def test_a_cell_of_0_3_has_no_digest_and_is_read_and_said_to_be_unchecked(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "spec", lambda model, data, setting="paper": TINY)
    monkeypatch.setattr(plan, "SMALL", [("lr", "mnist")])
    (new,) = in_python(["table4"], tmp_path, Extent(2))
    assert not any("digest" in note for note in new.notes)
    path = tmp_path / Cell("stages", TINY, 1).file
    content = json.loads(path.read_text())
    old = {name: content[name] for name in ("made_with", "seconds", "machine", "found")}
    path.write_text(json.dumps(old) + "\n")
    (report,) = in_python(["table4"], tmp_path, Extent(2))
    assert report.lines == new.lines
    assert report.notes[-1].startswith("1 of 2 cells were kept by a version that wrote no digests")
    assert report.notes[-1] in (tmp_path / "table4.md").read_text()
    old["found"]["accuracy"] = 55.0
    path.write_text(json.dumps(old) + "\n")
    named(tmp_path, Cell("stages", TINY, 1), path, "'found.accuracy' is not")
    path.write_text(json.dumps(content | {"digest": None}) + "\n")
    named(tmp_path, Cell("stages", TINY, 1), path, "entries are missing")


# other versions are done again --------------------------------------------------------------------------


def resealed(path, **made):
    content = json.loads(path.read_text())
    del content["digest"]
    path.write_text(sealed(content | {"made_with": content["made_with"] | made}))


def test_a_cell_made_with_something_else_is_done_again(tmp_path, monkeypatch):
    cell = CELLS["stages"]
    cells.save(tmp_path, cell, "cpu", result("stages"))
    assert cells.load(tmp_path, cell, "cuda") is None
    monkeypatch.setitem(experiments.EXPERIMENTS, "stages", experiments.Experiment(experiments.stages, 99))
    assert cells.load(tmp_path, cell, "cpu") is None


def test_a_cell_of_a_version_with_the_same_numbers_is_not_done_again(tmp_path, monkeypatch):
    cell = CELLS["stages"]
    cells.save(tmp_path, cell, "cpu", result("stages"))
    path = tmp_path / cell.file
    assert json.loads(path.read_text())["made_with"]["influencekit"] == ik.__version__
    for version, known in (("0.1.0", True), ("0.3.0", True), ("0.0.9", False)):
        resealed(path, influencekit=version)
        for ours in ("0.1.0", "0.3.0"):
            monkeypatch.setattr(ik, "__version__", ours)
            assert (cells.load(tmp_path, cell, "cpu") is not None) == known
        monkeypatch.setattr(ik, "__version__", "9.9.9")
        assert cells.load(tmp_path, cell, "cpu") is None


def test_two_processes_on_one_folder_one_is_refused(tmp_path):
    (tmp_path / "cells").mkdir()
    release = hold(tmp_path)
    try:
        with pytest.raises(StoreError, match="is being written by another process"):
            in_python(["table4"], tmp_path, Extent(1))
    finally:
        release()
    assert not list(tmp_path.rglob("*.json"))
