"""The update rules beyond SGD and Adam: the bits of torch.optim on the CPU, and adjoints by autodiff."""

from dataclasses import replace
from math import prod

import pytest
import torch
from test_optimizers import Parameters, gradients
from torch import nn

import influencekit as ik
from influencekit import Group
from influencekit._training.layout import Layout
from influencekit._training.optimizer import description
from influencekit._training.optimizers import matrices
from influencekit.testing import tiny_workload, torch_optimizer, unrolled_gradient

HEAD = (Group(("head.*",), {"lr": 0.02, "weight_decay": 0.1}),)
RULES = {
    "sgd, maximize": ik.SGD(lr=0.1, momentum=0.9, weight_decay=0.1, maximize=True, groups=HEAD),
    "adam, amsgrad": ik.Adam(lr=0.05, amsgrad=True, weight_decay=0.1, groups=HEAD),
    "adamw, amsgrad in a group, maximize": ik.AdamW(
        lr=0.05, maximize=True, groups=(Group(("a",), {"amsgrad": True, "maximize": False}),)
    ),
    "rmsprop": ik.RMSprop(lr=0.01, weight_decay=0.05, maximize=True),
    "rmsprop, centered in a group, momentum": ik.RMSprop(
        lr=0.01, momentum=0.9, alpha=0.9, groups=(Group(("a",), {"centered": True, "momentum": 0.0}),)
    ),
    "adagrad": ik.Adagrad(lr=0.1, lr_decay=0.01, weight_decay=0.05, initial_accumulator_value=0.1),
    "adagrad, groups": ik.Adagrad(lr=0.1, groups=HEAD),
    "adadelta": ik.Adadelta(lr=1.0, weight_decay=0.1, groups=HEAD),
    "nadam": ik.NAdam(lr=0.02, weight_decay=0.1, groups=HEAD),
    "nadam, decoupled": ik.NAdam(lr=0.02, weight_decay=0.1, decoupled_weight_decay=True, maximize=True),
    "radam": ik.RAdam(lr=0.02, weight_decay=0.1, groups=HEAD),
    "radam, decoupled": ik.RAdam(lr=0.02, betas=(0.8, 0.95), weight_decay=0.1, decoupled_weight_decay=True),
    "adamax": ik.Adamax(lr=0.02, weight_decay=0.1, groups=HEAD),
    "adafactor": ik.Adafactor(lr=0.02),
    "adafactor, groups": ik.Adafactor(lr=0.02, weight_decay=0.1, d=1.5, maximize=True, groups=HEAD),
    "muon": ik.Muon(lr=0.02),
    "muon, groups": ik.Muon(
        lr=0.02, nesterov=False, groups=(Group(("wide",), {"adjust_lr_fn": "match_rms_adamw"}),)
    ),
}
RULES |= {
    "clipped by value": ik.SGD(lr=0.1, momentum=0.9, clip_value=0.4),
    "clipped by the 1-norm": ik.Adam(lr=0.1, clip_norm=2.0, clip_norm_type=1.0),
    "clipped by the 3-norm": ik.Adagrad(lr=0.1, clip_norm=2.0, clip_norm_type=3.0),
    "clipped by the largest entry": ik.RMSprop(lr=0.01, clip_norm=1.0, clip_norm_type=float("inf")),
}
each_rule = pytest.mark.parametrize("name", RULES)


