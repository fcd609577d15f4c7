"""Update rules against `torch.optim` bit for bit, their adjoints against automatic differentiation."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from influencekit import SGD, Adam, AdamW, Group, InputError, Optimizer, Workload
from influencekit._training import optimizer as optimizer_module
from influencekit._training.layout import Layout
from influencekit.testing import torch_optimizer


class Parameters(nn.Module):
    """Nothing but parameters, of several shapes, one of them frozen."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.a = nn.Parameter(torch.linspace(-1, 1, 6, dtype=dtype).reshape(2, 3))
        self.frozen = nn.Parameter(torch.ones(2, dtype=dtype), requires_grad=False)
        self.head = nn.ParameterDict({"weight": torch.linspace(0.2, 2, 4, dtype=dtype)})
        self.scale = nn.Parameter(torch.tensor(0.3, dtype=dtype))

    def forward(self, x):  # a loss that reaches all of them: what it does not reach is never decayed
        return x * (self.scale + self.a.sum() + self.head["weight"].sum())


def workload(optimizer, dtype=torch.float32):
    x = torch.zeros(4, dtype=dtype)
    return Workload(
        model=Parameters(dtype),
        loss=nn.MSELoss(reduction="none"),
        train=(x, x),
        test=(x, x),
        optimizer=optimizer,
    )


rates = st.sampled_from([1e-3, 0.03, 0.1, 0.7])
decays = st.sampled_from([0.0, 0.01, 0.2])
betas = st.tuples(st.sampled_from([0.0, 0.8, 0.9]), st.sampled_from([0.0, 0.95, 0.999]))
clips = st.sampled_from([None, 0.5, 3.0, 1e6])  # a gradient's norm here is about 3


@st.composite
def sgds(draw, clip=clips):
    options = {"lr": draw(rates), "weight_decay": draw(decays), "clip_norm": draw(clip)}
    options["momentum"] = draw(st.sampled_from([0.0, 0.5, 0.9]))
    if options["momentum"]:
        options["nesterov"] = draw(st.booleans())
        options["dampening"] = 0.0 if options["nesterov"] else draw(st.sampled_from([0.0, 0.3, 1.0]))
    return SGD(**options)


@st.composite
def adams(draw, clip=clips):
    kind = draw(st.sampled_from([Adam, AdamW]))
    eps = draw(st.sampled_from([1e-8, 1e-3]))
    return kind(lr=draw(rates), betas=draw(betas), eps=eps, weight_decay=draw(decays), clip_norm=draw(clip))


@st.composite
def grouped(draw, base):
    optimizer = draw(base)
    changes = {"lr": draw(rates), "weight_decay": draw(decays)}
    if isinstance(optimizer, Adam):
        changes["betas"] = draw(betas)
    groups = draw(st.sampled_from([(), (("head.*",),), (("a", "scale"), ("head.*",)), (("*",),)]))
    return replace(optimizer, groups=tuple(Group(patterns, changes) for patterns in groups))


optimizers = grouped(st.one_of(sgds(), adams()))


def gradients(n, steps, seed, dtype=torch.float32):
    """Random gradients, some entries of which are always, and some sometimes, exactly zero."""
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(steps, n, generator=generator, dtype=torch.float64)
    g = g * (torch.rand(steps, n, generator=generator) > 0.2)
    g[:, 4] = 0.0
    return g.to(dtype)


@settings(max_examples=40)
@given(optimizers, st.integers(0, 2**31), st.booleans())
def test_200_steps_equal_torch_optim_bit_for_bit(optimizer, seed, decaying):
    w = workload(optimizer)
    model = Parameters()
    theirs = torch_optimizer(w, model)
    theta, slots, layout = w.theta0, optimizer.start(w.theta0), w.layout
    parameters = dict(model.named_parameters())
    for t, g in enumerate(gradients(w.n_params, 200, seed)):
        lrs = [rule.lr / (1 + t if decaying else 1) for rule in optimizer.members()]
        for name, part in layout.split(g).items():
            parameters[name].grad = part.clone()
        for group, lr in zip(theirs.param_groups, lrs, strict=True):
            group["lr"] = lr
        if optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_([parameters[name] for name in layout.names], optimizer.clip_norm)
        theirs.step()
        theta, slots = optimizer.step(layout, theta, slots, g, t, lrs)
        assert torch.equal(theta, layout.join(parameters)), f"step {t}"
    for name, slot in slots.items():
        for key, part in layout.split(slot).items():
            assert torch.equal(part, theirs.state[parameters[key]][name]), name


