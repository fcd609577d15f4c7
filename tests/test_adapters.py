"""PEFT's adapters in a loop of one's own: what is stored, what is shared, and exact scores."""

import copy

import pytest
import torch

pytest.importorskip("transformers", reason="the extra influencekit[transformers] is not installed")
pytest.importorskip("peft", reason="the extra influencekit[peft] is not installed")

from peft import LoraConfig, PromptTuningConfig, get_peft_model  # noqa: E402
from transformers import (  # noqa: E402
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)

import influencekit as ik  # noqa: E402
from influencekit._effects.retrain import Weighting  # noqa: E402
from influencekit._tape import replica  # noqa: E402
from influencekit.estimators.loo import retraining_effects  # noqa: E402
from influencekit.trainers.model_losses import CrossEntropy, own_loss  # noqa: E402

N, TOKENS, VOCABULARY = 12, 6, 20
KINDS = {
    "lora": {},
    "rank-stabilised": {"use_rslora": True},
    "dropout": {"lora_dropout": 0.2},
    "a head and biases as well": {"modules_to_save": ["embed_out"], "bias": "lora_only"},
    "Gemma 3": {"gemma": True},  # shared heads, normalised queries, a sliding window, tied embeddings
}
DATA = [
    {"input_ids": ids, "labels": torch.where(torch.arange(TOKENS) < 1 + k % 3, -100, ids)}
    for k, ids in enumerate(torch.randint(VOCABULARY, (N, TOKENS), generator=torch.manual_seed(0)))
]  # fmt: skip
TEST = {name: torch.stack([one[name] for one in DATA[:4]]).flip(1) for name in ("input_ids", "labels")}
loss = CrossEntropy(shift=True)


def adapted(dtype=torch.float64, made=None, gemma=False, **settings):
    """A small model and its adapters, the same every time."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    if gemma:
        sizes |= {"num_key_value_heads": 1, "head_dim": 4, "sliding_window": 4}
        base = Gemma3ForCausalLM(Gemma3TextConfig(vocab_size=VOCABULARY, pad_token_id=None, **sizes)).to(
            dtype
        )
    else:
        base = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=VOCABULARY, **sizes)).to(dtype)
    targets = ["q_proj", "v_proj"] if gemma else ["query_key_value"]
    config = made or LoraConfig(r=2, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **settings)
    return get_peft_model(base, config, autocast_adapter_dtype=dtype != torch.float64).train()


def trained(model, batches=None, weight=None):
    """A loop that anybody could have written; `weight` [example] multiplies losses."""
    torch.manual_seed(1)
    rule = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02, eps=1e-3)
    loader = torch.utils.data.DataLoader(
        DATA if weight is None else [{**x, "weight": w} for x, w in zip(DATA, weight, strict=True)],
        batch_size=3, shuffle=True,
    )  # fmt: skip
    with batches(loader, rule) if batches else _plainly(loader) as (steps, _):
        for batch in steps:
            rule.zero_grad()
            each = loss(model(input_ids=batch["input_ids"]), batch["labels"])
            (each * batch.get("weight", torch.ones(()))).mean().backward()
            rule.step()
    return model


class _plainly:  # noqa: N801 (a context, called like one)
    def __init__(self, loader):
        self.loader = loader

    def __enter__(self):
        return self.loader, None

    def __exit__(self, *error):
        return False


class Taped:
    """A tape around the loop's batches."""

    def __init__(self, store, model):
        self.store, self.model = store, model

    def __call__(self, loader, rule):
        self.tape = ik.Tape(
            self.store, self.model, rule, loss=loss, data=DATA, check=1, recorder="every-k:k=2"
        )
        self.loader = loader
        return self

    def __enter__(self):
        self.tape.__enter__()
        return (batch for _, batch in self.tape.batches(self.loader)), self.tape

    def __exit__(self, *error):
        return self.tape.__exit__(*error)


def recorded(folder, **settings):
    model = adapted(**settings)
    trained(model, Taped(folder / "run.zarr", model))
    return model, ik.open(folder / "run.zarr", model=model, loss=loss, data=DATA, test=TEST)


def after(model, weight=None):
    """The mean test loss after a training of its own."""
    done = trained(model, weight=weight).eval()
    with torch.no_grad():
        return float(loss(done(input_ids=TEST["input_ids"]), TEST["labels"]).mean())


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_only_what_is_trained_is_stored_and_scores_are_derivatives_of_the_loop(settings, tmp_path):
    """Central differences of whole trainings by hand, in the weight of the text that matters most. They are
    small, since AdamW's first steps are nearly signs; but Gemma computes its norms in float32 whatever it is
    given, and smaller ones would be noise."""
    model, run = recorded(tmp_path, **settings)
    learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert run.workload.layout.names == tuple(learnt)
    assert run.workload.n_params == sum(p.numel() for p in learnt.values())
    assert run.dataset.theta.shape[1] == run.workload.n_params
    assert run.attrs["replay"] == "4 steps replayed, equal bit for bit"
    scores = ik.estimate(run, "test-loss", "dit").influence.squeeze().values
    j, h, off = int(abs(scores).argmax()), *((1e-3, 1e-3) if "gemma" in settings else (1e-6, 1e-5))
    ends = []
    for sign in (1, -1):
        weight = torch.ones(N, dtype=torch.float64)
        weight[j] += sign * h
        ends.append(after(adapted(**settings), weight))
    assert scores[j] == pytest.approx(-(ends[0] - ends[1]) / (2 * h), rel=off) and scores[j] != 0


