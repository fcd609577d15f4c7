"""The smoothed sweep: against a slow loop forwards, and what is left of it without corners or noise."""

import math
from dataclasses import replace

import pytest
import torch
from influencekit_smooth import Smooth
from torch import nn
from torch.func import grad, jacrev

import influencekit as ik
from influencekit.extend import weighted_runs
from influencekit.registry import describe, make, spec
from influencekit.testing import parametrize_with_checks, recorded, tiny_workload

N, WIDE = 10, (4, 3)
X = torch.randn(N + 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = (X[:, 0] + X[:, 1].abs() > 0.7).double()
OPTIMIZERS = {
    "momentum": ik.SGD(lr=0.8, momentum=0.8, dampening=0.2, weight_decay=0.05),
    "nesterov": ik.SGD(lr=0.4, momentum=0.7, nesterov=True),
}


class Net(nn.Module):
    """ReLU, then leaky ReLU and abs: three corners."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, WIDE[0]), nn.Linear(WIDE[0], WIDE[1])
        self.last = nn.Linear(WIDE[1], 1)

    def forward(self, x):
        x = self.second(self.corner(self.first(x)))
        return self.last(nn.functional.leaky_relu(x, 0.2) + 0.3 * x.abs()).squeeze(-1)

    def corner(self, x):
        return torch.relu(x)


class Turned(Net):
    """The same, with a corner whose first dimension counts no examples: nothing is traced."""

    def corner(self, x):
        return torch.relu(x.T).T


def workload(name="momentum", model=None, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = (model or Net)().double()
    return ik.Workload(
        model=model, loss=nn.BCEWithLogitsLoss(reduction="none"), train=(X[:N], Y[:N]), test=(X[N:], Y[N:]),
        **{"optimizer": OPTIMIZERS[name], "batch_size": 4, "epochs": 2, "l2": 0.02, "seed": 5, **options},
    )  # fmt: skip


# the slow loop ----------------------------------------------------------------------------------------------


def rounded(a, h):
    """relu(a) with the derivatives of S(a) = E relu(a + h normal)."""
    if h is None:
        return a.clamp(min=0)
    z = a / h
    s = a * torch.distributions.Normal(0, 1).cdf(z) + h * (-(z**2) / 2).exp() / (2 * math.pi) ** 0.5
    return a.clamp(min=0).detach() + s - s.detach()


def losses(theta, x, y, work, widths=(None, None, None), inputs=None):
    """Per-example losses with the penalty; the corners' inputs go into `inputs`."""
    p = work.layout.split(theta)
    a = x @ p["first.weight"].T + p["first.bias"]
    b = rounded(a, widths[0]) @ p["second.weight"].T + p["second.bias"]
    leaky = 0.2 * b + 0.8 * rounded(b, widths[1])
    absolute = 2 * rounded(b, widths[2]) - b
    z = ((leaky + 0.3 * absolute) @ p["last.weight"].T + p["last.bias"]).squeeze(-1)
    if inputs is not None:
        inputs.extend([a, b, b])
    each = torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none")
    return each + 0.5 * work.l2 * theta @ theta


def trained(work, w):
    """States of torch.optim.SGD with weights w [train] on the losses."""
    theta, o = work.theta0.clone().requires_grad_(), work.optimizer
    options = {k: getattr(o, k) for k in ("lr", "momentum", "dampening", "nesterov", "weight_decay")}
    optimizer, states = torch.optim.SGD([theta], **options), [theta.detach().clone()]
    for t in range(work.plan.steps):
        rows = work.plan.batch(t)
        optimizer.zero_grad()
        (w[rows] @ losses(theta, X[rows], Y[rows], work) / len(rows)).backward()
        optimizer.step()
        states.append(theta.detach().clone())
    return states


def forwards(work, W, floor, present=None):
    """Scores [test, train] by what a weight of each example does to theta, step after step: the recursion
    of the optimizer with the mean of the runs' Jacobians. `present`: the steps that removal acts in."""
    runs, o, n = [trained(work, w) for w in W], work.optimizer, len(W[0])
    distance = (W - 1).square().mean().sqrt() * n**0.5
    D = torch.zeros(n, work.n_params, dtype=torch.float64)  # d theta / d w_j
    V = torch.zeros_like(D)
    for t in range(work.plan.steps):
        rows = work.plan.batch(t)
        x, y, b = X[rows], Y[rows], len(rows)
        every = []
        for states in runs:
            losses(states[t], x, y, work, inputs=(found := []))
            every.append(found)
        widths = [
            (2 * torch.stack(a).std(0, correction=0) / distance).clamp(min=floor)
            for a in zip(*every, strict=True)
        ]
        H, g = torch.zeros(work.n_params, work.n_params), torch.zeros(b, work.n_params)
        for states, w in zip(runs, W, strict=True):

            def mean(theta, w=w, x=x, y=y, rows=rows, widths=widths):
                return w[rows] @ losses(theta, x, y, work, widths) / len(rows)

            H = H + jacrev(grad(mean))(states[t]) / len(W)
            g = g + jacrev(lambda theta, x=x, y=y, h=widths: losses(theta, x, y, work, h))(states[t]) / len(W)
        dg = D @ H.T + o.weight_decay * D
        if present is None or t in present:
            dg[rows] += g / b
        V = dg if t == 0 else o.momentum * V + (1 - o.dampening) * dg
        D = D - o.lr * (dg + o.momentum * V if o.nesterov else V)
    of_test = [jacrev(lambda theta: losses(theta, X[N:], Y[N:], work) - 0.5 * work.l2 * theta @ theta)(s[-1])
               for s in runs]  # fmt: skip
    return -torch.stack(of_test).mean(0) @ D.T  # without the example


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_the_forward_recursion_with_the_mean_of_the_runs_jacobians(name):
    work = workload(name, Turned if name == "momentum" else Net)
    run, smooth = ik.record(work), Smooth(runs=4, noise=0.8, floor=1e-3, seed=3)
    windows, present = (None, None) if name == "momentum" else ([ik.Window(2, 5, "occurrence")], range(2, 5))
    found = torch.from_numpy(ik.estimate(run, "test-losses", smooth, windows).influence.values[:, 0])
    W = smooth.weights(run)
    wanted, wide = (forwards(work, W, floor, present) for floor in (1e-3, 1.0))
    scale = wanted.abs().max().item()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10 * scale)
    assert (wide - wanted).abs().max() > 1e-3 * scale  # the width matters, and it is not the floor