@settings(max_examples=30)
@given(optimizers, st.integers(0, 2**31), st.integers(1, 9))
def test_long_vectors_in_pieces_give_the_same_bits(optimizer, seed, piece):
    w = workload(optimizer, torch.float64)
    layout, lrs = w.layout, [rule.lr for rule in optimizer.members()]
    theta, g, *slots = gradients(w.n_params, 4, seed, torch.float64)
    slots = dict(zip(optimizer.slots, (x.square() for x in slots), strict=False))
    a = gradients(w.n_params, 2, seed + 1, torch.float64)
    a_slots = {name: x.expand(2, -1) for name, x in slots.items()}

    def both():
        optimizer_module._pieces.cache_clear()
        new, kept = optimizer.step(layout, theta, slots, g, 3, lrs)
        c, back, back_slots = optimizer.pullback(layout, theta, slots, g, 3, lrs, a, a_slots)
        mine = a.clone(), {name: x.clone() for name, x in a_slots.items()}
        over = optimizer.pullback(layout, theta, slots, g, 3, lrs, *mine, overwrite=True)
        assert_same(over, (c, back, back_slots), tolerance=0)
        return [new, *kept.values(), c, back, *back_slots.values()]

    whole = both()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizer_module, "_PIECE", piece)
        cut = both()
    optimizer_module._pieces.cache_clear()
    assert all(torch.equal(x, y) for x, y in zip(whole, cut, strict=True))


@settings(max_examples=30)
@given(optimizers, st.integers(0, 2**31))
def test_many_models_at_once_equal_each_alone(optimizer, seed):
    # elementwise rules give the same bits; the norm of clipping may sum in another order (float64: 1e-14)
    w = workload(optimizer, torch.float64)
    layout, lrs = w.layout, [rule.lr for rule in optimizer.members()]
    g = gradients(w.n_params, 9, seed, torch.float64).view(3, 3, -1)
    theta = w.theta0.expand(3, -1)
    slots = {name: torch.zeros_like(theta) for name in optimizer.slots}
    alone = [(w.theta0, optimizer.start(w.theta0)) for _ in range(3)]
    for t in range(3):
        theta, slots = optimizer.step(layout, theta, slots, g[t], t, lrs)
        alone = [optimizer.step(layout, x, s, g[t, k], t, lrs) for k, (x, s) in enumerate(alone)]
        torch.testing.assert_close(theta, torch.stack([x for x, _ in alone]), rtol=1e-13, atol=1e-14)


# adjoints, in float64 on values of order 1: closed forms and autodiff differ by rounding -----------------


def somewhere(optimizer, seed, columns, t):
    """(theta, slots, g, a, a_slots) as they may stand in the middle of training."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n = Parameters().a.numel() + 5
    slots = {name: torch.zeros(n, dtype=torch.float64) for name in optimizer.slots}
    if t:
        slots = {k: random(n).abs() if k == "exp_avg_sq" else random(n) for k in slots}
        slots = {k: v * (torch.arange(n) != 4) for k, v in slots.items()}
    g = random(n)
    g[4] = 0.0  # has always been zero: the derivative of sqrt(v) there is taken as 0
    shape = (columns, n) if columns else (n,)
    return random(n), slots, g, random(*shape), {name: random(*shape) for name in slots}


def assert_same(found, expected, tolerance=1e-9):
    c, a, slots = found
    c_expected, a_expected, slots_expected = expected
    for x, y in [(c, c_expected), (a, a_expected), *((slots[k], slots_expected[k]) for k in slots_expected)]:
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@settings(max_examples=60)
@given(
    st.one_of(sgds(), adams()), st.integers(0, 2**31), st.sampled_from([0, 1, 7]), st.sampled_from([0, 1, 3])
)
def test_closed_pullbacks_equal_the_generic_one(optimizer, seed, t, columns):
    optimizer = replace(optimizer, clip_norm=None)
    if isinstance(optimizer, Adam) and optimizer.betas[1] == 0.0:
        optimizer = replace(optimizer, eps=1e-3)  # v = g^2 as small as it likes: 1/eps of rounding
    theta, slots, g, a, a_slots = somewhere(optimizer, seed, columns, t)
    arguments = (theta, slots, g, t, 0.3, a, a_slots)
    assert_same(optimizer.rule_pullback(*arguments), Optimizer.rule_pullback(optimizer, *arguments))


@settings(max_examples=60)
@given(optimizers, st.integers(0, 2**31), st.sampled_from([0, 1, 7]), st.sampled_from([1, 3]))
def test_the_whole_pullback_with_clipping_and_groups_is_the_transposed_derivative(
    optimizer, seed, t, columns
):
    if isinstance(optimizer, Adam):
        optimizer = replace(optimizer, eps=1e-3)
    layout, lrs = Layout.of(Parameters()), [rule.lr for rule in optimizer.members()]
    theta, slots, g, a, a_slots = somewhere(optimizer, seed, columns, t)

    def step(theta, slots, g):
        return optimizer.step(layout, theta, slots, g, t, lrs)

    _, vjp = torch.func.vjp(step, theta, slots, g)
    a_expected, slots_expected, c_expected = torch.func.vmap(vjp)((a, a_slots))
    found = optimizer.pullback(layout, theta, slots, g, t, lrs, a, a_slots)
    assert_same(found, (c_expected, a_expected, slots_expected))


def test_sgd_needs_no_gradient_unless_it_clips():
    assert not SGD(lr=0.1, momentum=0.9).needs_gradient()
    assert SGD(lr=0.1, clip_norm=1.0).needs_gradient()
    assert Adam(lr=0.1).needs_gradient()


@dataclass(frozen=True, kw_only=True)
class Sign(Optimizer):
    """A rule of one's own: momentum of softened signs."""

    slots = ("m",)

    def rule(self, theta, slots, g, t, lr):
        m = 0.9 * slots["m"] + torch.tanh(5 * g)
        return theta - lr * m, {"m": m}