def test_a_frozen_base_in_bfloat16_is_replayed_bit_for_bit(tmp_path):
    """Batches of 3: a third of a loss in float32 is rounded as float32, whatever the frozen weights are."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    base = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=VOCABULARY, **sizes)).bfloat16()
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["query_key_value"], task_type="CAUSAL_LM")
    model = get_peft_model(base, config).train()
    of_float32 = lambda outputs, labels: loss({"logits": outputs["logits"].float()}, labels)  # noqa: E731
    rule = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02, eps=1e-3)
    with ik.Tape(tmp_path / "run.zarr", model, rule, loss=of_float32, data=DATA) as tape:
        for _, batch in tape.batches(torch.utils.data.DataLoader(DATA, batch_size=3)):
            rule.zero_grad()
            of_float32(model(input_ids=batch["input_ids"]), batch["labels"]).mean().backward()
            rule.step()
    run = ik.open(tmp_path / "run.zarr", model=model, loss=of_float32, data=DATA, test=TEST)
    assert run.attrs["replay"].endswith("equal bit for bit") and run.workload.dtype == torch.float32
    assert bool((run.plan.coefficient == torch.tensor(1 / 3, dtype=torch.float32)).all())
    assert "frozen weights are torch.bfloat16" in ik.estimate(run, "test-loss", "dit").attrs["caution"]


def test_leaving_a_text_out_is_the_loop_without_it(tmp_path):
    _, run = recorded(tmp_path, lora_dropout=0.2)
    whole = after(adapted(lora_dropout=0.2))
    left = retraining_effects(
        run, ik.make("query", "test-loss"), [Weighting(torch.tensor([5]))], [ik.Window(0, run.steps)], "auto"
    )
    weight = torch.ones(N, dtype=torch.float64)
    weight[5] = 0
    assert float(left) == pytest.approx(after(adapted(lora_dropout=0.2), weight) - whole, rel=1e-9)


def test_dora_detaches_a_norm_and_is_refused_for_scores_but_not_for_retraining(tmp_path):
    """Its gradient holds the norm of the weights constant, so no derivative of that gradient is right."""
    with pytest.raises(
        ik.InputError, match=r"does not see \(detach.*\(to record for loo alone, pass check=0\)"
    ):
        recorded(tmp_path, use_dora=True)


def test_frozen_weights_are_the_users_own_and_not_copied(tmp_path):
    model, run = recorded(tmp_path)
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    grads = {p: torch.ones_like(p) for p in frozen.values()}
    for p, g in grads.items():
        p.grad = g
    done_again = run.step.source._replica.model
    ik.estimate(run, "test-loss", "dit")
    for other in (run.workload.model, run.workload.evaluator, done_again):
        own = dict(other.named_parameters())
        assert all(own[name] is p for name, p in frozen.items())
        assert not any(own[name] is p for name, p in model.named_parameters() if name not in frozen)
    assert all(p.grad is g and not p.requires_grad for p, g in grads.items())


def test_a_frozen_weight_that_is_changed_after_opening_is_refused(tmp_path):
    model, run = recorded(tmp_path)
    first = ik.estimate(run, "test-loss", "dit").influence
    merged = copy.deepcopy(model).merge_and_unload()  # of a copy: nothing of the run's own changes
    assert merged is not None and first.equals(ik.estimate(run, "test-loss", "dit").influence)
    model.merge_and_unload()
    with pytest.raises(ik.InputError, match="^a frozen weight of the model changed in place since"):
        ik.estimate(run, "test-loss", "dit")


def test_soft_prompts_need_a_loss_that_knows_of_them(tmp_path):
    """Their logits are longer than the labels; the model's own loss would compare them one by one."""
    model = adapted(made=PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), dtype=torch.float32)
    with pytest.raises(ik.InputError, match=r"logits of \[9\] tokens for labels of \[6\]"):
        loss(model(input_ids=TEST["input_ids"]), TEST["labels"])


def test_the_loss_that_the_docs_give_for_soft_prompts_is_that_of_the_model():
    model = adapted(made=PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), dtype=torch.float64)
    labels = TEST["labels"].clone()
    labels[0, -2:] = -100
    outputs = model.eval()(input_ids=TEST["input_ids"], labels=labels)
    logits = outputs["logits"][:, -labels.shape[1] - 1 : -1]
    each = torch.nn.functional.cross_entropy(logits.mT, labels, reduction="none").sum(1)
    assert float(each.sum() / (labels != -100).sum()) == pytest.approx(float(outputs["loss"]), rel=1e-6)


def test_the_loss_of_an_adapted_model_is_that_of_its_base():
    assert own_loss(adapted()) == CrossEntropy(shift=True)
    config = GPT2Config(vocab_size=9, n_embd=4, n_layer=1, n_head=1)
    base = GPT2LMHeadModel(config)  # whose class is not called ForCausalLM
    assert own_loss(get_peft_model(base, LoraConfig(target_modules=["c_attn"]))) == CrossEntropy(shift=True)


def test_nothing_is_differentiated_below_the_first_adapter(tmp_path, monkeypatch):
    """Adapters in the second block of a model that counts as large: no gradient reaches into the first."""
    monkeypatch.setattr(replica, "_SMALL", 0)
    model = adapted(layers_to_transform=[1])
    trained(model, Taped(tmp_path / "run.zarr", model))
    run = ik.open(tmp_path / "run.zarr", model=model, loss=loss, data=DATA, test=TEST)
    seen: list[list[bool]] = [[], []]

    def look(block):
        def hook(module, inputs, output):
            seen[block].append((output[0] if isinstance(output, tuple) else output).requires_grad)

        return hook

    for one in (run.workload.model, run.workload.evaluator):
        for block in (0, 1):
            one.base_model.model.gpt_neox.layers[block].register_forward_hook(look(block))
    ik.estimate(run, "test-loss", "dit")
    assert seen[0] and not any(seen[0]) and any(seen[1])
