"""Tokens of sequence to sequence models as parts: padded on either side, of the encoder and of the labels."""

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="the extra influencekit[transformers] is not installed")

from helpers_transformers import N, gap, trained, trainer  # noqa: E402

import influencekit as ik  # noqa: E402
from influencekit.trainers.transformers import InfluenceCallback  # noqa: E402

KINDS = ["t5", "bart"]


class Pairs(torch.utils.data.Dataset):
    """Texts and labels of different lengths; what pads them is the collation."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return {
            "input_ids": [2 + (i * k) % (N - 2) for k in range(1, 4 + i % 5)],
            "labels": [2 + (i + 3 * k) % (N - 2) for k in range(1 + (2 * i) % 6)],
        }


class Collation:
    """Pads texts and labels on one side each. `mask`: whether the decoder is told what is padding; `width`:
    of all labels, else they are as wide as the longest of the batch."""

    def __init__(self, text, labels, mask=True, width=0, start=0):
        self.text, self.labels, self.mask, self.width, self.start = text, labels, mask, width, start

    def __call__(self, examples):
        texts, labels = ([each[name] for each in examples] for name in ("input_ids", "labels"))
        batch = {
            "input_ids": self.padded(texts, self.text, 0),
            "attention_mask": self.padded([[1] * len(t) for t in texts], self.text, 0),
            "labels": self.padded(labels, self.labels, -100, self.width),
        }
        if self.mask:  # and what the decoder reads: the start, then the labels but the last
            read = [[self.start, *each[:-1]] for each in labels]
            batch["decoder_input_ids"] = self.padded(read, self.labels, 0, self.width)
            ones = [[1] * len(each) for each in labels]
            batch["decoder_attention_mask"] = self.padded(ones, self.labels, 0, self.width)
        return batch

    @staticmethod
    def padded(rows, side, value, width=0):
        width = max(width, *map(len, rows))
        pad = [[value] * (width - len(row)) for row in rows]
        pairs = zip(rows, pad, strict=True)
        return torch.tensor([row + more if side == "right" else more + row for row, more in pairs])


def recorded(folder, kind, text="right", labels="right", **options):
    """A run in float64, by a Trainer with nothing but the callback, without what tells the sides apart:
    dropout, which is drawn for padding, too, and BART's positions, which padding moves."""
    folder.mkdir(exist_ok=True)
    made = trainer(
        folder, InfluenceCallback(folder / "run.zarr", check=1, recorder="full"),
        kind=kind, double=True, adam_epsilon=1e-3, num_train_epochs=1, seed=0,
    )  # fmt: skip
    for module in made.model.modules():
        for name in ("dropout", "activation_dropout", "p"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    for name, value in made.model.named_parameters():
        if "embed_positions" in name:
            value.requires_grad_(False).copy_(value[:1].clone())
    made.train_dataset = Pairs()
    made.data_collator = Collation(text, labels, start=int(kind == "bart"), **options)
    made.model.set_attn_implementation("sdpa")  # the eager one gives NaN in float64 at padding
    return trained(made, folder / "run.zarr")


@pytest.fixture(scope="module", params=KINDS)
def right(request, tmp_path_factory):
    """The kind, and of its run that is padded on the right: scores of parts, and retraining without six."""
    run = recorded(tmp_path_factory.mktemp(request.param) / "right", request.param)
    found = (ik.estimate(run, "test-loss", e, parts=True).influence for e in ("dit", "loo:examples=6"))
    return request.param, *found


@pytest.mark.parametrize(("text", "labels"), [("left", "right"), ("right", "left"), ("left", "left")])
def test_padding_on_the_left_gives_the_scores_of_padding_on_the_right(right, text, labels, tmp_path):
    """Where the decoder is told what is padding. To 1e-6, of estimates and of retraining."""
    kind, scores, exact = right
    run = recorded(tmp_path / "a", kind, text, labels)
    parts = ik.estimate(run, "test-loss", parts=True)
    np.testing.assert_allclose(parts.influence, scores, rtol=0, atol=1e-6 * float(abs(scores).max()))
    lengths = [len(Pairs()[i]["labels"]) for i in range(N)]
    assert scores[0, 0].notnull().sum("part").values.tolist() == lengths
    assert scores.sizes["part"] == max(lengths)
    assert gap(parts, ik.estimate(run, "test-loss")) < 1e-11
    if text == labels:
        found = ik.estimate(run, "test-loss", "loo:examples=6", parts=True).influence
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6 * float(abs(exact).max()))


@pytest.mark.parametrize("kind", KINDS)
def test_labels_padded_on_the_left_of_which_nothing_is_said_are_refused_by_name(kind, tmp_path):
    """The decoder reads the padding, so a token's loss depends on its batch."""
    run = recorded(tmp_path / "a", kind, "left", "left", mask=False)
    with pytest.raises(ik.InputError, match="decoder_attention_mask for sequence to sequence") as caught:
        ik.estimate(run, "test-loss", parts=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_one_width_stay_in_their_columns_on_either_side(kind, tmp_path):
    """Parts are columns then, and add up; the encoder's mask, of the same shape, says nothing of them."""
    run = recorded(tmp_path / "a", kind, "right", "left", mask=False, width=7)
    assert run.workload.test["attention_mask"].shape == run.workload.test["labels"].shape
    whole, parts = (ik.estimate(run, "test-loss", parts=p) for p in (False, True))
    assert gap(parts, whole) < 1e-11
    there = parts.influence[0, 0].notnull().values
    lengths = [len(Pairs()[i]["labels"]) for i in range(N)]
    assert all(row[-n:].all() and not row[:-n].any() for row, n in zip(there, lengths, strict=True))
