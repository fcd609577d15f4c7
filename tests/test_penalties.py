"""Penalties beside the loss of the examples: L1, L2, and terms of the batch."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers_tape import untraced
from helpers_tape_losses import Case, N, check, plain_data, plain_model, recorded
from torch import nn

import influencekit as ik

ce = nn.CrossEntropyLoss(reduction="none")


# penalties ----------------------------------------------------------------------------------------------


def l2(model):
    return 0.02 * sum(p.pow(2).sum() for p in model.parameters())


def l1(model):
    return 0.01 * sum(p.abs().sum() for p in model.parameters())


class Experts(nn.Module):
    """A mixture of two experts; the gate's probabilities are kept for the balance."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 2), nn.ModuleList(nn.Linear(4, 3) for _ in range(2))

    def forward(self, x):
        gate = self.gate(x).softmax(1)
        return torch.stack([e(x) for e in self.experts], 1).mul(gate[..., None]).sum(1), gate


def experts(dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Experts().to(dtype)


def of_first(outputs, target):
    return ce(outputs[0], target)


def balance(model, outputs, batch):
    return 0.5 * outputs[1].mean(0).pow(2).sum() + 0.1 * (batch[0].mean(0) @ model.gate.weight[0]) ** 2


def with_layer(layer, dtype):
    model = plain_model(dtype)
    return nn.Sequential(model[0], deepcopy(layer).to(dtype), *model[1:])


def penalised(penalty, **more):
    return Case(
        value=lambda m, b, w: (w * ce(m(b[0]), b[1])).mean() + penalty(m),
        query=lambda m, b: ce(m(b[0]), b[1]),
        told={"loss": ce},
        opened={"penalty": penalty},
        **more,
    )


def with_balance(m, b, w):
    outputs = m(b[0])
    return (w * of_first(outputs, b[1])).mean() + balance(m, outputs, b)


BATCH_NORM = nn.BatchNorm1d(5)
PENALTIES = {
    "L2": penalised(l2),
    "L1": penalised(l1, h=1e-5),
    "L2, accumulated": penalised(l2, accumulate=3),
    "L2 and AdamW": penalised(l2, optimizer=lambda p: torch.optim.AdamW(p, lr=0.05)),
    "L2 and dropout": penalised(l2, model=lambda dtype=torch.float64: with_layer(nn.Dropout(0.3), dtype)),
    "L2 and batch norm": penalised(l2, model=lambda dtype=torch.float64: with_layer(BATCH_NORM, dtype)),
    "balance of experts": Case(
        value=with_balance,
        query=lambda m, b: of_first(m(b[0]), b[1]),
        told={"loss": of_first},
        opened={"penalty": balance},
        model=experts,
    ),
}


@pytest.mark.parametrize("case", PENALTIES.values(), ids=PENALTIES)
def test_penalties(case):
    run = check(case)
    step, index = run.step, run.plan.indices
    assert (index[:, -1] == -1).all() and (index >= 0).sum(1).eq(4 * case.accumulate).all()
    assert step.coefficients(0)[index[0] < 0].tolist() == [1 / case.accumulate] * case.accumulate
    everyone = step.coefficients(0, torch.zeros(N, dtype=torch.float64))
    assert (everyone == torch.where(index[0] < 0, step.coefficients(0), 0)).all()
    found = ik.contributions(run)
    assert (found.contribution.values[..., index.numpy() < 0] == 0).all()
    with untraced():
        scores = ik.estimate(run, "test-loss", "sgd-influence" if "Adam" not in str(run.attrs) else "dit")
    summed = ik.sum_over_windows(found).influence.values
    np.testing.assert_allclose(summed, scores.influence.values, rtol=1e-9, atol=1e-14)


def test_a_penalty_in_float32_is_replayed_to_the_bit_and_pushed_like_it_is_pulled():
    tape, model = recorded(PENALTIES["L2"], torch.float32)
    run = tape.trajectory(test=plain_data(1, dtype=torch.float32).tensors)
    assert run.attrs["replay"].endswith("bit for bit")
    assert torch.equal(run.state(5).theta, run.step.advance(run.state(4))[0].theta)
    run = recorded(PENALTIES["L2"])[0].trajectory(test=plain_data(1).tensors)
    with untraced():
        found = ik.estimate(run, "test-loss", "dit").influence.values[0, 0]
    q = ik.make("query", "test-loss").gradient(run.workload, run.final.theta)[0]
    for j in (0, 7):
        moved = run.state(0)._replace(
            theta=torch.zeros_like(q), slots={"momentum_buffer": torch.zeros_like(q)}
        )
        for t in range(run.steps):
            moved = run.step.push(run.state(t), moved, -(run.step.rows(t) == j).to(q))
        assert found[j] == pytest.approx(float(q @ moved.theta), rel=1e-9)


def test_the_influence_function_has_the_hessian_of_the_penalty():
    """Against the dense inverse, for a linear model, whose Gauss-Newton matrix is the Hessian."""

    def linear(dtype=torch.float64):
        return nn.Sequential(nn.Linear(4, 3)).to(dtype)

    torch.manual_seed(5)
    case, test = penalised(l2, model=linear, accumulate=3), plain_data(1, 6).tensors
    run = recorded(case)[0].trajectory(test=test)
    names = [n for n, _ in linear().named_parameters()]

    def losses(theta, batch):
        parts = dict(zip(names, (theta[:12].view(3, 4), theta[12:]), strict=True))
        return ce(batch[0] @ parts["0.weight"].T + parts["0.bias"], batch[1])

    theta, train = run.final.theta, plain_data().tensors
    jacobian = torch.autograd.functional.jacobian(lambda t: losses(t, train), theta)
    h = torch.autograd.functional.hessian(lambda t: losses(t, train).mean() + 0.02 * t @ t, theta)
    q = torch.autograd.functional.jacobian(lambda t: losses(t, test).mean(), theta)
    expected = jacobian @ torch.linalg.solve(h + 0.1 * torch.eye(len(theta), dtype=theta.dtype), q) / N
    found = ik.estimate(run, "test-loss", "if:damping=0.1").influence.values[0, 0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-8)


def test_what_a_penalty_cannot_be():
    run = recorded(PENALTIES["L2"])[0].trajectory(test=plain_data(1).tensors)
    for name in ("dit:curvature=gauss-newton", "dit:curvature=fisher"):
        with pytest.raises(ik.InputError, match="this run has a penalty=, which would be left out of it"):
            ik.estimate(run, "test-loss", name)
    run = recorded(PENALTIES["balance of experts"])[0].trajectory(test=plain_data(1).tensors)
    with pytest.raises(ik.InputError, match="if: the penalty= of this run depends on outputs"):
        ik.estimate(run, "test-loss", "if:damping=0.1")
    plain = PENALTIES["L2"]
    for penalty, said in (
        (lambda m: float(l2(m)), "penalty must return one number as a tensor, got float"),
        (lambda m: m[0].weight, r"got shape \[5, 4\]"),
        (lambda m: 3 * l2(m), "step 0, replayed, is not what the loop did"),
        (None, "step 0, replayed, is not what the loop did"),
    ):
        with pytest.raises(ik.InputError, match=said):
            recorded(plain, penalty=penalty)


def test_a_run_is_opened_with_its_penalty(tmp_path):
    case, store = PENALTIES["L2"], tmp_path / "run.zarr"
    recorded(case, store=store)
    told = {"model": plain_model(), "loss": ce, "data": plain_data()}
    assert ik.open(store, **told, penalty=l2).steps == 6
    with pytest.raises(ik.InputError, match="was recorded with a penalty; pass penalty="):
        ik.open(store, **told)
    with pytest.raises(ik.StoreError, match="was recorded with another penalty: at step 0 it was"):
        ik.open(store, **told, penalty=l1)

    def stopped(model, batch, w, steps=[]):  # noqa: B006
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return case.value(model, batch, w)

    with pytest.raises(KeyboardInterrupt):
        recorded(replace(case, value=stopped), store=tmp_path / "a")
    with pytest.raises(ik.InputError, match="was recorded with a penalty; pass penalty="):
        recorded(case, store=tmp_path / "a", penalty=None, resume=True)
    again = recorded(case, store=tmp_path / "a", resume=True)[0].trajectory()
    assert torch.equal(again.final.theta, ik.open(store, **told, penalty=l2).final.theta)
    recorded(Case(value=case.value, query=ce, told={"loss": ce}), store=tmp_path / "b", check=0)
    with pytest.raises(ik.InputError, match="was recorded without a penalty; leave out penalty="):
        ik.open(tmp_path / "b", **told, penalty=l2)
