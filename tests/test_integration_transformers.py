"""The Trainer callback changes nothing, and records what the Trainer did."""

import itertools
import math
import shutil

import pytest
import torch

pytest.importorskip("transformers", reason="the extra influencekit[transformers] is not installed")

from helpers_transformers import MODELS, N, Spy, Weighted, flat, test_batch, trainer  # noqa: E402
from transformers import Trainer  # noqa: E402

import influencekit as ik  # noqa: E402
from influencekit.trainers.transformers import CrossEntropy, InfluenceCallback, own_loss, reopen_with

test_batch.__test__ = False


def record(folder, *, callback=None, **settings):
    """A taped run: the trainer that made it, the run opened again, and what a bystander saw."""
    spy, tape = (
        Spy(),
        InfluenceCallback(folder / "run.zarr", **{"check": 1, "recorder": "every-k:k=5", **(callback or {})}),
    )
    done = trainer(folder, tape, spy, **settings)
    done.train()
    run = ik.open(folder / "run.zarr", test=test_batch(done), **reopen_with(done))
    return done, run, spy


def rows(run):
    """The examples of every micro-batch of every step."""
    found = []
    for positions, parts in zip(run.dataset.batch.values, run.dataset.part.values, strict=True):
        pairs = [(part, i) for part, i in zip(parts, positions, strict=True) if i >= 0]
        found.append([[i for _, i in group] for _, group in itertools.groupby(pairs, lambda pair: pair[0])])
    return found


SETTINGS = {
    "as it comes": {},
    "accumulation, a short last group": {"gradient_accumulation_steps": 3},
    "workers, by length, whole batches, evaluation": {
        "dataloader_num_workers": 2, "train_sampling_strategy": "group_by_length",
        "dataloader_drop_last": True, "eval_strategy": "steps", "eval_steps": 2,
        "gradient_accumulation_steps": 2,
    },
    "persistent workers, random examples": {
        "dataloader_num_workers": 2, "dataloader_persistent_workers": True, "noise": True,
    },
    "random examples, batch_rebalance": {"noise": True, "train_sampling_strategy": "batch_rebalance"},
    "bf16": {"bf16": True},
    "fp16": {"fp16": True, "gradient_accumulation_steps": 2},
    "rmsprop": {"optim": "rmsprop"},
    "sgd, clipping, cosine, checkpointing, cut short": {
        "optim": "sgd", "max_grad_norm": 0.05, "lr_scheduler_type": "cosine",
        "activation_checkpointing": True, "max_steps": 11, "gradient_accumulation_steps": 2,
        "weight_decay": 0.1,
    },
    "causal language model": {"kind": "llama", "gradient_accumulation_steps": 3},
    "batches without a label": {"kind": "half", "per_device_train_batch_size": 1},
    "micro-batches without a label": {
        "kind": "half", "per_device_train_batch_size": 1, "gradient_accumulation_steps": 3,
    },
    "a model of one's own": {"kind": "plain", "gradient_accumulation_steps": 3, "max_grad_norm": 0.0},
}  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_what_is_recorded_is_what_the_trainer_did(settings, tmp_path):
    callback = {"loss": CrossEntropy()} if settings.get("kind") == "plain" else {}
    alone = trainer(tmp_path, **settings)
    alone.train()
    done, run, spy = record(tmp_path, callback=callback, **settings)
    assert torch.equal(flat(done.model), flat(alone.model)), "the callback changed the run"
    assert not torch.is_autocast_enabled("cpu")
    assert rows(run) == spy.steps
    assert run.attrs["replay"] == f"{len(spy.steps)} steps replayed, equal bit for bit"
    for block in run.blocks(1, run.steps + 1):  # every 5th state is stored; the others are replayed
        assert all(torch.equal(state.theta, spy.weights[state.step - 1]) for state in block)
    logged = [entry for entry in done.state.log_history if "learning_rate" in entry]
    assert run.plan.lr[:, 0].tolist() == [entry["learning_rate"] for entry in logged]
    assert run.plan.epoch.tolist() == [math.ceil(entry["epoch"]) - 1 for entry in logged]


def per_step(run):
    return [row[row != 0].tolist() for row in run.dataset.coefficient.values]


def counted(data, positions):
    return sum(sum(label != -100 for label in data[i]["labels"][1:]) for i in positions)


def test_coefficients_follow_the_number_of_targets_where_the_model_does(tmp_path):
    done, run, spy = record(tmp_path, kind="llama", gradient_accumulation_steps=3)
    for step, found in zip(spy.steps, per_step(run), strict=True):
        total = counted(done.train_dataset, itertools.chain(*step))
        assert found == pytest.approx([1 / total] * sum(map(len, step)))


@pytest.mark.parametrize("kind", ["bert", "plain"])
def test_coefficients_follow_the_means_where_the_model_returns_means(kind, tmp_path):
    """The Trainer divides by the number of means, but not for models that could have heard the count."""
    callback = {"loss": CrossEntropy()} if kind == "plain" else {}
    _, run, spy = record(tmp_path, kind=kind, callback=callback, gradient_accumulation_steps=3)
    assert {len(step) for step in spy.steps} == {3, 2}
    for step, found in zip(spy.steps, per_step(run), strict=True):
        share = 1 / len(step) if kind == "plain" else 1
        assert found == pytest.approx([share / len(micro) for micro in step for _ in micro])


