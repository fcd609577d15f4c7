"""A taped run: its scores are the derivative of the user's own loop, its replay the loop itself."""

import random
from functools import cache

import numpy as np
import pytest
import torch
from helpers_tape import (
    LOOPS,
    Loop,
    N,
    alone,
    each_loop,
    held_out,
    losses_at,
    network,
    order,
    per_example,
    sample,
    sgd,
    taped,
    untraced,
)
from torch import nn
from torch.utils.data import TensorDataset

from influencekit import SGD, InputError, Tape, Window, Workload, estimate, make, record

REMOVALS = ("global", "window", "occurrence")


def derivative(f, h):
    """f'(0) by central differences, twice extrapolated: what is left is of order h^6."""
    rows = [(f(s) - f(-s)) / (2 * s) for s in (h, h / 2, h / 4)]
    once = [b + (b - a) / 3 for a, b in zip(rows, rows[1:], strict=False)]
    return once[1] + (once[1] - once[0]) / 15


def effect(states, window):
    """The query's part of an effect in a window: the mean test loss, from the states of a run."""
    start, stop, removal = window.start, window.stop, window.removal
    if removal == "global":
        return (losses_at(states[stop]) - losses_at(states[start])).mean().item()
    return losses_at(states[stop if removal == "window" else -1]).mean().item()


def absent(window, step):
    """Whether an example is absent in a step."""
    return window.removal == "global" or window.start <= step < window.stop


@cache
def opened(loop, recorder="full"):
    return taped(loop, recorder=recorder).open()


def scores(run, name, windows=None):
    """Effects [window, train] on the mean test loss; tracing would take longer than the tiny runs."""
    with untraced():
        return estimate(run, "test-loss", name, windows).influence.values[0]


def asked(run):
    """The whole run, and an inner window under each removal."""
    return [Window(0, run.steps), *(Window(1, run.steps - 1, removal) for removal in REMOVALS)]


