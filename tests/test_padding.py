"""Texts padded on the left, of which eager attention makes NaN or a wrong gradient, are named."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

pytest.importorskip("transformers", reason="the extra influencekit[transformers] is not installed")

from helpers_transformers import MODELS, Collation, Texts, sizes, trained, trainer  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM  # noqa: E402

import influencekit as ik  # noqa: E402
from influencekit._training.checks.non_finite import blamed  # noqa: E402
from influencekit._training.checks.padding import LeftPadding  # noqa: E402
from influencekit.errors import DivergedError, InputError  # noqa: E402
from influencekit.trainers.transformers import InfluenceCallback  # noqa: E402

DO = r'pad on the right \(tokenizer.padding_side = "right"\), or use attn_implementation="sdpa"'


def named(act, kind, what):
    with pytest.raises(kind, match=DO) as info:
        act()
    text = str(info.value)
    assert "\n" not in text and len(text) < 700
    assert what in text and "padded on the left (attention_mask)" in text
    return text


def by_trainer(folder, attention, side="left"):
    made = trainer(
        folder, InfluenceCallback(folder / "run.zarr"), kind="llama", double=True, num_train_epochs=1
    )
    made.train_dataset, made.data_collator = Texts(), Collation(side)
    made.model.set_attn_implementation(attention)
    return made


def by_loop(model, side="left", first=True):
    """Recorded by a loop whose `forward=` runs the model, so that the tape sees no losses."""

    def forward(model, batch):
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits

    def loss(logits, labels):
        return cross_entropy(logits[:, :-1].mT, labels[:, 1:], reduction="none", ignore_index=-100).sum(1)

    data, collate = Texts(), Collation(side, first=first)
    loader = torch.utils.data.DataLoader(data, batch_size=6, collate_fn=collate)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ik.Tape(None, model, optimizer, loss=loss, data=data, forward=forward, collate=collate) as tape:
        for _, batch in tape.batches(loader):
            optimizer.zero_grad()
            loss(forward(model, batch), batch["labels"]).mean().backward()
            optimizer.step()
    return tape


def llama(attention):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**sizes(attn_implementation=attention))).double()


def gpt2(attention):
    """With weights so large that the error of the gradient is larger than rounding."""
    torch.manual_seed(0)
    sizes_of_it = {"vocab_size": sizes()["vocab_size"], "n_embd": 8, "n_layer": 2, "n_head": 2}
    no = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "bos_token_id": None, "eos_token_id": None}
    config = GPT2Config(
        n_positions=16, initializer_range=0.3, attn_implementation=attention, **sizes_of_it, **no
    )
    return GPT2LMHeadModel(config)


@pytest.mark.parametrize(
    ("layers", "what"),
    [
        (1, "the losses are finite and their gradient is not"),
        (2, "the training loss became NaN or infinite at step 0"),  # the second layer reads what padding gave
    ],
)
def test_nan_of_eager_attention_in_a_trainer(layers, what, tmp_path, monkeypatch):
    config = LlamaConfig(**sizes(num_hidden_layers=layers))
    monkeypatch.setitem(MODELS, "llama", lambda: LlamaForCausalLM(config))
    text = named(by_trainer(tmp_path, "eager").train, DivergedError, what)
    assert "learning rate" not in text


@pytest.mark.parametrize(("attention", "side"), [("sdpa", "left"), ("eager", "right")])
def test_what_is_advised_in_a_trainer_helps(attention, side, tmp_path):
    run = trained(by_trainer(tmp_path, attention, side), tmp_path / "run.zarr")
    assert bool(ik.estimate(run, "test-loss").influence.notnull().all())


def test_nan_of_eager_attention_in_a_loop_whose_losses_are_not_seen():
    text = named(lambda: by_loop(llama("eager")), DivergedError, "the parameters became NaN")
    assert text.endswith("lower the learning rate, or look for log, sqrt, norm or a division at 0 in the "
                         "model or the loss")  # fmt: skip


def test_a_gradient_that_autograd_has_wrong():
    """GPT-2: the first token of a text is foretold from padding, whose row of attention is constant."""
    named(lambda: by_loop(gpt2("eager")), InputError, "in a way that autograd does not see")
    for model, more in ((gpt2("sdpa"), {}), (gpt2("eager"), {"side": "right"})):
        assert by_loop(model, **more).trajectory().steps > 0


def test_a_test_set_that_is_padded_on_the_left():
    test = Collation("left")([Texts()[i] for i in range(6)])
    run = by_loop(llama("eager"), "right").trajectory(test=test)
    named(lambda: ik.estimate(run, "test-loss"), DivergedError, "the query test-loss is NaN or infinite")


# what is blamed -----------------------------------------------------------------------------------------


def masks(*rows, **more):
    return {"input_ids": torch.ones(len(rows), 3), "attention_mask": torch.tensor(rows), **more}


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        (masks([0, 1, 1], [1, 1, 1]), [True, False]),
        (masks([0, 0, 1], [0, 1, 0]), [True, True]),
        (masks([1, 1, 0], [1, 1, 1]), None),
        (masks([0, 0, 0], [1, 0, 1]), None),  # empty; a hole
        (masks([0, 1], [1, 1], decoder_input_ids=torch.ones(2, 2)), None),  # an encoder sees the whole text
        (masks([1, 1], decoder_attention_mask=torch.tensor([[False, True]])), [True]),
        ({"input_ids": torch.zeros(2, 3)}, None),
        ((torch.zeros(2, 3), torch.zeros(2)), None),
        (None, None),
    ],
)
def test_which_texts_are_padded_on_the_left(batch, rows):
    found = LeftPadding.of(batch)
    assert (None if found is None else found.rows.tolist()) == rows


@pytest.mark.parametrize(
    ("losses", "is_named"),
    [([math.nan, 1.0, 1.0], True), ([math.nan, math.nan, 1.0], False), ([math.nan] * 3, False)],
)
def test_losses_of_other_texts_are_not_laid_on_the_padding(losses, is_named):
    batch = masks([0, 1, 1], [1, 1, 1], [1, 1, 0])
    said = blamed(batch, None, torch.tensor(losses), range(3)) or ""
    assert ("padded on the left" in said) == is_named
