"""TRL's SFTTrainer with the callback: recorded as a loop by hand would do it, or refused in one line."""

import pytest
import torch

pytest.importorskip("trl", reason="the extra influencekit[trl] is not installed")
pytest.importorskip("peft", reason="the extra influencekit[peft] is not installed")

from helpers_trl import gpt2, model, sft, trained  # noqa: E402
from peft import LoraConfig  # noqa: E402

import influencekit as ik  # noqa: E402
from influencekit._training.call import values_of  # noqa: E402
from influencekit.trainers.model_losses import own_loss  # noqa: E402
from influencekit.trainers.transformers import InfluenceCallback, reopen_with  # noqa: E402
from influencekit.trainers.trl_models import forward_of_trl, logits_of_trl  # noqa: E402

ADAPTER = {"r": 2, "target_modules": ["query_key_value"], "task_type": "CAUSAL_LM"}


def record(folder, **settings):
    done = sft(folder, InfluenceCallback(folder / "run.zarr", check=1, recorder="every-k:k=2"), **settings)
    done.train()
    test = dict(done.data_collator([done.train_dataset[k] for k in range(4)]))
    return done, ik.open(folder / "run.zarr", test=test, **reopen_with(done))


def require_replayed(run):
    gap = run.attrs["replay"].rpartition("to ")[2]
    assert gap.endswith("bit for bit") or float(gap.split()[0]) < 1e-6, run.attrs["replay"]


def by_hand(done, run, weight=None, build=model):
    """The recorded batches in a loop of plain torch: the trainer's collation, AdamW, clipping, schedule."""
    own, first = build().double(), build is gpt2  # of which the Trainer counts first labels, too
    rule = torch.optim.AdamW(own.parameters(), lr=1.0, weight_decay=0.0, eps=1e-3)
    for t in range(run.steps):
        rule.zero_grad()
        rows = [int(k) for k in run.plan.indices[t] if k >= 0]
        batch = done.data_collator([done.train_dataset[k] for k in rows])
        labels = batch["labels"][:, 1:]
        logits = own(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        each = torch.nn.functional.cross_entropy(logits.mT, labels, reduction="none").sum(1)
        scale = torch.ones(len(rows)).double() if weight is None else weight[rows]
        counted = batch["labels"] if first else labels
        ((scale * each).sum() / (counted != -100).sum()).backward()
        torch.nn.utils.clip_grad_norm_(own.parameters(), 1.0)
        rule.param_groups[0]["lr"] = float(run.plan.lr[t, 0])
        rule.step()
    return own


EXACT = {
    "text": {},
    "accumulation": {"gradient_accumulation_steps": 2},
    "completions only": {"kind": "completion"},
    "assistant only": {"kind": "chat", "assistant_only_loss": True},
    "a class that is not called ForCausalLM": {"build": gpt2, "gradient_accumulation_steps": 2},
    "packed rows": {"packing": True, "packing_strategy": "wrapped", "max_length": 8},
}


@pytest.mark.parametrize("settings", EXACT.values(), ids=EXACT)
def test_weights_are_those_of_a_loop_by_hand_and_scores_its_derivative(settings, tmp_path):
    settings = dict(settings)
    build = settings.pop("build", model)
    done, run = record(tmp_path, made=build().double(), adam_epsilon=1e-3, **settings)
    hand = torch.cat([p.detach().reshape(-1) for p in by_hand(done, run, None, build).parameters()])
    torch.testing.assert_close(trained(done), hand, rtol=1e-4, atol=1e-6)  # TRL's head is float32
    if "packing" not in settings:  # rows of packed texts are full; others hold what is not predicted
        assert bool((run.workload.test["labels"] == -100).any())
    scores = ik.estimate(run, "test-loss", "dit").influence.squeeze().values
    j, h, ends = int(abs(scores).argmax()), 1e-4, []
    for sign in (1, -1):
        weight = torch.ones(len(scores), dtype=torch.float64)
        weight[j] += sign * h
        own = by_hand(done, run, weight, build)
        with torch.no_grad():
            theta = torch.cat([p.reshape(-1) for p in own.parameters()])
            ends.append(float(run.workload.losses(theta, run.workload.test).mean()))
    assert scores[j] == pytest.approx(-(ends[0] - ends[1]) / (2 * h), rel=1e-4) and scores[j] != 0


@pytest.mark.parametrize("bf16", [False, True])
def test_adapters_are_recorded_and_nothing_else(bf16, tmp_path):
    """TRL trains in bfloat16 unless told otherwise; its head is replayed as it is."""
    done, run = record(tmp_path, peft=LoraConfig(**ADAPTER, lora_dropout=0.1), bf16=bf16)
    assert all("lora_" in name for name in run.workload.layout.names)
    require_replayed(run)
    torch.testing.assert_close(run.state(run.steps).theta, trained(done))
    left = ik.verify_top(run, "test-loss", "dit", top=1)
    assert float(left.retrained.squeeze()) * float(left.estimate.squeeze()) > 0


def test_autocast_that_accelerate_puts_around_the_forward_pass_is_the_callers_to_choose(tmp_path):
    """The first step is also held against float32; there TRL's forward pass gives what the model's does."""
    done, run = record(tmp_path, bf16=True)
    require_replayed(run)
    torch.testing.assert_close(run.state(run.steps).theta, trained(done))
    batch, loss = dict(done.data_collator([done.train_dataset[0]])), own_loss(done.model, 0.0)
    with torch.no_grad():
        either = [
            values_of(loss, forward(done.model, batch), batch["labels"], batch)
            for forward in (forward_of_trl, logits_of_trl)
        ]
    torch.testing.assert_close(*either, rtol=1e-5, atol=1e-5)
    assert "_original_forward" in vars(done.model)  # and it is put back


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"packing": True, "max_length": 16},
            "^padding_free=True joins the examples of a batch into one row",
        ),
        ({"padding_free": True, "max_length": None}, "^padding_free=True joins the examples of a batch"),
        ({"loss_type": "dft"}, "^loss_type='dft' cannot be recorded"),
    ],
)
def test_what_is_no_sum_over_examples_is_refused_in_one_line(settings, words, tmp_path):
    with pytest.raises(ik.InputError, match=words) as raised:
        sft(tmp_path, InfluenceCallback(tmp_path / "run.zarr"), **settings).train()
    assert "\n" not in str(raised.value) and not (tmp_path / "run.zarr").exists()