@each_loop
def test_scores_are_central_differences_of_the_users_loop(loop):
    """Along a random direction of weights, relative error at most 1e-6; the differences by PyTorch alone."""
    run = opened(loop)
    d = torch.randn(N, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    for window, found in zip(asked(run), scores(run, "dit", asked(run)), strict=True):

        def f(h, window=window):
            return effect(alone(loop, lambda t: 1 + h * d * absent(window, t)), window)

        assert found @ d.numpy() == pytest.approx(-derivative(f, loop.h), rel=1e-6)


@each_loop
def test_replay_is_bitwise_in_float32(loop):
    """Every state, also between the kept ones, and the optimizer's memory at the end."""
    done = taped(loop, dtype=torch.float32, recorder="every-k:k=3")
    run = done.open()
    assert run.attrs["replay"] == f"{run.steps} steps replayed, equal bit for bit"
    assert len(run.stored_states) < len(done.states) == run.steps + 1
    for t, theta in enumerate(done.states):
        assert torch.equal(run.state(t).theta, theta)
    state = run.step.advance(run.state(run.steps - 1))[0]
    for name, values in state.slots.items():
        parts = run.workload.layout.split(values).values()
        for p, part in zip(done.model.parameters(), parts, strict=True):
            memory = done.optimizer.state.get(p, {})
            assert torch.equal(part, memory.get(name, torch.zeros_like(p)))


@each_loop
def test_the_tape_changes_nothing(loop):
    """Weights, random numbers, gradients, modes: bitwise those of the loop without it; hooks are gone."""

    def generators():
        return torch.get_rng_state(), np.random.get_state()[1], np.array(random.getstate()[1])

    def draw(*_):  # as a logger might
        torch.rand(1), np.random.rand(), random.random()

    with_it = taped(loop, before_step=draw)
    after = generators()
    without = taped(loop, tape=False, before_step=draw)
    assert all(np.array_equal(a, b) for a, b in zip(after, generators(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(with_it.states, without.states, strict=True))
    for a, b in zip(with_it.model.parameters(), without.model.parameters(), strict=True):
        assert a.requires_grad == b.requires_grad and (a.grad is None) == (b.grad is None)
    assert with_it.model.training and str(with_it.optimizer.state_dict()) == str(
        without.optimizer.state_dict()
    )
    for thing in (with_it.model, with_it.optimizer):
        assert not any(value for name, value in vars(thing).items() if "hooks" in name)


@each_loop
def test_leaving_out_is_the_users_loop_without_the_example(loop):
    """All removals, retrained one by one and all at once: PyTorch alone, weight 0."""
    run, full = opened(loop, "every-k:k=4"), alone(loop)
    found = [scores(run, f"loo:strategy={strategy}", asked(run)) for strategy in ("batch", "loop")]
    for j in (0, 7):
        for k, window in enumerate(asked(run)):

            def weights(step, j=j, window=window):
                return 1.0 - (torch.arange(N) == j).double() * absent(window, step)

            expected = effect(alone(loop, weights), window) - effect(full, window)
            for each in found:
                assert each[k, j] == pytest.approx(expected, rel=1e-6, abs=1e-10)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6, atol=1e-10)


@each_loop
def test_scores_between_far_apart_states_are_the_same_bits(loop):
    full, far = opened(loop), opened(loop, "every-k:k=4")
    assert scores(full, "dit").tobytes() == scores(far, "dit").tobytes()
    assert len(full.stored_states) == full.steps + 1 > len(far.stored_states) == 2 + (full.steps - 1) // 4


SOME = [LOOPS[name] for name in ("two groups", "random augmentation, dropout, accumulation over 3")]


@pytest.mark.parametrize("removal", ["global", "occurrence"])
@pytest.mark.parametrize("loop", SOME)
def test_windows_add_up(loop, removal):
    run = opened(loop)
    t = run.steps
    parts = scores(run, "dit", [Window(*ends, removal) for ends in ((0, 1), (1, t - 1), (t - 1, t), (0, t))])
    np.testing.assert_allclose(parts[:3].sum(0), parts[3], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("loop", SOME)
def test_pushing_a_removal_forward_gives_the_same_score(loop):
    """The forward reading of the step against the backward one."""
    run, j = opened(loop), 3
    tangent = run.state(0)
    zeros = {k: torch.zeros_like(v) for k, v in tangent.slots.items()}
    tangent = tangent._replace(theta=torch.zeros_like(tangent.theta), slots=zeros)
    for t in range(run.steps):
        gone = -((run.step.rows(t) == j) & (run.plan.indices[t] >= 0)).double()
        tangent = run.step.push(run.state(t), tangent, gone)
    gradient = make("query", "test-loss").gradient(run.workload, run.final.theta)[0]
    assert scores(run, "dit")[0, j] == pytest.approx((gradient @ tangent.theta).item(), rel=1e-9)


def test_scores_are_autodiff_through_the_unrolled_loop():
    """All examples at once, for SGD with momentum and weight decay written out here."""
    model = network()
    w = torch.ones(N, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in model.named_parameters()]
    values = [p.detach().requires_grad_() for p in model.parameters()]
    memory = [torch.zeros_like(p) for p in values]
    x, y = sample()
    for rows in (rows for epoch in order() for rows in epoch):
        outputs = torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x[rows],))
        mean = (w[rows] * per_example(outputs, y[rows])).sum() / len(rows)
        grads = torch.autograd.grad(mean, values, create_graph=True)
        memory = [0.9 * m + g + 0.01 * p for m, g, p in zip(memory, grads, values, strict=True)]
        values = [p - 0.3 * m for p, m in zip(values, memory, strict=True)]
    tx, ty = held_out()
    final = torch.func.functional_call(model, dict(zip(names, values, strict=True)), (tx,))
    expected = -torch.autograd.grad(per_example(final, ty).mean(), w)[0]
    run = opened(Loop(sgd))
    for name in ("dit", "sgd-influence"):
        np.testing.assert_allclose(scores(run, name)[0], expected, rtol=1e-10, atol=1e-14)


@cache
def recorded_workload():
    """The loop `plain SGD` as a workload, recorded by `record`, whose step is another piece of code."""
    batches = [rows for epoch in order() for rows in epoch]
    workload = Workload(
        model=network(), loss=per_example, train=sample(), test=held_out(), optimizer=SGD(lr=0.5),
        order=torch.tensor(batches),
    )  # fmt: skip
    with untraced():
        return record(workload)


CURVATURES = ("dit", "dit:curvature=gauss-newton", "dit:curvature=fisher")


@pytest.mark.parametrize("name", [*CURVATURES, "sgd-influence", "if", "loo"])
def test_a_taped_run_scores_like_the_same_run_as_a_workload(name):
    expected = scores(recorded_workload(), name)
    np.testing.assert_allclose(scores(opened(LOOPS["plain SGD"]), name), expected, rtol=1e-9, atol=1e-13)


def test_sgd_influence_is_refused_after_adam():
    with pytest.raises(InputError, match="sgd-influence is defined for SGD, and this run used Adam"):
        estimate(opened(LOOPS["Adam"]), "test-loss", "sgd-influence")


def test_a_mean_that_divides_last_is_replayed_to_rounding():
    """binary_cross_entropy_with_logits divides by 12 after multiplying, its per-example form before."""
    x, y = sample(dtype=torch.float32)
    y = (y > 0).float()
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = list(range(N))
    with Tape(
        None, model, optimizer, loss=nn.BCEWithLogitsLoss(reduction="none"), check=1.0,
        data=TensorDataset(x, y),
    ) as tape:  # fmt: skip
        for _ in range(5):
            for _, (a, b) in tape.batches([(rows, (x, y))]):
                nn.BCEWithLogitsLoss()(model(a), b).backward()
                optimizer.step()
                optimizer.zero_grad()
    said = str(tape.trajectory().attrs["replay"])
    assert said.startswith("5 steps replayed, equal to ") and float(said.split()[5]) < 1e-6