KINDS = ["regression", "several", "llama several", "answers", "tokens", "masked", "t5"]


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_kind_of_model_is_known(kind, accumulate, tmp_path):
    """Replayed from per-example losses, every step is what the Trainer made of the model's own loss."""
    _, run, spy = record(tmp_path, kind=kind, gradient_accumulation_steps=accumulate)
    assert rows(run) == spy.steps
    assert run.attrs["replay"].startswith(f"{len(spy.steps)} steps replayed")
    for block in run.blocks(1, run.steps + 1):
        for state in block:
            torch.testing.assert_close(state.theta, spy.weights[state.step - 1], rtol=1e-4, atol=1e-5)


class WeightedTrainer(Trainer):
    """The same training with weights on the examples, by hand: the truth of a kind."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs, w = model(**inputs), self.weights[inputs["input_ids"][:, 1]]

        def summed(logits, labels, ignored=-100):
            found = torch.nn.functional.cross_entropy(
                logits.mT if logits.dim() == 3 else logits, labels, reduction="none", ignore_index=ignored
            )
            return found.reshape(len(w), -1).sum(1)

        if "labels" not in inputs:
            ends = [inputs[f"{name}_positions"].clamp(0, 7) for name in ("start", "end")]
            logits = outputs.start_logits, outputs.end_logits
            each = sum(summed(z, at, 7) / 2 for z, at in zip(logits, ends, strict=True))
            count = (ends[0] < 7).sum()
        elif inputs["labels"].is_floating_point():
            z, y = outputs.logits, inputs["labels"]
            if y.dim() == 1:
                each = (z[:, 0] - y) ** 2
            else:
                each = torch.nn.functional.binary_cross_entropy_with_logits(
                    z, y.to(z), reduction="none"
                ).mean(1)
            count = len(w)
        else:
            each = summed(outputs.logits, inputs["labels"])
            count = (inputs["labels"] != -100).sum()
        return (w * each).sum() / count


@pytest.mark.parametrize("kind", ["regression", "several", "answers", "bart"])
def test_scores_of_a_kind_are_the_derivative_of_the_trainers_runs(kind, tmp_path):
    settings = {"double": True, "adam_epsilon": 1e-3, "num_train_epochs": 1, "kind": kind}
    done, run, _ = record(tmp_path, **settings)
    index = (
        run.workload.n_params - 1
    )  # a bias that every example moves; all answers alike, which says nothing
    index -= 2 * (kind == "answers")
    query = ik.make("query", f"parameter:index={index}")
    scores = ik.estimate(run, query, "dit").influence.squeeze().values

    def last(j=0, h=0.0):
        other = trainer(tmp_path, made=WeightedTrainer, **settings)
        other.weights = torch.ones(N, dtype=torch.float64)
        other.weights[j] += h
        other.train()
        return flat(other.model)

    torch.testing.assert_close(last(), flat(done.model), rtol=1e-9, atol=1e-12)  # the model's own loss
    j = abs(scores).argmax()
    slope = (last(j, 1e-4) - last(j, -1e-4))[index] / 2e-4
    assert scores[j] == pytest.approx(-slope.item(), rel=1e-5) and scores[j] != 0


def test_label_smoothing_is_part_of_the_loss(tmp_path):
    settings = {"label_smoothing_factor": 0.2, "gradient_accumulation_steps": 2}
    _, run, spy = record(tmp_path, callback={"tolerance": 1e-5}, **settings)  # summed in another order
    assert run.workload.call.loss == CrossEntropy(smoothing=0.2)
    assert run.attrs["replay"].startswith(f"{len(spy.steps)} steps replayed")
    for step, found in zip(spy.steps, per_step(run), strict=True):
        n = sum(map(len, step))
        assert found == pytest.approx([1 / n] * n)


def test_scores_are_the_derivative_of_the_trainers_runs(tmp_path):
    """Central differences of whole runs in the weight of an example, with dropout, AdamW and clipping."""
    settings = {"double": True, "gradient_accumulation_steps": 2, "max_grad_norm": 0.5, "weight_decay": 0.1}
    settings |= {"adam_epsilon": 1e-3}

    def loss_with(weights):
        loss = Weighted(weights)
        done = trainer(tmp_path, more={"compute_loss_func": loss}, **settings)
        done.model.register_forward_pre_hook(loss.attend, with_kwargs=True)
        done.train()
        batch = test_batch(done)
        with torch.no_grad():
            return done.model.eval()(**batch).loss.item()

    loss = Weighted(torch.ones(N, dtype=torch.float64))
    tape = InfluenceCallback(tmp_path / "run.zarr", loss=own_loss(MODELS["bert"]()), reduction="items")
    done = trainer(tmp_path, tape, more={"compute_loss_func": loss}, **settings)
    done.model.register_forward_pre_hook(loss.attend, with_kwargs=True)
    done.train()
    run = ik.open(tmp_path / "run.zarr", test=test_batch(done), **reopen_with(done))
    scores = ik.estimate(run, "test-loss", "dit").influence.squeeze().values
    for j in (0, 7, 21):
        h, ends = 1e-4, []
        for sign in (1, -1):
            weights = torch.ones(N, dtype=torch.float64)
            weights[j] += sign * h
            ends.append(loss_with(weights))
        assert scores[j] == pytest.approx(-(ends[0] - ends[1]) / (2 * h), rel=1e-6)


def test_the_last_state_is_the_last_one_though_the_best_is_loaded(tmp_path):
    calls = itertools.count()
    done, run, spy = record(
        tmp_path, eval_strategy="steps", eval_steps=4, save_strategy="steps", save_steps=4,
        load_best_model_at_end=True, metric_for_best_model="early", greater_is_better=True,
        more={"compute_metrics": lambda predictions: {"early": -next(calls)}},
    )  # fmt: skip
    assert torch.equal(flat(done.model), spy.weights[3])
    assert torch.equal(run.state(run.last).theta, spy.weights[-1])
    assert run.attrs["reloaded"] == 4
    assert torch.equal(run.state(4).theta, flat(done.model))


def test_a_trainer_made_again_opens_the_run(tmp_path):
    """In another program: nothing that the callback was told is told again, and nothing is trained."""
    record(tmp_path, kind="plain", callback={"loss": CrossEntropy(), "reduction": None})
    again = trainer(tmp_path, InfluenceCallback(tmp_path / "run.zarr", loss=CrossEntropy()), kind="plain")
    run = ik.open(tmp_path / "run.zarr", test=test_batch(again), **reopen_with(again))
    assert run.workload.call.loss == CrossEntropy()
    with pytest.raises(ik.InputError, match="the trainer has 2 InfluenceCallbacks; pass loss="):
        again.add_callback(InfluenceCallback(tmp_path / "other.zarr"))
        reopen_with(again)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_is_recorded_where_its_dropout_can_be_repeated(tmp_path):
    _, run, spy = record(tmp_path, kind="llama", torch_compile=True, max_steps=3)
    assert rows(run) == spy.steps
    assert run.attrs["replay"].startswith("3 steps replayed")
    with pytest.raises(ik.InputError, match="torch._inductor.config.fallback_random = True"):
        trainer(tmp_path, InfluenceCallback(tmp_path / "other.zarr"), torch_compile=True).train()


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA device")])],
)  # fmt: skip
def test_a_step_that_a_scaler_skips_is_left_out(device, tmp_path):
    """accelerate scales the loss on a GPU; the first factor overflows. (On a CPU the scaler is put there.)"""
    spy = Spy()
    done = trainer(
        tmp_path, InfluenceCallback(tmp_path / "run.zarr", check=1), spy, use_cpu=device == "cpu", fp16=True,
        gradient_accumulation_steps=2, max_grad_norm=0.0,
    )  # fmt: skip
    done.accelerator.scaler = torch.amp.GradScaler(device, init_scale=1e38, backoff_factor=1e-34)
    done.train()
    run = ik.open(tmp_path / "run.zarr", test=test_batch(done), **reopen_with(done))
    assert rows(run) == spy.steps[1:]
    assert run.attrs["replay"].startswith(f"{run.steps} steps replayed")
    assert torch.equal(run.state(0).theta.cpu(), spy.weights[0].cpu())
    assert torch.equal(run.state(run.last).theta.cpu(), spy.weights[-1].cpu())
    for found in per_step(run):
        assert sum(found) in (pytest.approx(2.0), pytest.approx(1.0))


def test_a_run_from_a_checkpoint_is_recorded_from_there(tmp_path):
    whole, first = Spy(), trainer(tmp_path, save_strategy="steps", save_steps=5, save_total_limit=9)
    first.add_callback(whole)
    first.train()
    spy, tape = Spy(), InfluenceCallback(tmp_path / "run.zarr", check=1)
    again = trainer(tmp_path, tape, spy)
    again.train(resume_from_checkpoint=str(tmp_path / "trainer" / "checkpoint-5"))
    run = ik.open(tmp_path / "run.zarr", **reopen_with(again))
    assert rows(run) == spy.steps == whole.steps[5:]
    assert torch.equal(run.state(0).theta, whole.weights[4])
    assert torch.equal(run.state(run.last).theta, whole.weights[-1])
    assert run.attrs["replay"] == "11 steps replayed, equal bit for bit"


def test_a_checkpoint_within_an_epoch_is_refused_with_workers(tmp_path):
    trainer(tmp_path, save_strategy="steps", save_steps=5, max_steps=5).train()
    tape = InfluenceCallback(tmp_path / "run.zarr")
    again = trainer(tmp_path, tape, dataloader_num_workers=1)
    with pytest.raises(ik.InputError, match="after step 5, lies within an epoch"):
        again.train(resume_from_checkpoint=str(tmp_path / "trainer" / "checkpoint-5"))