# what is left of it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd", "sgd with Nesterov momentum"])
def test_without_corners_and_noise_it_is_dit(name):
    run, smooth = recorded(name), Smooth(runs=2, noise=0)
    windows = [ik.Window(0, run.steps), ik.Window(2, 5, "window"), ik.Window(3, 4, "occurrence")]
    for query in ("test-losses", "alignment"):  # the recorded run defines the second
        found, dit = (ik.estimate(run, query, e, windows).influence for e in (smooth, "dit"))
        assert (found == dit).all()
    found, dit = (ik.contributions(run, "test-loss", e, [3, run.steps]) for e in (smooth, "dit"))
    assert (found.contribution == dit.contribution).all()


class Normalised(nn.Sequential):
    """A smooth model whose losses depend on the whole batch, and whose buffers training changes."""

    def __init__(self):
        super().__init__(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0))


def test_without_noise_it_is_dit_through_buffers_and_for_an_average():
    run = ik.record(workload(model=Normalised, drop_last=True))
    for average in (None, {2: 0.5, run.steps: 0.5}):
        found, dit = (
            ik.estimate(run, "test-loss", e, average=average) for e in (Smooth(runs=2, noise=0), "dit")
        )
        torch.testing.assert_close(
            torch.from_numpy(found.influence.values),
            torch.from_numpy(dit.influence.values),
            rtol=1e-12,
            atol=0,
        )


def test_a_smooth_model_approaches_dit_as_the_noise_falls():
    """Antithetic pairs leave no error of first order: a tenth of the noise is a hundredth of the error."""
    run = recorded("sgd")
    dit = ik.estimate(run, "test-losses", "dit").influence.values
    off = [
        abs(ik.estimate(run, "test-losses", Smooth(noise=x)).influence.values - dit).max()
        for x in (0.1, 0.01)
    ]
    assert 80 < off[0] / off[1] < 120


# weights ----------------------------------------------------------------------------------------------------


def test_weights_are_antithetic_pairs_of_the_size_that_was_asked():
    run = recorded("sgd")
    W = Smooth(runs=400, noise=0.5).weights(run)
    torch.testing.assert_close(W[:200] + W[200:], torch.full_like(W[:200], 2.0))
    assert ((W - 1).std().item() * 8**0.5) == pytest.approx(0.5, rel=0.05)
    assert not torch.equal(W, Smooth(runs=400, noise=0.5, seed=1).weights(run))


