"""Losses as people write them, on a tape: scores are those of the loop by PyTorch alone."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers_tape import sample, untraced
from helpers_tape_losses import Case, N, check, plain_data, plain_model, recorded
from torch import nn
from torch.utils.data import TensorDataset

import influencekit as ik

ce = nn.CrossEntropyLoss(reduction="none")


# losses that see the batch ------------------------------------------------------------------------------


def weighted_data(seed=0, n=N, dtype=torch.float64):
    x, y = sample(n, seed, dtype)
    return TensorDataset(x, 0.5 + x[:, 0].abs(), y)


def sample_weighted(outputs, target, batch):
    return batch[1] * ce(outputs, target)


def weighted_mean(batch):
    return 1 / batch[1].sum()


def masked_data(seed=0, n=N, dtype=torch.float64):
    x, _ = sample(5 * n, seed, dtype)
    length = torch.arange(n) % 4 + 2
    there = torch.arange(5) < length[:, None]
    return [
        {"x": a, "mask": m, "labels": b}
        for a, m, b in zip(x.view(n, 5, 4), there, x.view(n, 5, 4).sum(-1), strict=True)
    ]


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(4, 1)

    def forward(self, x):
        return self.l(x)[..., 0]


def tokens(dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Tokens().to(dtype)


def masked_sums(outputs, target, *, batch):
    return (batch["mask"] * (outputs - target) ** 2).sum(1)


def two_tasks(seed=0, n=N, dtype=torch.float64):
    x, y = sample(n, seed, dtype)
    return [{"x": a, "kind": b, "size": a[:2].sum()} for a, b in zip(x, y, strict=True)]


def both_tasks(outputs, _, batch):
    return ce(outputs[:, :2], batch["kind"].clamp(max=1)) + 0.3 * (outputs[:, 2] - batch["size"]) ** 2


teacher = nn.Linear(4, 3, dtype=torch.float64).requires_grad_(False).eval()
nn.init.normal_(teacher.weight, generator=torch.Generator().manual_seed(7))


def distilled(outputs, target, batch):
    with torch.no_grad():
        soft = teacher(batch[0].double()).to(outputs.dtype).softmax(1)
    return 0.5 * ce(outputs, target) + 0.5 * (soft * (soft.log() - outputs.log_softmax(1))).sum(1)


SEES = {
    "sample weights": Case(
        value=lambda m, b, w: (w * b[1] * ce(m(b[0]), b[2])).mean(),
        query=lambda m, b: b[1] * ce(m(b[0]), b[2]),
        told={"loss": sample_weighted, "forward": lambda m, b: m(b[0])},
        data=weighted_data,
    ),
    "a weighted mean, whose divisor depends on the batch": Case(
        value=lambda m, b, w: (w * b[1] * ce(m(b[0]), b[2])).sum() / b[1].sum(),
        query=lambda m, b: b[1] * ce(m(b[0]), b[2]),
        told={"loss": sample_weighted, "forward": lambda m, b: m(b[0])},
        taped={"reduction": weighted_mean},
        data=weighted_data,
    ),
    "masks": Case(
        value=lambda m, b, w: (
            (w[:, None] * b["mask"] * (m(b["x"]) - b["labels"]) ** 2).sum() / b["mask"].sum()
        ),
        query=lambda m, b: (b["mask"] * (m(b["x"]) - b["labels"]) ** 2).sum(1),
        told={"loss": masked_sums, "forward": lambda m, b: m(b["x"])},
        taped={"reduction": lambda b: 1 / int(b["mask"].sum())},
        model=tokens,
        data=masked_data,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.01),
    ),
    "two tasks in a dict": Case(
        value=lambda m, b, w: (w * both_tasks(m(b["x"]), None, b)).mean(),
        query=lambda m, b: both_tasks(m(b["x"]), None, b),
        told={"loss": both_tasks, "forward": lambda m, b: m(b["x"])},
        data=two_tasks,
    ),
    "distillation": Case(
        value=lambda m, b, w: (w * distilled(m(b[0]), b[1], b)).mean(),
        query=lambda m, b: distilled(m(b[0]), b[1], b),
        told={"loss": distilled},
    ),
}


@pytest.mark.parametrize("case", SEES.values(), ids=SEES)
def test_losses_that_see_the_batch(case):
    check(case)


def test_a_workload_whose_loss_sees_the_batch():
    """`record`, all estimators and the accuracy: as with the weights in the target."""
    train, test = weighted_data().tensors, weighted_data(1, 6).tensors

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain_model()

        def forward(self, x, weight):
            return self.inner(x)

    def inside(outputs, target):
        return target[:, 1] * ce(outputs, target[:, 0].long())

    def work(loss, pack):
        return ik.Workload(
            model=Net(), loss=loss, train=pack(train), test=pack(test), optimizer=ik.SGD(lr=0.3), batch_size=4
        )

    one = work(sample_weighted, lambda b: b)
    two = work(inside, lambda b: (b[0], b[1], torch.stack([b[2].double(), b[1]], 1)))
    for name in ("dit", "loo", "if:damping=0.1"):
        a, b = (ik.estimate(ik.record(w), "test-loss", name).influence.values for w in (one, two))
        assert a == pytest.approx(b, rel=1e-9, abs=1e-12)
    right = (one.outputs(one.theta0, test).argmax(1) == test[2]).double().mean()
    assert one.accuracy(one.theta0) == pytest.approx(float(right))


def test_a_loss_whose_second_parameter_is_called_batch_gets_the_target():
    def named_so(outputs, batch):
        return ce(outputs, batch)

    tape, _ = recorded(
        Case(value=lambda m, b, w: ce(m(b[0]), b[1]).mean(), query=ce, told={"loss": named_so})
    )
    assert tape.trajectory(test=plain_data(1).tensors).steps == 6


def test_a_query_that_needs_a_target_says_that_the_loss_takes_it_from_the_batch():
    case = SEES["two tasks in a dict"]
    run = recorded(case)[0].trajectory(test=case.data(1, 6))
    assert "not a tensor" in run.attrs["accuracy_note"]
    with pytest.raises(ik.InputError, match="the batch has no entry 'labels'"):
        run.workload.target(run.workload.test)


@pytest.mark.parametrize("loss", [nn.MSELoss(reduction="none"), lambda o, t: o])
def test_a_dict_without_a_target_is_refused_where_the_loss_does_not_see_the_batch(loss):
    case = SEES["two tasks in a dict"]
    with pytest.raises(ik.InputError, match="no entry 'labels' for the target; it has x, kind, size"):
        recorded(case, loss=loss)


def test_a_teacher_that_is_trained_or_changes_is_caught():
    def changing(event):
        own = nn.Linear(4, 3, dtype=torch.float64).requires_grad_(event == "trained")

        def loss(outputs, target, batch):
            with torch.set_grad_enabled(event == "trained"):
                soft = own(batch[0]).softmax(1)
            if event == "changed":
                own.weight.data[0].add_(0.1)
            return (soft * (soft.log() - outputs.log_softmax(1))).sum(1)

        return Case(value=lambda m, b, w: loss(m(b[0]), b[1], b).mean(), query=ce, told={"loss": loss})

    with pytest.raises(ik.InputError, match=r"parameter of shape \[3, 4\] that is not the"):
        recorded(changing("trained"))
    with pytest.raises(ik.InputError):
        recorded(changing("changed"))


# losses that the model computes itself, and recipes -----------------------------------------------------


class WithLoss(nn.Module):
    """As in many repositories: `model.loss(x, y)`, which does not call the model, or `training_step`."""

    def __init__(self, bare=False):
        super().__init__()
        self.net, self.bare = plain_model(), bare
        self.shift = nn.Parameter(torch.full((3,), 0.1, dtype=torch.float64))

    def loss(self, x, y, reduction="mean"):
        noise = 0.1 * torch.randn(x.shape, dtype=x.dtype) if self.training else 0.0
        out = x[:, :3] * self.shift if self.bare else self.net(x + noise) + self.shift
        return F.cross_entropy(out, y, reduction=reduction)

    def training_step(self, batch):
        return self.loss(*batch)


def own_loss(**more):
    return Case(
        value=lambda m, b, w: m.training_step(b) if bool((w == 1).all()) else (w * m.loss(*b, "none")).mean(),
        query=lambda m, b: m.loss(*b, reduction="none"),
        told={
            "forward": lambda model, batch: model.loss(*batch, reduction="none"),
            "loss": lambda outputs, target: outputs,
        },
        **more,
    )


balanced = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]).double(), label_smoothing=0.1)
each_balanced = nn.CrossEntropyLoss(weight=balanced.weight, label_smoothing=0.1, reduction="none")


def mean_unless_weighted(mean, each, divisor=lambda b: len(b[0])):
    """What the loop minimises: torch's own mean where all weights are 1."""

    def value(m, b, w):
        if bool((w == 1).all()):
            return mean(m(b[0]), b[1])
        return (w * each(m(b[0]), b[1])).sum() / divisor(b)

    return value


