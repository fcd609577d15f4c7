"""Loops with every optimizer: replay in the loop's bits, dit against differences, loo against a hand loop."""

from dataclasses import dataclass

import pytest
import torch
from helpers_tape import Examples, Loop, N, alone, losses_at, network, taped, untraced, vector

import influencekit as ik
from influencekit._training.optimizers import matrices


def over(kind, **options):
    """A loop with this optimizer of all parameters."""
    return Loop(lambda m: kind(m.parameters(), **options), h=1e-5)


def matrices_only(model):
    for name, p in model.named_parameters():
        p.requires_grad_(not name.endswith("bias"))
    return torch.optim.Muon([p for p in model.parameters() if p.requires_grad], lr=0.05)


class Renamed(torch.optim.AdamW):
    """A subclass that changes nothing of the step."""


class OneCycle(Loop):
    """With the default of OneCycleLR, which moves momentum or betas, too."""

    def scheduler(self, optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=12)


class Decay(Loop):
    """With a schedule of one's own for weight decay and eps, which changes in some steps."""

    def scheduler(self, optimizer):
        return Schedule(optimizer)


class Schedule:
    def __init__(self, optimizer):
        self.optimizer, self.done = optimizer, 0

    def step(self):
        self.done += 1
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.05 * (self.done // 2)
            group["eps"] = 1e-2 / (1 + self.done // 4)

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.done = state["done"]


class Lion(torch.optim.Optimizer):
    """Signs of an average of gradients: an optimizer that torch does not have."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(torch.sign(beta1 * m + (1 - beta1) * p.grad), alpha=-group["lr"])
                m.mul_(beta2).add_(p.grad, alpha=1 - beta2)


@dataclass(frozen=True, kw_only=True)
class LionRule(ik.Optimizer):
    """Its rule, for the tape."""

    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0

    slots = ("exp_avg",)
    stands_for = Lion

    def rule(self, theta, slots, g, t, lr):
        beta1, beta2 = self.betas
        m = slots["exp_avg"]
        theta = theta.mul(1 - lr * self.weight_decay)
        theta = theta.add(torch.sign(beta1 * m + (1 - beta1) * g), alpha=-lr)
        return theta, {"exp_avg": m.mul(beta2).add(g, alpha=1 - beta2)}


eps = {"lr": 0.02, "eps": 1e-2}
LOOPS = {
    "adam, amsgrad, maximize": over(torch.optim.Adam, amsgrad=True, maximize=True, **eps),
    "sgd, maximize": over(torch.optim.SGD, lr=0.1, momentum=0.9, maximize=True, weight_decay=0.1),
    "rmsprop": over(torch.optim.RMSprop, momentum=0.5, weight_decay=0.1, **eps),
    "rmsprop, centered in one group": Loop(
        lambda m: torch.optim.RMSprop(
            [{"params": m[0].parameters(), "centered": True}, {"params": m[3].parameters(), "momentum": 0.5}],
            **eps,
        ),
        h=1e-5,
    ),
    "adagrad": over(torch.optim.Adagrad, lr=0.1, eps=1e-2, lr_decay=0.1, initial_accumulator_value=0.01),
    "adadelta": over(torch.optim.Adadelta, lr=1.0, eps=1e-2),
    "nadam": over(torch.optim.NAdam, weight_decay=0.1, **eps),
    "nadam, decoupled": over(torch.optim.NAdam, weight_decay=0.1, decoupled_weight_decay=True, **eps),
    "radam": over(torch.optim.RAdam, betas=(0.8, 0.9), weight_decay=0.1, **eps),
    "radam, decoupled": over(torch.optim.RAdam, betas=(0.8, 0.9), decoupled_weight_decay=True, **eps),
    "adamax": over(torch.optim.Adamax, weight_decay=0.1, **eps),
    "adafactor": over(torch.optim.Adafactor, lr=0.05, weight_decay=0.1),
    "muon": Loop(matrices_only, h=1e-5),
    "a subclass": over(Renamed, **eps),
    "scheduled weight decay and eps": Decay(lambda m: torch.optim.AdamW(m.parameters(), **eps), h=1e-5),
    "lion, by a rule of one's own": over(Lion, lr=0.02, weight_decay=0.1),
    "one cycle, sgd": OneCycle(lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9), h=1e-5),
    "one cycle, nadam": OneCycle(lambda m: torch.optim.NAdam(m.parameters(), **eps), h=1e-5),
}
each_loop = pytest.mark.parametrize("name", LOOPS)


@each_loop
def test_a_replay_has_the_loops_bits_and_a_resumed_run_too(name, tmp_path):
    loop = LOOPS[name]
    done = taped(loop, recorder="every-k:k=4")
    run = done.open()
    assert run.attrs["replay"].endswith("bit for bit")
    for t, theta in enumerate(done.states):
        assert torch.equal(run.state(t).theta, theta), t

    def stop(step, *rest):
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        taped(loop, tmp_path / "run", recorder="every-k:k=4", before_step=stop)
    again = taped(loop, tmp_path / "run", recorder="every-k:k=4", resume=True)
    assert torch.equal(again.states[-1], done.states[-1])
    resumed = again.open()
    assert all(torch.equal(resumed.state(t).theta, x) for t, x in enumerate(done.states))


@each_loop
def test_dit_equals_central_differences_of_the_loop(name, monkeypatch):
    monkeypatch.setattr(matrices, "_ROUNDED", torch.float64)
    if name == "muon":  # torch's own rounds to bfloat16, which has no derivative: without
        monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x.clone())
    loop = LOOPS[name]
    with untraced():
        found = ik.estimate(taped(loop).open(), "test-loss", "dit").influence.values[0, 0]

    def value(j, h):
        weights = torch.ones(N, dtype=torch.float64)
        weights[j] -= h
        return float(losses_at(full(alone(loop, lambda step, weights=weights: weights)[-1], loop)).mean())

    for j in (0, 5):
        pairs = [(value(j, h) - value(j, -h)) / (2 * h) for h in (loop.h, loop.h / 2)]
        assert found[j] == pytest.approx((4 * pairs[1] - pairs[0]) / 3, rel=1e-5, abs=1e-9)


@each_loop
def test_loo_equals_the_loop_without_the_example(name):
    loop = LOOPS[name]
    with untraced():
        run = taped(loop).open()
        found = ik.estimate(run, "test-loss", "loo").influence.values[0, 0]
    base = float(losses_at(full(run.final.theta, loop)).mean())
    for j in (0, 5):
        weights = torch.ones(N, dtype=torch.float64)
        weights[j] = 0
        expected = (
            float(losses_at(full(alone(loop, lambda step, weights=weights: weights)[-1], loop)).mean()) - base
        )
        assert found[j] == pytest.approx(expected, rel=1e-9, abs=1e-11)


def full(theta, loop):
    """theta with the parameters that were not trained."""
    model = network()
    loop.optimizer(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    torch.nn.utils.vector_to_parameters(theta, trained)
    for p in model.parameters():
        p.requires_grad_()
    return vector(model)


class Own(torch.optim.Adam):
    def step(self, closure=None):
        super().step()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: Own(p), "does not know how Own steps; write its rule as an ik.Optimizer with stands_for"),
        (lambda p: torch.optim.LBFGS(p), "LBFGS evaluates the loss several times in a step"),
        (
            lambda p: torch.optim.AdamW(
                [{"params": list(p)[:1], "decoupled_weight_decay": False}, {"params": list(p)}]
            ),
            "decoupled_weight_decay is True in some",
        ),
    ],
)
def test_what_has_no_rule_is_refused_with_what_to_do(make, words):
    model = network()
    with pytest.raises(ik.InputError, match=words):
        ik.Tape(None, model, make(model.parameters()), loss=losses_at, data=Examples())


@pytest.mark.parametrize(
    ("setting", "values", "words"),
    [
        ("nesterov", (False, True), "nesterov of parameter group 0 changed from False to True before step 3"),
        ("momentum", (0.0, 0.9), "momentum of parameter group 0 changed from 0.0 to 0.9 before step 3"),
    ],
)
def test_changes_that_make_another_rule_are_refused(setting, values, words):
    def change(step, model, optimizer):
        if step == 3:
            optimizer.param_groups[0][setting] = values[1]

    options = {"momentum": 0.9, setting: values[0]}
    with pytest.raises(ik.InputError, match=words):
        taped(over(torch.optim.SGD, lr=0.1, **options), before_step=change)


def test_the_store_knows_changed_settings_and_a_resumed_run_restores_them(tmp_path):
    done = taped(LOOPS["one cycle, sgd"], tmp_path / "run")
    run = done.open()
    momenta = [run.step.optimizer_at(t).momentum for t in range(run.steps)]
    assert momenta[0] == pytest.approx(0.95) and min(momenta) == pytest.approx(0.85, abs=0.02)
    assert len(set(momenta)) > 5
    assert "settings" not in taped(over(torch.optim.SGD, lr=0.1)).tape.trajectory().group
