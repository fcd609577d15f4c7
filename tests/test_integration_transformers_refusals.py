"""What the Trainer callback refuses by name, and what it keeps of a run that ends early."""

import pytest
import torch

pytest.importorskip("transformers", reason="the extra influencekit[transformers] is not installed")

from helpers_transformers import MODELS, N, Plain, Sentences, Spy, Weighted, sizes, trainer  # noqa: E402
from torch.utils.data import IterableDataset  # noqa: E402
from transformers import BertConfig, BertForPreTraining, MixtralConfig, MixtralForCausalLM, TrainerCallback  # noqa: E402

import influencekit as ik  # noqa: E402
from influencekit.trainers.transformers import CrossEntropy, InfluenceCallback, own_loss, reopen_with


class Meddling(TrainerCallback):
    """Does what no tape can see."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **rest):
        if state.global_step == 3:
            next(model.parameters()).grad.mul_(2)


def test_a_hidden_change_of_gradients_is_found(tmp_path):
    tape, spy = InfluenceCallback(tmp_path / "run.zarr", check=1, recorder="full"), Spy()
    cut = trainer(tmp_path, tape, Meddling(), spy)
    with pytest.raises(ik.InputError, match="^step 3, replayed, is not what the loop did.*[^\\n]*$"):
        cut.train()
    tape.close()  # what was done before is there
    run = ik.open(tmp_path / "run.zarr", **reopen_with(cut))
    assert torch.equal(run.state(run.last).theta, spy.weights[run.last - 1]) and run.last in (2, 3)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Sentences())


class Failing(TrainerCallback):
    def on_step_end(self, args, state, control, **rest):
        if state.global_step == 4:
            raise RuntimeError("out of coffee")


def test_after_an_exception_close_keeps_what_was_done(tmp_path):
    tape, spy = InfluenceCallback(tmp_path / "run.zarr"), Spy()
    cut = trainer(tmp_path, tape, spy, Failing())
    with pytest.raises(RuntimeError, match="coffee"):
        cut.train()
    tape.close()
    run = ik.open(tmp_path / "run.zarr", **reopen_with(cut))
    assert torch.equal(run.state(run.last).theta, spy.weights[-1])


REFUSED = ["deepspeed", "fsdp", "use_liger_kernel", "neftune_noise_alpha"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_replay_would_not_do_is_refused_by_name(name, tmp_path):
    tape = InfluenceCallback(tmp_path / "run.zarr")
    made = trainer(tmp_path, tape)
    made.create_optimizer()
    setattr(made.args, name, 5.0)
    with pytest.raises(ik.InputError, match=f"^{name}=5.0 cannot be recorded"):
        tape.on_train_begin(
            made.args, made.state, made.control, model=made.model, optimizer=made.optimizer,
            train_dataloader=made.get_train_dataloader(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "callback", "words"),
    [
        ({"optim": "adafactor"}, {}, "does not know how transformers.optimization.Adafactor steps"),
        ({"kind": "plain"}, {}, "Plain: the loss of one example is known for"),
        (
            {"kind": "plain"},
            {"loss": lambda o, y: o["logits"][:, 0] ** 2 + 9},
            "pass the loss that the model",
        ),
        ({"more": {"compute_loss_func": Weighted(torch.ones(N))}}, {}, "compute_loss_func"),
        ({}, {"reduction": "median"}, "reduction must be 'items', 'mean' or a function"),
        ({}, {"ids": ["a"]}, "ids: expected 22 different example ids"),
    ],
)
def test_what_cannot_be_recorded_is_refused(settings, callback, words, tmp_path):
    with pytest.raises(ik.InputError, match=words):
        trainer(tmp_path, InfluenceCallback(tmp_path / "run.zarr", **callback), **settings).train()


def test_streams_are_refused(tmp_path):
    streaming = trainer(tmp_path, InfluenceCallback(tmp_path / "run.zarr"), max_steps=3)
    streaming.train_dataset = Stream()
    with pytest.raises(ik.InputError, match="map-style data set"):
        streaming.train()


def test_a_store_is_not_overwritten(tmp_path):
    trainer(tmp_path, InfluenceCallback(tmp_path / "run.zarr"), max_steps=2).train()
    with pytest.raises(ik.InputError, match="exists already"):
        trainer(tmp_path, InfluenceCallback(tmp_path / "run.zarr"), max_steps=2).train()


@pytest.mark.parametrize("scale", [0.0, 1e-3])
def test_a_load_balancing_loss_is_refused_however_small(scale, tmp_path):
    """At 1e-3, transformers' default, it hides behind the tolerance of the first steps' replay."""
    made = trainer(tmp_path, InfluenceCallback(tmp_path / "run.zarr"), kind="llama", max_steps=1)
    config = MixtralConfig(
        **sizes(num_key_value_heads=1, num_local_experts=2), output_router_logits=True,
        router_aux_loss_coef=scale,
    )  # fmt: skip
    made.model = made.model_wrapped = MixtralForCausalLM(config)
    if scale:
        with pytest.raises(ik.InputError, match="load-balancing loss of its experts, times 0.001"):
            made.train()
        assert not (tmp_path / "run.zarr").exists()
    else:
        made.train()


def test_only_losses_that_are_known_are_chosen():
    assert own_loss(MODELS["llama"]()) == CrossEntropy(shift=True)
    small = BertConfig(hidden_size=4, num_attention_heads=1, num_hidden_layers=1, vocab_size=9)
    for model in (BertForPreTraining(small), Plain()):
        with pytest.raises(ik.InputError, match="pass loss="):
            own_loss(model)
