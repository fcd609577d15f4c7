"""Models, batches and losses of every usual kind: the run replays, and its scores are its derivative."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers_tape import network, per_example, untraced, vector
from helpers_tape_kinds import KINDS, Kind, adamw, alone, built, each_kind, plain, taped, x, y
from helpers_tape_kinds import NUMBER as N
from torch import nn

from influencekit import InputError, estimate, make
from influencekit.queries import FixedVector


def trained(model, tape):
    """theta [param] of the parameters that the run trained."""
    own = dict(model.named_parameters())
    return tape.trajectory().workload.layout.join(own)


@each_kind
def test_scores_are_central_differences_of_the_users_loop(kind):
    """The query is a fixed direction of theta: nothing but the run itself is in question."""
    tape, model = taped(kind)
    run, names = tape.trajectory(), [n for n, p in model.named_parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(6)
    d = torch.randn(N, generator=generator, dtype=torch.float64)
    v = torch.randn(len(vector(model)), generator=generator, dtype=torch.float64)
    rows = [(alone(kind, h, d) - alone(kind, -h, d)) @ v / (2 * h) for h in (1e-3, 5e-4)]
    parts = dict(zip(names, v.split([p.numel() for p in model.parameters() if p.requires_grad]), strict=True))
    query = FixedVector(torch.cat([parts[name] for name in run.workload.layout.names]))
    with untraced():
        found = estimate(run, query, "dit").influence.values[0, 0] @ d.numpy()
    assert found == pytest.approx(-float(rows[1] + (rows[1] - rows[0]) / 3), rel=1e-6)


@each_kind
def test_replay_is_bitwise_in_float32(kind):
    tape, model = taped(kind, torch.float32)
    run = tape.trajectory()
    assert run.attrs["replay"] == f"{run.steps} steps replayed, equal bit for bit"
    assert torch.equal(run.step.advance(run.state(run.steps - 1))[0].theta, trained(model, tape))


@each_kind
def test_traced_and_untraced_leaving_out_agree(kind):
    """Retraining all at once, through traced kernels where there is no dropout; and one by one."""
    query = FixedVector(torch.ones(1, taped(kind)[0].trajectory().workload.n_params, dtype=torch.float64))
    found = [
        estimate(taped(kind)[0].trajectory(), query, f"loo:examples=3:strategy={s}").influence.values
        for s in ("batch", "loop")
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-7, atol=1e-9)


def test_a_parameter_that_the_loss_does_not_use_is_not_trained():
    tape, model = taped(KINDS["dicts, masks, padding, dropout"])
    names = tape.trajectory().workload.layout.names
    assert "pooler.weight" not in names and len(names) == len(list(model.named_parameters())) - 2


def test_a_parameter_that_the_optimizer_does_not_have_is_not_trained():
    """Its gradient adds up unnoticed."""

    def head(model):
        return torch.optim.SGD(model[3].parameters(), lr=0.1)

    tape, model = taped(KINDS["classes"], optimizer=head)
    run = tape.trajectory(test=(x, y))
    assert run.workload.layout.names == ("3.weight", "3.bias") and model[0].weight.grad.any()
    assert run.attrs["replay"] == "4 steps replayed, equal bit for bit"
    with untraced():
        first, exact = (estimate(run, "test-loss", name).influence.values.ravel() for name in ("dit", "loo"))
    assert np.corrcoef(first, exact)[0, 1] > 0.99


def test_tied_parameters_are_one_and_frozen_ones_none():
    run = taped(KINDS["frozen, tied, constant buffer"])[0].trajectory()
    assert [n for n in run.workload.layout.names if "weight" in n] == ["twice.weight", "last.weight"]
    run = taped(KINDS["causal, ignored tokens, tied"])[0].trajectory()
    assert run.workload.layout.names == ("embed.weight", "mix.weight", "mix.bias")


def test_steps_have_the_examples_that_they_had():
    short, dropped = (taped(KINDS[k])[0].trajectory() for k in ("a short last batch", "drop_last"))
    assert [len(short.plan.batch(t)) for t in range(short.steps)] == [3, 3, 2] * 2
    assert [len(dropped.plan.batch(t)) for t in range(dropped.steps)] == [3, 3] * 2
    assert short.step.coefficients(2).sum() == pytest.approx(1.0, abs=1e-12)


def test_an_example_of_the_last_short_batch_counts_by_that_batch():
    run = taped(KINDS["a short last batch"])[0].trajectory()
    row, mean = run.step.rows(2), run.step.coefficients(2)
    assert mean[:2].tolist() == [0.5, 0.5] and mean[2] == 0 and run.plan.indices[2, 2] == -1
    assert sorted(row[:2].tolist()) == sorted(run.plan.batch(2).tolist())


@pytest.mark.parametrize("rule", [adamw, lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)])
def test_an_optimizer_that_has_made_steps_goes_on(rule):
    """Its memory is part of the first state, and bias correction counts the steps before."""

    def used(model):
        optimizer = rule(model)
        for _ in range(3):
            per_example(model(x), y).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return optimizer

    tape, model = taped(KINDS["classes"], optimizer=used)
    run, v = tape.trajectory(), torch.ones(len(vector(model)), dtype=torch.float64)
    assert run.attrs["replay"] == "4 steps replayed, equal bit for bit"
    assert run.state(0).slots and all(bool(slot.any()) for slot in run.state(0).slots.values())
    assert torch.equal(run.step.advance(run.state(3))[0].theta, vector(model))
    d = torch.arange(N).double()
    rows = [alone(KINDS["classes"], h, d, used) @ v / 2e-4 for h in (1e-4, -1e-4)]
    with untraced():
        found = estimate(run, FixedVector(v), "dit").influence.values[0, 0] @ d.numpy()
    assert found == pytest.approx(float(rows[1] - rows[0]), rel=1e-5)


def test_autocast_to_bf16_replays_bitwise_and_its_scores_are_those_of_full_precision_nearly():
    tape, model = taped(KINDS["classes"], torch.float32, autocast=True)
    run, full = tape.trajectory(test=(x.float(), y)), taped(KINDS["classes"])[0].trajectory(test=(x, y))
    assert run.attrs["replay"] == "4 steps replayed, equal bit for bit"
    assert run.step.source.autocast == torch.bfloat16 and model[0].weight.dtype == torch.float32
    assert torch.equal(run.step.advance(run.state(3))[0].theta, vector(model))
    for name in ("dit", "loo:strategy=loop", "loo:strategy=batch", "if"):
        rough, fine = (estimate(r, "test-losses", name).influence.values for r in (run, full))
        # bfloat16 has 8 bits: retraining subtracts two losses that each carry that error
        assert np.corrcoef(rough.ravel(), fine.ravel())[0, 1] > (0.999 if name in ("dit", "if") else 0.9)


class Attentive(nn.Module):
    """Fused attention, which torch's transforms cannot differentiate inside autocast."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.inner(x)[:, None, None].chunk(3, -1)
        return self.outer(nn.functional.scaled_dot_product_attention(q, k, v)[:, 0, 0])


