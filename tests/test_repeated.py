"""An example that stands several times in a batch: every occurrence counts, against PyTorch alone."""

import numpy as np
import pytest
import torch
from helpers_tape import (
    LOOPS,
    Examples,
    Loop,
    N,
    alone,
    held_out,
    losses_at,
    network,
    per_example,
    taped,
    untraced,
)
from test_tape_laws import absent, asked, derivative, effect
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik
from influencekit import InputError, Window

ORDER = [[[3, 3, 0, 5], [1, 2, 1, 1], [7, 7, 7, 7]], [[4, 0, 0, 4], [9, 10, 6, 3], [2, 8, 8, 2]]]
PLAIN = Loop(lambda m: torch.optim.SGD(m.parameters(), lr=0.3))
NAMES = ("SGD, momentum, weight decay, schedule", "AdamW, clipped")
SOME = {name: LOOPS[name] for name in NAMES} | {
    "noise, dropout, accumulation over 3": LOOPS["random augmentation, dropout, accumulation over 3"]
}
each_loop = pytest.mark.parametrize("loop", SOME.values(), ids=SOME)


@pytest.fixture(autouse=True)
def repeated(monkeypatch):
    monkeypatch.setattr("helpers_tape.order", lambda: ORDER)


def scores(run, estimator, windows=None):
    with untraced():
        return ik.estimate(run, "test-loss", estimator, windows).influence.values[0]