def test_an_example_takes_its_noise_along_wherever_it_stands():
    work, smooth = tiny_workload(), Smooth()
    backwards = replace(work, train=tuple(x.flip(0) for x in work.train), train_ids=[*work.train_ids][::-1])
    before, after = (smooth.weights(ik.record(replace(w, order=[[0, 1]]))) for w in (work, backwards))
    assert torch.equal(before, after.flip(1))


# what is said -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [ik.Adam(lr=0.01), ik.AdamW(lr=0.01), ik.RMSprop(lr=0.01)],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_other_optimizers_are_refused_by_name_with_the_figures(optimizer):
    run = ik.record(tiny_workload(optimizer))
    name = type(optimizer).__name__
    with pytest.raises(
        ik.InputError, match=rf"for SGD, and this run used {name}; .* \.430 became \.239; use dit"
    ):
        ik.estimate(run, "test-loss", "smooth")


def test_clipped_gradients_are_refused():
    with pytest.raises(ik.InputError, match="without clipping.*; use dit"):
        ik.estimate(recorded("sgd with momentum"), "test-loss", "smooth")


@pytest.mark.parametrize(
    "option", ["runs=7", "runs=0", "noise=-1", "noise=inf", "noise=nan", "floor=0", "floor=nan", "seed=-1"]
)
def test_impossible_options_are_refused(option):
    with pytest.raises(ik.InputError, match=option.partition("=")[0]):
        make("estimator", f"smooth:{option}")


def test_results_say_how_many_corners_there_were_and_warn_where_none_is():
    found = ik.estimate(recorded("sgd"), "test-loss", Smooth(runs=2))
    assert found.attrs["note_corners"] == 0
    assert "calls no relu, leaky_relu, abs or clamp" in found.attrs["caution"]
    run = ik.record(workload(epochs=1, order=[[0, 1]]))
    assert Smooth().notes(run)["corners"] == 3 and not Smooth().caution(run)


def test_the_caution_names_corners_that_are_left_as_they_are():
    def both():
        pooled = nn.Unflatten(1, (1, 4)), nn.MaxPool1d(2), nn.Flatten(1)
        return nn.Sequential(
            nn.Linear(3, 4), nn.ReLU6(), *pooled, nn.Hardswish(), nn.Linear(2, 1), nn.Flatten(0)
        )

    run = ik.record(workload("momentum", both, epochs=1, order=[[0, 1]]))
    assert Smooth().notes(run)["corners"] == 2
    assert Smooth().caution(run) == "smooth leaves the corners of hardswish, max_pool1d as they are"
    hard = lambda: nn.Sequential(nn.Linear(3, 1), nn.Hardswish(), nn.Flatten(0))  # noqa: E731
    said = Smooth().caution(ik.record(workload("momentum", hard, epochs=1, order=[[0, 1]])))
    assert "calls no relu, leaky_relu, abs or clamp, and smooth leaves the corners of hardswish" in said


class Undecided(nn.Module):
    """How many corners it has depends on its weights."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 1)

    def forward(self, x):
        z = self.first(x).squeeze(-1)
        return z.relu() if self.first.bias.item() > BIAS else z


def test_corners_that_differ_from_run_to_run_are_refused():
    global BIAS
    BIAS = -torch.inf
    run = ik.record(workload(model=Undecided, optimizer=ik.SGD(lr=0.5)))
    smooth = Smooth(runs=2, noise=2)
    one, other = (r.state(2).theta[-1].item() for r in weighted_runs(run, smooth.weights(run)))
    assert one != other
    BIAS = (one + other) / 2  # between the two
    with pytest.raises(ik.InputError, match="other corners in one run than in another"):
        ik.estimate(run, "test-loss", smooth)


def test_it_is_found_by_its_entry_point():
    assert make("estimator", "smooth:runs=4") == Smooth(runs=4)
    assert spec(Smooth(runs=4)) == "smooth:runs=4"
    row = {row.name: row for row in describe("estimator")}["smooth"]
    assert row.status == "ok" and row.options == ("runs=8", "noise=1", "floor=0.0001", "seed=0")


@parametrize_with_checks([Smooth(runs=2, noise=0.5)])
def test_conformance(subject, check):
    check(subject)