def test_fused_attention_inside_autocast_is_retrained_one_run_after_the_other():
    run = taped(Kind(Attentive, plain), torch.float32, autocast=True)[0].trajectory(test=(x.float(), y))
    assert np.isfinite(estimate(run).influence).all()
    result = estimate(run, estimator="loo")
    assert result.attrs["note_strategy"] == "loop" and np.isfinite(result.influence).all()
    with pytest.raises(InputError, match="cannot train this model in batches"):
        estimate(run, estimator="loo:strategy=batch")


# what mixes examples ------------------------------------------------------------------------------------


def normed():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


MIXED = Kind(normed, plain)


def test_batch_norm_in_eval_mode_is_fine():
    run = taped(MIXED, model=built(MIXED).eval())[0].trajectory()
    assert run.attrs["replay"] == "4 steps replayed, equal bit for bit" and not run.step.source.changing


def test_batch_norm_is_admitted_and_marks_the_results():
    """Running statistics are part of every state; a removed example stays in those of its batch."""
    tape, model = taped(MIXED)
    run, statistics = tape.trajectory(test=(x, y)), dict(model.named_buffers())
    assert run.attrs["replay"] == "4 steps replayed, equal bit for bit"
    last = run.step.advance(run.state(3))[0]
    for name, value in last.buffers.items():
        assert torch.equal(value, statistics[name]) and torch.equal(value, run.final.buffers[name])
    assert set(last.buffers) == set(statistics)
    assert run.attrs["accuracy"] == (model.eval()(x).argmax(1) == y).double().mean()
    result = estimate(run, "test-losses", "dit")
    assert "it stays in those statistics" in result.attrs["caution"]
    assert "caution" not in estimate(taped(KINDS["classes"])[0].trajectory(test=(x, y))).attrs
    # queries see the running statistics of the recorded run
    expected = per_example(model(x), y).detach()
    found = make("query", "test-losses").evaluate(run.workload_at(run.steps), run.final.theta)
    assert torch.allclose(found, expected, rtol=1e-12)


def test_with_batch_norm_parameters_move_as_the_derivative_says_and_leaving_out_is_the_loop_with_weight_0():
    """Of the parameters alone; test_buffers.py has the test loss, which running statistics enter, too."""
    tape, _ = taped(MIXED)
    run, j = tape.trajectory(), 3
    v = torch.randn(run.workload.n_params, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    e = (torch.arange(N) == j).double()
    ends = {h: alone(MIXED, h, e) @ v for h in (1e-3, -1e-3, 5e-4, -5e-4, -1.0, 0.0)}
    coarse, fine = ((ends[h] - ends[-h]) / (2 * h) for h in (1e-3, 5e-4))
    for strategy in ("loop", "auto"):
        exact = estimate(run, FixedVector(v), f"loo:strategy={strategy}").influence.values[0, 0, j]
        assert exact == pytest.approx(float(ends[-1.0] - ends[0.0]), rel=1e-9)
    with untraced():
        first = estimate(run, FixedVector(v), "dit").influence.values[0, 0, j]
    assert first == pytest.approx(-float(fine + (fine - coarse) / 3), rel=1e-6)
    with pytest.raises(InputError, match="one run after the other"):
        estimate(run, FixedVector(v), "loo:strategy=batch")


def contrastive(outputs, target):
    """InfoNCE: every example against all others of its batch."""
    scores = outputs @ outputs.T
    return F.cross_entropy(scores, torch.arange(len(outputs)), reduction="none")


def smoothed(outputs, target):
    """Labels smoothed by the classes of the whole batch."""
    soft = 0.9 * F.one_hot(target, 3) + 0.1 * F.one_hot(target, 3).double().mean(0)
    return -(soft * F.log_softmax(outputs, 1)).sum(1)


@pytest.mark.parametrize("loss", [contrastive, smoothed])
def test_losses_across_the_batch_are_refused_or_marked(loss):
    kind = Kind(network, plain, loss=loss, mean=lambda out, batch: loss(out, batch[-1]).mean())
    with pytest.raises(InputError, match=r"depends on the other examples of its batch; influence of single"):
        taped(kind)
    run = taped(kind, separable=False)[0].trajectory(test=(x, y))
    assert run.attrs["replay"] == "4 steps replayed, equal bit for bit"
    result = estimate(run, "parameter:index=0", "dit")
    assert "depends on the others of its batch" in result.attrs["caution"]