@each_loop
def test_scores_are_derivatives_and_removals_of_the_users_loop(loop):
    done = taped(loop, recorder="every-k:k=2")
    run = done.open()
    assert run.attrs["replay"].endswith("bit for bit") and torch.equal(run.final.theta, done.states[-1])
    d = torch.randn(N, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    windows = [Window(0, run.steps)] if run.steps < 3 else asked(run)
    first_order, left_out = scores(run, "dit", windows), scores(run, "loo", windows)
    full = alone(loop)
    for window, found, exact in zip(windows, first_order, left_out, strict=True):

        def f(h, window=window):
            return effect(alone(loop, lambda t: 1 + h * d * absent(window, t)), window)

        assert found @ d.numpy() == pytest.approx(-derivative(f, loop.h), rel=1e-5)
        for j in (0, 3, 7, 8):

            def weights(step, j=j, window=window):
                return 1.0 - (torch.arange(N) == j).double() * absent(window, step)

            expected = effect(alone(loop, weights), window) - effect(full, window)
            assert exact[j] == pytest.approx(expected, rel=1e-9, abs=1e-13)


def test_contributions_are_one_an_occurrence_and_add_up():
    """SGD-influence is the same recursion; the occurrences of one batch have equal parts."""
    run = taped(PLAIN).open()
    with untraced():
        found = ik.contributions(run, "test-loss", at=[run.steps])
    parts, batch = found.contribution.values[0, 0], found.batch.values
    assert batch.tolist() == [rows for epoch in ORDER for rows in epoch]
    assert parts[0, 0] == pytest.approx(parts[0, 1], rel=1e-12) and parts[0, 0] != 0
    summed = np.bincount(batch.ravel(), parts.ravel(), minlength=N)
    for name in ("dit", "sgd-influence"):
        np.testing.assert_allclose(scores(run, name)[0], summed, rtol=1e-10, atol=1e-15)
    windows = [Window(a, b, r) for r in ("global", "window", "occurrence") for a, b in ((0, 2), (1, 5))]
    with untraced():
        every = ik.contributions(run, "test-loss", at=range(1, run.steps + 1))
    expected = ik.sum_over_windows(every, windows).influence.values[0]
    np.testing.assert_allclose(scores(run, "dit", windows), expected, rtol=1e-9, atol=1e-14)


def test_influence_functions_ask_every_example_once():
    """They know the training set and not the batches: as for any other run that ends in this state."""
    run = taped(PLAIN).open()
    theta = run.final.theta
    model = network()
    nn.utils.vector_to_parameters(theta, model.parameters())
    data = Examples()

    def loss(rows, theta):
        parts = {n: p for (n, _), p in zip(model.named_parameters(), _split(model, theta), strict=True)}
        return per_example(torch.func.functional_call(model, parts, (data.x[rows],)), data.y[rows])

    rows = torch.arange(N)
    hessian = torch.autograd.functional.hessian(lambda t: loss(rows, t).mean(), theta)
    g = torch.autograd.functional.jacobian(lambda t: loss(rows, t), theta)
    query = torch.func.grad(lambda t: _test_loss(model, t))(theta)
    expected = g @ torch.linalg.solve(hessian + 0.5 * torch.eye(len(theta)).double(), query) / N
    found = scores(run, "if:damping=0.5:curvature=hessian")[0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6, atol=1e-12)


def _split(model, theta):
    parts = theta.split([p.numel() for p in model.parameters()])
    return [part.view(p.shape) for part, p in zip(parts, model.parameters(), strict=True)]


def _test_loss(model, theta):
    x, y = held_out()
    parts = {n: p for (n, _), p in zip(model.named_parameters(), _split(model, theta), strict=True)}
    return per_example(torch.func.functional_call(model, parts, (x,)), y).mean()


def test_methods_of_plugins_count_every_occurrence():
    """TracIn by its formula, TSLOO by plain loops, DVEmb of one layer as DIT with outer products."""
    baselines = pytest.importorskip("influencekit_baselines")
    dvemb = pytest.importorskip("influencekit_dvemb")
    run, rows = taped(PLAIN).open(), [rows for epoch in ORDER for rows in epoch]
    tracin = baselines.TracIn(checkpoints="step").scores(run, ik.make("query", "test-loss"), [Window(0, 6)])
    dropped = dvemb.TSLOO().scores(run, ik.make("query", "test-loss"), [Window(0, 6)])
    model, data, full = network(), Examples(), alone(PLAIN)
    expected, alone_at = np.zeros(N), np.zeros(N)
    for t, theta in enumerate(full[:-1]):
        query = torch.func.grad(lambda v: _test_loss(model, v))(theta)
        nn.utils.vector_to_parameters(theta, model.parameters())
        for j in rows[t]:
            loss = per_example(model(data.x[[j]]), data.y[[j]]).sum()
            g = nn.utils.parameters_to_vector(torch.autograd.grad(loss, model.parameters()))
            expected[j] += 0.3 / 4 * float(query @ g)
        for j in set(rows[t]):
            there = alone(PLAIN, lambda s, j=j, t=t: 1.0 - (torch.arange(N) == j).double() * (s == t))
            alone_at[j] += float(losses_at(there[-1]).mean() - losses_at(full[-1]).mean())
    np.testing.assert_allclose(tracin[0, 0].numpy(), expected, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(dropped[0, 0].numpy(), alone_at, rtol=1e-8, atol=1e-13)
    run = _recorded(nn.Linear(4, 3).double(), [rows for epoch in ORDER for rows in epoch])
    found = dvemb.DVEmb(dim=None).scores(run, ik.make("query", "test-loss"), [Window(0, run.steps)])
    with untraced():
        fisher = ik.estimate(run, "test-loss", "dit:curvature=fisher").influence.values
    np.testing.assert_allclose(found.numpy(), fisher, rtol=1e-8, atol=1e-13)


def _recorded(model, order, loss=per_example, **options):
    """A run of plain SGD over these batches."""
    data, optimizer = Examples(), torch.optim.SGD(model.parameters(), lr=0.3)
    with ik.Tape(None, model, optimizer, loss=loss, data=data, check=1.0, **options) as tape:
        for _, (x, y) in tape.batches(DataLoader(data, batch_sampler=order)):
            optimizer.zero_grad()
            loss(model(x), y).mean().backward()
            optimizer.step()
    return tape.trajectory(test=Examples())


def test_a_batch_of_one_example_alone_hides_no_loss_between_examples():
    """Whether losses depend on their batch is asked where there are two different examples."""

    def contrastive(outputs, target):
        return per_example(outputs - outputs.mean(0), target)

    with pytest.raises(InputError, match="the loss of an example depends on the other examples"):
        _recorded(network(), [[3, 3], [5, 5], [1, 2], [4, 6]], contrastive)


def test_a_workload_whose_order_repeats_examples_is_the_taped_run():
    order = [rows for epoch in ORDER for rows in epoch]
    del order[2]  # one example alone, which `record` refuses
    taped_run, data = _recorded(network(), order), Examples()
    work = ik.Workload(
        model=network(), loss=per_example, train=(data.x, data.y), test=(data.x, data.y),
        optimizer=ik.SGD(lr=0.3), order=torch.tensor(order),
    )  # fmt: skip
    with untraced():
        run = ik.record(work)
        for name in ("dit", "loo", "if"):
            a, b = (ik.estimate(r, "test-loss", name).influence.values for r in (run, taped_run))
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-13)
