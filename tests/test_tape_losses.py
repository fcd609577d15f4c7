"""Losses as people write them, on a tape: scores are those of the loop by PyTorch alone."""

import pytest
import torch
import torch.nn.functional as F
from helpers_tape import sample
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