class Matrices(nn.Module):
    """Parameters of two dimensions only: one tall, one wide."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.tall = nn.Parameter(torch.linspace(-1, 1, 35, dtype=dtype).reshape(7, 5))
        self.wide = nn.Parameter(torch.linspace(0.5, -2, 12, dtype=dtype).reshape(3, 4))


class Wide(Parameters):
    """With a tensor of three dimensions, a row and a column."""

    def __init__(self, dtype=torch.float32):
        super().__init__(dtype)
        for name, shape in {"cube": (2, 3, 4), "row": (1, 9), "column": (6, 1)}.items():
            self.register_parameter(
                name, nn.Parameter(torch.linspace(-1, 1, prod(shape), dtype=dtype).view(shape))
            )


def model_for(name, dtype):
    return Matrices(dtype) if name.startswith("muon") else Wide(dtype)


class Problem:
    """What `torch_optimizer` reads of a workload."""

    def __init__(self, optimizer):
        self.optimizer = optimizer


@each_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_200_steps_equal_torch_optim_bit_for_bit(name, dtype):
    optimizer, model = RULES[name], model_for(name, dtype)
    theirs, layout = torch_optimizer(Problem(optimizer), model), Layout.of(model)
    parameters = dict(model.named_parameters())
    theta = layout.join(parameters)
    slots = optimizer.start(theta)
    rules, owners = optimizer.members(), optimizer.owners(layout)
    for t, g in enumerate(gradients(layout.size, 200, 1, dtype)):
        lrs = [rule.lr / (1 + 0.01 * t) for rule in rules]
        for key, part in layout.split(g).items():
            parameters[key].grad = part.clone()
        for group, lr in zip(theirs.param_groups, lrs, strict=True):
            group["lr"] = lr
        if optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), optimizer.clip_norm, optimizer.clip_norm_type)
        if optimizer.clip_value is not None:
            nn.utils.clip_grad_value_(model.parameters(), optimizer.clip_value)
        theirs.step()
        theta, slots = optimizer.step(layout, theta, slots, g, t, lrs)
        assert torch.equal(theta, layout.join(parameters)), f"step {t}"
    assert theta.isfinite().all()
    # and so are the slots, as the tape reads and writes them
    parts = {key: layout.split(slot) for key, slot in slots.items()}
    for key, owner in zip(layout.names, owners, strict=True):
        state, p = theirs.state[parameters[key]], parameters[key]
        mine = {slot: parts[slot][key] for slot in rules[owner].slots}
        for slot, value in rules[owner].slots_of(state, p.detach()).items():
            assert torch.equal(mine[slot], value), (key, slot)
        again = rules[owner].state_of(mine, 200)
        assert again.keys() == state.keys()
        for entry, value in state.items():
            assert torch.equal(again[entry], value) and again[entry].dtype == value.dtype, (key, entry)
            assert again[entry].shape == value.shape


@each_rule
def test_many_models_at_once_equal_each_alone(name):
    # sums over a parameter may be taken in another order (float64: 1e-13), Muon's in bfloat16 (2 %)
    optimizer, layout = RULES[name], Layout.of(model_for(name, torch.float64))
    lrs = [rule.lr for rule in optimizer.members()]
    g = gradients(layout.size, 9, 2, torch.float64).view(3, 3, -1)
    start = gradients(layout.size, 1, 3, torch.float64)[0]
    theta = start.expand(3, -1)
    slots = {key: x.expand(3, -1) for key, x in optimizer.start(start).items()}
    alone = [(start, optimizer.start(start)) for _ in range(3)]
    close = 0.03 if name.startswith("muon") else 1e-13
    for t in range(3):
        theta, slots = optimizer.step(layout, theta, slots, g[t], t, lrs)
        alone = [optimizer.step(layout, x, s, g[t, k], t, lrs) for k, (x, s) in enumerate(alone)]
        torch.testing.assert_close(theta, torch.stack([x for x, _ in alone]), rtol=close, atol=close)


@each_rule
@pytest.mark.parametrize("t", [0, 7])
def test_the_pullback_is_the_transposed_derivative_of_the_step(name, t, monkeypatch):
    monkeypatch.setattr(matrices, "_ROUNDED", torch.float64)
    optimizer, layout = RULES[name], Layout.of(model_for(name, torch.float64))
    if isinstance(getattr(optimizer, "eps", None), float) and not name.startswith("muon"):
        optimizer = replace(optimizer, eps=0.01)  # smooth enough for differences
    lrs = [rule.lr for rule in optimizer.members()]
    theta, g, before, *a = gradients(layout.size, 5, 4, torch.float64)
    slots = optimizer.start(theta)
    for k in range(t):
        _, slots = optimizer.step(layout, theta, slots, before * (1 + 0.1 * k), k, lrs)
    if "max_exp_avg_sq" in slots:  # below and above what comes
        slots["max_exp_avg_sq"] = slots["max_exp_avg_sq"] * (0.5 + torch.arange(layout.size) % 2)
    a_slots = {key: torch.stack(a).roll(k + 1, -1) for k, key in enumerate(slots)}
    c, a_theta, back = optimizer.pullback(layout, theta, slots, g, t, lrs, torch.stack(a), a_slots)

    # by central differences of the step along a direction, extrapolated once
    d, e, *f = gradients(layout.size, 2 + len(slots), 5, torch.float64)
    e = e * (g != 0)
    f = {key: x * slots[key] * (key != "mu_product") for key, x in zip(slots, f, strict=True)}

    def value(h):
        moved = {key: x + h * f[key] for key, x in slots.items()}
        new, kept = optimizer.step(layout, theta + h * d, moved, g + h * e, t, lrs)
        return torch.stack(a) @ new + sum(a_slots[key] @ kept[key] for key in kept)

    def slope(h):
        return (value(h) - value(-h)) / (2 * h)

    found = c @ e + a_theta @ d + sum(back[key] @ x for key, x in f.items())
    h = 1e-5
    torch.testing.assert_close(found, (4 * slope(h / 2) - slope(h)) / 3, rtol=1e-6, atol=1e-6)

    def step(theta, slots, g):
        return optimizer.step(layout, theta, slots, g, t, lrs)

    def pushed(d, f, e):  # as forward estimators do
        new, kept = torch.func.jvp(step, (theta, slots, g), (d, f, e))[1]
        return torch.stack(a) @ new + sum(a_slots[key] @ kept[key] for key in kept)

    twice = [torch.stack([x, 2 * x]) for x in (d, e)]
    many = torch.vmap(pushed)(twice[0], {key: torch.stack([x, 2 * x]) for key, x in f.items()}, twice[1])
    torch.testing.assert_close(many, torch.stack([found, 2 * found]), rtol=1e-10, atol=1e-10)


def test_a_store_knows_an_optimizer_by_the_text_of_older_versions_where_nothing_new_is_set():
    old = "AdamW(lr=0.1, clip_norm=None, groups=(), betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01)"
    assert description(ik.AdamW(lr=0.1)) == old
    assert description(ik.AdamW(lr=0.1, amsgrad=True)) == old[:-1] + ", amsgrad=True)"
    assert "clip_value=0.5" in description(ik.SGD(lr=0.1, clip_value=0.5))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ik.SGD(lr=0.1, clip_norm=1.0, clip_value=1.0), "clip by the norm or by value"),
        (lambda: ik.SGD(lr=0.1, clip_norm=1.0, clip_norm_type=0.0), "clip_norm_type must be above 0"),
        (lambda: ik.Adafactor(lr=0.1, d=0.5), "d must be at least 1"),
        (lambda: ik.Muon(lr=0.1, maximize=True), "has no maximize"),
        (lambda: ik.Muon(lr=0.1, adjust_lr_fn="other"), "adjust_lr_fn must be one of original"),
        (lambda: ik.NAdam(lr=0.1, betas=(0.9, 1.0)), "betas must lie in"),
        (lambda: ik.record(tiny_workload(ik.Muon(lr=0.1))), "Muon trains matrices"),
    ],
)
def test_impossible_settings_are_refused(make, words):
    with pytest.raises(ik.InputError, match=words):
        make()


# whole runs, on the tiny workload: first-order scores against autodiff through the run, and the Taylor slope

SMOOTH = {
    "adam, amsgrad": ik.Adam(lr=0.05, eps=0.01, amsgrad=True, maximize=True),
    "rmsprop": ik.RMSprop(lr=0.02, eps=0.01, weight_decay=0.05),
    "rmsprop, centered": ik.RMSprop(lr=0.02, eps=0.1, alpha=0.9, momentum=0.5, centered=True),
    "adagrad": ik.Adagrad(lr=0.1, eps=0.01, lr_decay=0.1, initial_accumulator_value=0.01),
    "adadelta": ik.Adadelta(lr=1.0, eps=0.01),
    "nadam": ik.NAdam(lr=0.05, eps=0.01, weight_decay=0.05),
    "nadam, decoupled": ik.NAdam(lr=0.05, eps=0.01, weight_decay=0.05, decoupled_weight_decay=True),
    "radam": ik.RAdam(lr=0.05, eps=0.01, betas=(0.8, 0.9), weight_decay=0.05),
    "adamax": ik.Adamax(lr=0.05, eps=0.01),
    "adafactor": ik.Adafactor(lr=0.05, weight_decay=0.05),
    "muon": ik.Muon(lr=0.05),
    "clipped by value": ik.SGD(lr=0.2, momentum=0.8, clip_value=0.03),
    "clipped by the 1-norm": ik.SGD(lr=0.2, clip_norm=0.2, clip_norm_type=1.0),
    "clipped by the largest entry": ik.RMSprop(
        lr=0.02, eps=0.01, clip_norm=0.05, clip_norm_type=float("inf")
    ),
}


def workload_for(optimizer):
    workload = tiny_workload(optimizer)
    if isinstance(optimizer, ik.Muon):  # matrices only
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 1, bias=False), nn.Flatten(0)
        )
        workload = replace(workload, model=model.double())
    return workload


@pytest.mark.parametrize("name", SMOOTH)
def test_dit_is_the_derivative_of_the_run(name, monkeypatch):
    monkeypatch.setattr(matrices, "_ROUNDED", torch.float64)  # a rounded step has no derivative
    run = ik.record(workload_for(SMOOTH[name]))
    found = torch.from_numpy(ik.estimate(run, "test-loss", "dit").influence.values)[0, 0]
    expected = unrolled_gradient(run.workload, ik.make("query", "test-loss"), [ik.Window(0, run.steps)])[0, 0]
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-10
    (slope,) = ik.evaluate(run, "taylor:directions=1", estimators=["dit"]).values()
    assert float(slope.slope.min()) > 1.9