def triplets(seed=0, n=N, dtype=torch.float64):
    x, _ = sample(3 * n, seed, dtype)
    return TensorDataset(*x.view(3, n, 4))


def apart(outputs, target):
    return F.triplet_margin_loss(*outputs, margin=2.0, swap=False, reduction="none")


def of_three(model, batch):
    return tuple(model(x) for x in batch)


def groups(seed=0, n=N, dtype=torch.float64):
    """An example is a group: an anchor, two positives and two negatives."""
    x, _ = sample(5 * n, seed, dtype)
    return TensorDataset(x.view(n, 5, 4), torch.zeros(n))


def of_group(outputs, target):
    anchor, good, bad = outputs[:, :1], outputs[:, 1:3], outputs[:, 3:]
    gap = (anchor - good).pow(2).sum(-1)[:, :, None] - (anchor - bad).pow(2).sum(-1)[:, None]
    return F.softplus(1 + gap).mean((1, 2))


def info_nce(codes, right):
    return F.cross_entropy(codes @ right.mT / 0.5, torch.arange(len(right)), reduction="none")


def hardest(outputs, target):
    losses = ce(outputs, target)
    return losses * (losses >= losses.topk(2).values[-1])


RECIPES = {
    "model.training_step": own_loss(model=lambda dtype=torch.float64: WithLoss()),
    "model.training_step, accumulated": own_loss(model=lambda dtype=torch.float64: WithLoss(), accumulate=3),
    "model.loss without any module": own_loss(model=lambda dtype=torch.float64: WithLoss(bare=True)),
    "class weights and label smoothing": Case(
        value=mean_unless_weighted(balanced, each_balanced, lambda b: balanced.weight[b[1]].sum()),
        query=lambda m, b: each_balanced(m(b[0]), b[1]),
        told={"loss": each_balanced},
        taped={"reduction": lambda batch: 1 / float(balanced.weight[batch[1]].sum())},
        replayed="",
    ),
    "label smoothing": Case(
        value=mean_unless_weighted(
            nn.CrossEntropyLoss(label_smoothing=0.1),
            nn.CrossEntropyLoss(label_smoothing=0.1, reduction="none"),
        ),
        query=lambda m, b: F.cross_entropy(m(b[0]), b[1], label_smoothing=0.1, reduction="none"),
        told={"loss": nn.CrossEntropyLoss(label_smoothing=0.1, reduction="none")},
        replayed="",
    ),
    "triplets": Case(
        value=lambda m, b, w: (w * apart(of_three(m, b), None)).mean(),
        query=lambda m, b: apart(of_three(m, b), None),
        told={"forward": of_three, "loss": apart},
        data=triplets,
    ),
    "groups": Case(
        value=lambda m, b, w: (w * of_group(m(b[0]), None)).mean(),
        query=lambda m, b: of_group(m(b[0]), None),
        told={"loss": of_group},
        data=groups,
    ),
    "the hardest of a batch": Case(
        value=lambda m, b, w: (w * hardest(m(b[0]), b[1])).sum() / 2,
        query=lambda m, b: hardest(m(b[0]), b[1]),
        told={"loss": hardest},
        taped={"separable": False, "reduction": lambda batch: 1 / 2},
    ),
    "contrastive": Case(
        value=lambda m, b, w: (w * info_nce(m(b[0]), b[1])).mean(),
        query=lambda m, b: info_nce(m(b[0]), b[1]),
        told={"loss": info_nce},
        taped={"separable": False},
        data=lambda seed=0, n=N, dtype=torch.float64: TensorDataset(
            sample(n, seed, dtype)[0], sample(n, seed + 5, dtype)[0][:, :3]
        ),
    ),
}


@pytest.mark.parametrize("case", RECIPES.values(), ids=RECIPES)
def test_recipes(case):
    check(case)


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
