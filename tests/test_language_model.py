"""The benchmark of a small language model: its pieces of words, its model, its scores, its figures."""

import json
import sys
from collections import Counter
from math import log
from pathlib import Path

import pytest
import torch
import xarray as xr
from click.testing import CliRunner

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # what is not installed

pytest.importorskip("influencekit_paper")

from benchmarks.__main__ import main  # noqa: E402
from benchmarks.language_model import language_model, text  # noqa: E402
from benchmarks.language_model.model import Decoder, sequence_losses, unigram_loss  # noqa: E402
from benchmarks.language_model.scores import BM25  # noqa: E402


def test_the_most_frequent_pair_becomes_a_piece_first():
    merges = text.learnt(Counter({"aab": 5, "ab": 2, "ca": 6}), 2)
    assert merges == [("a", "b"), ("c", "a")]  # 7 times; then 6, against 5 of a with ab
    assert text.joined(tuple("aaab"), ("a", "a")) == ("aa", "a", "b")


def test_targets_are_the_pieces_after_the_inputs_and_read_as_words():
    inputs, targets = text.sequences("train", 12, 5)
    assert inputs.shape == targets.shape == (5, 12)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(inputs, text.sequences("train", 12, 9)[0][:5])
    found = [" ".join(text.words(row)) for row in inputs]
    posts = ["".join(words) for words in text._texts()["train"]]
    assert all(any(one in post for post in posts) for one in found)


def test_the_model_does_not_look_ahead_and_starts_near_chance():
    torch.manual_seed(0)
    model = Decoder(50, 6, 16, 2, 2).double()
    x = torch.randint(50, (3, 6))
    changed = torch.cat([x[:, :4], (x[:, 4:] + 1) % 50], 1)
    before, after = model(x), model(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])
    losses = sequence_losses(before, x)
    by_hand = -before.log_softmax(-1).gather(-1, x[..., None])[..., 0].mean(1)
    torch.testing.assert_close(losses, by_hand)
    assert abs(losses.mean().item() - log(50)) < 0.3


def test_the_unigram_loss_is_that_of_the_frequencies():
    train, test = torch.tensor([[0, 0, 1]]), torch.tensor([[0, 2]])
    assert unigram_loss(train, test, 3) == pytest.approx(-(log(3 / 6) + log(1 / 6)) / 2)


def test_bm25_is_its_formula_and_a_word_that_is_rare_counts_more():
    train = [["a", "b", "b"], ["a"], ["c", "a"]]
    found = BM25().relevance(train, [["b", "a"], ["d"]])
    common, rare = log(1 + 0.5 / 3.5), log(1 + 2.5 / 1.5)
    norm = 1.2 * (0.25 + 0.75 * 3 / 2)
    assert found[0][0] == pytest.approx(rare * 2 * 2.2 / (2 + norm) + common * 2.2 / (1 + norm))
    assert found[0][0] > found[0][1] > found[0][2] > 0 and found[1] == [0, 0, 0]


def test_what_predicts_every_set_has_the_ceiling_and_what_is_its_opposite_has_none_of_it():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(2, 1, 40, generator=generator)  # [query, window, subset]
    noise = 0.3 * torch.randn(2, 1, 40, generator=generator)
    left_out = torch.rand(40, 6, generator=generator) > 0.5

    def result(retrained: torch.Tensor) -> xr.Dataset:
        predicted = torch.stack([truth, -truth])
        signs = torch.tensor([[1.0], [-1.0]])
        return xr.Dataset(
            {
                "retrained": (("query", "window", "subset"), retrained),
                "predicted": (("estimator", "query", "window", "subset"), predicted),
                "left_out": (("subset", "train"), left_out),
                **{k: (("estimator", "window"), signs) for k in ("mean", "mean_low", "mean_high")},
            },
            coords={"estimator": ["right", "wrong"]},
        )

    runs = {"recorded": result(truth), "moved": result(truth), "other seed": result(truth + noise)}
    found = language_model.figures(runs)
    assert found["ceiling"] == pytest.approx(1) and found["again"]["moved"] == pytest.approx(1)
    right, wrong = (found["estimators"][name] for name in ("right", "wrong"))
    assert right["of ceiling"] == pytest.approx(1) and wrong["of ceiling"] == pytest.approx(-1)
    assert right["other seed"] == pytest.approx(found["again"]["other seed"])
    assert 0.8 < right["other seed"] < 1


def test_a_quick_answer_has_the_layout_of_the_committed_one_and_goes_on_from_its_folder(tmp_path):
    out = tmp_path / "found.json"
    words = ["language_model", "--quick", "--only", "batch-64", "--folder", str(tmp_path / "kept")]
    first = CliRunner().invoke(main, [*words, "--out", str(out)], catch_exceptions=False)
    assert first.exit_code == 0 and "recorded-mean-test-loss-dit" in first.output
    found = json.loads(out.read_text(encoding="utf-8"))
    again = CliRunner().invoke(main, [*words, "--out", str(out)], catch_exceptions=False)
    assert again.exit_code == 0 and "recorded-mean-test-loss-dit" not in again.output
    kept = json.loads(out.read_text(encoding="utf-8"))
    mine, theirs = (each["cases"]["batch-64"] for each in (found, kept))
    assert mine["queries"] == theirs["queries"]
    assert mine["seconds"]["one retraining"] == theirs["seconds"]["one retraining"]
    committed = json.loads(
        (ROOT / "benchmarks" / "results" / "language_model.json").read_text(encoding="utf-8")
    )
    assert set(found) == set(committed)
    part = committed["cases"]["batch-64"]
    assert set(mine) == set(part) and set(mine["losses"]) == set(part["losses"])
    one, other = (each["queries"]["mean test loss"]["halves"] for each in (mine, part))
    assert set(one) == set(other) and set(one["estimators"]) <= set(other["estimators"])