def test_a_rule_of_ones_own_inherits_its_pullback_and_has_no_torch_counterpart():
    optimizer = Sign(lr=0.1)
    theta, slots, g, a, a_slots = somewhere(optimizer, 0, 2, 3)
    b = a_slots["m"] - 0.1 * a  # adjoint of m
    expected = (b * 5 * (1 - torch.tanh(5 * g) ** 2), a, {"m": 0.9 * b})
    assert_same(optimizer.rule_pullback(theta, slots, g, 3, 0.1, a, a_slots), expected)
    with pytest.raises(InputError, match="expected an optimizer that torch.optim has"):
        torch_optimizer(workload(optimizer), Parameters())


# groups and refusals ------------------------------------------------------------------------------------


def updates(groups):
    """The update of each parameter by plain SGD of its group, for a gradient of ones."""
    w = workload(SGD(lr=0.1, groups=groups))
    lrs = [rule.lr for rule in w.optimizer.members()]
    theta, _ = w.optimizer.step(w.layout, w.theta0, {}, torch.ones_like(w.theta0), 0, lrs)
    return {name: (-part).mean().item() for name, part in w.layout.split(theta - w.theta0).items()}


def test_a_parameter_belongs_to_the_first_group_that_matches():
    groups = (Group(("head.*",), {"lr": 1.0}), Group(("[ah]*",), {"lr": 2.0}))
    found = updates(groups)
    assert found == pytest.approx({"a": 2.0, "scale": 0.1, "head.weight": 1.0}, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SGD(lr=-1.0), "lr must be at least 0"),
        (lambda: SGD(lr=float("nan")), "lr must be a number, got nan"),
        (lambda: SGD(lr=0.1, weight_decay=-0.1), "weight_decay must be at least 0"),
        (lambda: SGD(lr=0.1, nesterov=True), "Nesterov momentum needs momentum above 0"),
        (lambda: SGD(lr=0.1, momentum=0.9, dampening=0.1, nesterov=True), "dampening 0"),
        (lambda: Adam(lr=0.1, betas=(0.9, 1.0)), "betas must lie in"),
        (lambda: AdamW(lr=0.1, eps=-1.0), "eps must be at least 0"),
        (lambda: SGD(lr=0.1, clip_norm=0.0), "clip_norm must be above 0"),
    ],
)
def test_impossible_settings_are_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_a_group_that_matches_nothing_is_refused():
    with pytest.raises(InputError, match="no parameter matches 'tail"):
        updates((Group(("tail.*",), {}),))


@dataclass(frozen=True, kw_only=True)
class Follows(Optimizer):
    """Goes by what it keeps: the adjoints of theta and of the slot are one tensor."""

    slots = ("way",)

    def rule(self, theta, slots, g, t, lr):
        return theta + slots["way"], {"way": slots["way"] - lr * g}


@pytest.mark.parametrize("piece", [3, 1 << 18], ids=["pieces", "whole"])
def test_adjoints_that_are_one_tensor_come_apart_where_they_are_overwritten(piece, monkeypatch):
    optimizer = Follows(lr=0.1)
    monkeypatch.setattr(optimizer_module, "_PIECE", piece)
    optimizer_module._pieces.cache_clear()
    layout = Layout.of(Parameters())
    theta, g, way, a, a_way = gradients(11, 5, 0, torch.float64)
    given = (layout, theta, {"way": way}, g, 3, [0.1], a.clone()[None], {"way": a_way.clone()[None]})
    c, back, slots = optimizer.pullback(*given, overwrite=True)
    optimizer_module._pieces.cache_clear()
    assert_same((c[0], back[0], {"way": slots["way"][0]}), (-0.1 * a_way, a, {"way": a + a_way}), 1e-15)
    back += 1
    torch.testing.assert_close(slots["way"][0], a + a_way)