def test_another_trainer_of_trl_is_refused(tmp_path):
    from trl import DPOConfig

    from influencekit.trainers.trl_models import refuse_trl

    args = DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[])
    with pytest.raises(ik.InputError, match="^of TRL's trainers SFTTrainer can be recorded, and DPOConfig"):
        refuse_trl(args)


TOKENS = {
    "completions only": {"kind": "completion"},
    "smoothed": {"label_smoothing_factor": 0.1},
    "packed rows": {"packing": True, "packing_strategy": "wrapped", "max_length": 8},
    "adapters in bfloat16": {"peft": LoraConfig(**ADAPTER, lora_dropout=0.1), "bf16": True},
}


@pytest.mark.parametrize("settings", TOKENS.values(), ids=TOKENS)
def test_tokens_have_scores_at_their_places_in_the_text_and_the_report_shows_them(settings, tmp_path):
    done, run = record(tmp_path, **settings)
    whole, parts = (ik.estimate(run, "test-loss", parts=p) for p in (False, True))
    gap = abs(parts.influence.sum("part") - whole.influence).max() / abs(whole.influence).max()
    assert float(gap) < (5e-2 if settings.get("bf16") else 1e-5)  # gradients that Adam sees round apart
    there = parts.influence[0, 0].notnull().values
    for k in range(len(there)):
        labels = done.data_collator([done.train_dataset[k]])["labels"][0]
        places = [p for p, label in enumerate(labels.tolist()) if p and label != -100]
        assert there[k].nonzero()[0].tolist() == places
    own = done.processing_class

    def words(example):
        return own.convert_ids_to_tokens(example["input_ids"])

    (one, *_) = ik.report(run, whole, parts=parts, part_names=words).record.examples
    text = own.convert_ids_to_tokens(done.train_dataset[one.row]["input_ids"])
    assert [word for word, _ in one.parts] == [text[p] for p in there[one.row].nonzero()[0]]
