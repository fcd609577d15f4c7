"""Scores for sets: the derivative along the run with weight A on all examples, and the intercept of sums."""

from functools import cache

import numpy as np
import pytest
import torch
from helpers_buffers import N, close, hand, one
from helpers_buffers import recorded as with_buffers
from helpers_cli import TINY, fails
from helpers_cli import run as run_cli
from helpers_evaluation import additive
from torch.func import jacrev

import influencekit as ik
from influencekit._effects import centred as module
from influencekit._training.spread import Spread
from influencekit.errors import InputError
from influencekit.evaluation import Brittleness, LeaveKOut
from influencekit.extend import select
from influencekit.testing import oracle
from influencekit.testing.estimators import recorded
from influencekit.testing.setting import windows_of
from influencekit.testing.taped import _recorded as of_tape
from influencekit.testing.taped import taped

QUERIES = ["test-losses", "alignment"]  # the recorded run defines the second
A = 0.4
CENTRED = ik.make("estimator", f"dit:centre={A}")
each_sgd = pytest.mark.parametrize("name", ["sgd", "sgd with momentum", "sgd with Nesterov momentum"])


@cache
def scored(name, query):
    run = recorded(name)
    windows = windows_of(CENTRED, run.steps)
    return windows, ik.estimate(run, query, CENTRED, windows)


def effects(run, query, window):
    """A window's effect [query] as a function of what is taken from the weights [train], by a plain loop."""
    work, query = run.workload, ik.make("query", query)
    base = oracle.weighted_run(work, torch.ones(run.steps, work.n_train, dtype=work.dtype))
    base = [theta.detach() for theta in base]
    return lambda taken: oracle.perturbed_effect(work, query, window, base, taken)


def sums(scores, taken):
    """What the scores say [query, window] of weights 1 - taken."""
    return scores.intercept.values + scores.influence.values @ taken.numpy()


@pytest.mark.parametrize("query", QUERIES)
@each_sgd
def test_it_is_the_derivative_by_autodiff_through_the_unrolled_run_at_weight_a(name, query):
    windows, scores = scored(name, query)
    run = recorded(name)
    there = torch.full((run.workload.n_train,), 1 - A, dtype=run.workload.dtype)
    for k, window in enumerate(windows):
        wanted = jacrev(effects(run, query, window))(there).numpy()
        found = scores.influence.values[:, k]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())


@pytest.mark.parametrize("query", QUERIES)
@each_sgd
def test_intercept_and_sum_are_the_effect_at_weight_a_and_second_order_around_it(name, query):
    windows, scores = scored(name, query)
    run, generator = recorded(name), torch.Generator().manual_seed(0)
    d = torch.randn(run.workload.n_train, generator=generator, dtype=run.workload.dtype)
    for k, window in enumerate(windows):
        effect, left = effects(run, query, window), []
        for h in (0.0, 1e-2, 1e-3, 1e-4):
            taken = 1 - A - h * d
            left.append(np.linalg.norm(effect(taken).numpy() - sums(scores, taken)[:, k]))
        assert left[0] < 1e-14  # rounding of losses of about 1
        slopes = np.log10(np.array(left[1:-1]) / np.array(left[2:]))
        assert (slopes > 1.9).all(), slopes


def adam_run(run, weights, spread=None):
    """States of Adam by a plain loop with weights [step, train] whose v has the spread of random sets in the
    steps that weigh less, or the one that is given [step, param]; and the spread."""
    work, plan = run.workload, run.plan
    theta, optimizer = work.theta0, work.optimizer
    slots, states, found = optimizer.start(theta), [theta], []
    for t in range(plan.steps):
        rows = plan.batch(t)
        batch, w, b = select(work.train, rows), weights[t, rows], len(rows)

        def losses(theta, batch=batch):
            return work.losses(theta, batch) + 0.5 * work.l2 * theta @ theta

        g = jacrev(lambda theta, w=w, b=b, losses=losses: (w * losses(theta)).sum() / b)(theta)
        if spread is None:
            each, a = jacrev(losses)(theta) / b, w[0]
            scale = min(1.0, optimizer.clip_norm / (g.norm().item() + 1e-6)) if optimizer.clip_norm else 1.0
            found.append(scale**2 * a * (1 - a) * each.square().sum(0))
        else:
            found.append(spread[t])
        m = slots["exp_avg_sq"] + (1 - optimizer.betas[1]) / optimizer.betas[1] * found[t]
        theta, slots = optimizer.step(work.layout, theta, {**slots, "exp_avg_sq": m}, g, t, plan.lrs(t))
        states.append(theta)
    return states, found


@pytest.mark.parametrize("name", ["adam", "adamw"])  # the second clips
def test_for_adam_it_is_the_derivative_of_the_run_whose_v_has_the_spread_of_random_sets(name):
    run, query = recorded(name), ik.make("query", "test-losses")
    windows = [ik.Window(0, 6), ik.Window(2, 5, "window"), ik.Window(3, 4, "occurrence")]
    scores, work = ik.estimate(run, query, CENTRED, windows), run.workload
    ones = torch.ones(run.steps, work.n_train, dtype=work.dtype)
    for k, window in enumerate(windows):
        weights = oracle.window_weights(work, window, (1 - A) * ones[0])
        spread = adam_run(run, weights)[1]

        def effect(taken, window=window, spread=spread):
            states = adam_run(run, oracle.window_weights(work, window, taken), spread)[0]
            return sum(
                sign * (query.evaluate(work, states[t]) - query.evaluate(work, run.state(t).theta))
                for t, sign in window.evaluations(run.steps).items()
            )

        there = (1 - A) * ones[0]
        wanted = jacrev(effect)(there).numpy()
        found = scores.influence.values[:, k]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())
        np.testing.assert_allclose(sums(scores, there)[:, k], effect(there), rtol=0, atol=1e-14)


def test_all_examples_at_once_are_foretold_where_a_is_small():
    run = recorded("sgd")
    scores = ik.estimate(run, "test-loss", "dit:centre=0.001")
    everyone = torch.ones(run.workload.n_train, dtype=run.workload.dtype)
    truth = effects(run, "test-loss", ik.Window(0, run.steps))(everyone).item()
    assert sums(scores, everyone).item() == pytest.approx(truth, rel=1e-4)
    plain = ik.estimate(run, "test-loss", "dit").influence.values.sum()
    assert abs(plain - truth) > 0.02 * abs(truth)


def test_where_effects_add_up_it_says_the_same_as_dit_without_an_intercept():
    run, query = additive()
    found, plain = (ik.estimate(run, query, name) for name in ("dit:centre=0.3", "dit"))
    np.testing.assert_allclose(found.influence, plain.influence, rtol=1e-12)
    np.testing.assert_allclose(found.intercept, 0, atol=1e-12 * np.abs(plain.influence).max())
    assert "intercept" not in plain


def test_centre_1_is_the_recorded_run():
    run = recorded("sgd with momentum")
    found, plain = (ik.estimate(run, "test-losses", name) for name in ("dit:centre=1", "dit"))
    np.testing.assert_allclose(found.influence, plain.influence, rtol=1e-12)
    assert not found.intercept.any()


def test_buffers_are_those_of_the_run_at_weight_a():
    run = with_buffers("mlp", "sgd")
    scores, half = ik.estimate(run, "test-loss", "dit:centre=0.5"), torch.full((N,), 0.5).double()
    (before,), (there,) = hand("mlp", "sgd", 0 * half), hand("mlp", "sgd", half)
    assert sums(scores, half).item() == pytest.approx(there - before, rel=1e-9)
    h = 1e-4
    slopes = [
        (hand("mlp", "sgd", half + one(j, h))[0] - hand("mlp", "sgd", half - one(j, h))[0]) / (2 * h)
        for j in range(4)
    ]
    close(scores.influence.values.ravel()[:4], slopes, 1e-5)


@pytest.mark.parametrize("form", ["dicts", "tuples"])  # SGD, and AdamW that clips
def test_a_taped_run_has_the_intercept_of_the_same_run_by_record(form):
    run, same = taped(form), of_tape(form)
    mine, wanted = (ik.estimate(each, "test-losses", CENTRED) for each in (run, same))
    np.testing.assert_allclose(mine.influence, wanted.influence, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(mine.intercept, wanted.intercept, rtol=1e-9, atol=1e-13)
    assert mine.intercept.any()


def test_the_run_at_weight_a_is_trained_once_for_several_queries(monkeypatch):
    run, trained = ik.record(oracle.tiny_workload()), []
    monkeypatch.setattr(module, "rerun", lambda *args, **more: trained.append(1) or rerun(*args, **more))
    for query in ("test-loss", "test-losses"):
        ik.estimate(run, query, CENTRED)
    ik.estimate(run, "test-loss", CENTRED, average={4: 1.0})
    assert len(trained) == 1
    ik.estimate(run, "test-loss", "dit:centre=0.7")
    ik.estimate(run, "test-loss", "dit:centre=0.9")
    assert len(trained) == 3 and len(run.reruns) == 2


rerun = module.rerun


@pytest.mark.parametrize("optimizer", [ik.RMSprop(lr=0.01), ik.Adam(lr=0.01, betas=(0.9, 0.0))])
def test_an_optimizer_in_whose_step_the_weight_cancels_is_refused_by_name(optimizer):
    run = ik.record(oracle.tiny_workload(optimizer))
    with pytest.raises(
        InputError, match=rf"centre is for SGD, Adam, .* this run used {type(optimizer).__name__}"
    ):
        ik.estimate(run, "test-loss", CENTRED)


@pytest.mark.parametrize("centre", [0, -0.5, 1.5, float("nan"), "half"])
def test_a_weight_outside_of_0_to_1_is_refused(centre):
    with pytest.raises(InputError, match="centre"):
        ik.make("estimator", "dit", centre=centre)


def test_it_claims_no_derivative_at_the_recorded_run_and_no_contributions():
    assert not CENTRED.claims & {ik.Claim.FIRST_ORDER, ik.Claim.ADDITIVE, ik.Claim.EXACT}
    with pytest.raises(InputError, match="claims first order"):
        ik.evaluate(recorded("sgd"), "taylor", estimators=[CENTRED])
    with pytest.raises(InputError, match="centre"):
        ik.contributions(recorded("sgd"), "test-loss", CENTRED)


# who sums scores adds the intercept -------------------------------------------------------------------------


def sets_of(size, n=8, count=5):
    return [np.random.default_rng(k).permutation(n)[:size] for k in range(count)]


def test_leave_k_out_lds_brittleness_and_remove_add_it():
    run = recorded("sgd")
    scores = ik.estimate(run, "test-losses", "dit:centre=0.5")
    added, influence = scores.intercept.values, scores.influence.values
    found = ik.evaluate(run, {"k": LeaveKOut(k=(2, 4), groups=5)}, "test-losses", scores=scores)["k"]
    assert found.sizes["estimator"] == 1
    again = ik.evaluate(run, "lds:m=6", "test-losses", estimators=["dit", "dit:centre=0.5"])["lds:m=6"]
    mine = again.sel(estimator="dit:centre=0.5")
    wanted = added[..., None] + influence @ mine.left_out.values.T
    np.testing.assert_allclose(mine.predicted, wanted, rtol=1e-12)
    plain = ik.estimate(run, "test-losses", "dit").influence.values
    np.testing.assert_allclose(again.predicted.sel(estimator="dit"), plain @ mine.left_out.values.T)
    brittle = ik.evaluate(run, {"b": Brittleness(k=(2,))}, "test-losses", scores=scores)["b"]
    top = np.sort(influence, -1)[..., -2:].sum(-1)
    np.testing.assert_allclose(
        brittle.predicted.sel(removed="helpful").values[0, ..., 0], top + added, rtol=1e-12
    )
    ids = list(run.workload.train_ids[:4])
    removed = ik.remove(run, "test-losses", ids, scores)
    some = [list(run.workload.train_ids).index(i) for i in ids]
    np.testing.assert_allclose(removed.estimate, influence[..., some].sum(-1) + added, rtol=1e-12)


def test_sums_have_the_size_and_the_order_of_halves_where_those_of_dit_have_not():
    run = ik.record(ik.make("workload", "mnist-1v7-lr:setting=trained:n_train=96:epochs=10"))
    halves = {"halves": LeaveKOut(k=(48,), groups=12)}
    found = ik.evaluate(run, halves, "test-loss", ["dit", "dit:centre=0.5"])["halves"]
    plain, centred = np.abs(np.log(found["size"].values[:, 0, 0, 0]))
    assert centred < 0.15 and plain > 0.4
    plain, centred = found.spearman.values[:, 0, 0, 0]
    assert centred > plain


# results say what they are for --------------------------------------------------------------------------


def test_results_say_for_which_sets_they_are():
    run = recorded("sgd")
    said = "sets that leave about 4 of the 8 examples in, not for single examples"
    scores = ik.estimate(run, "test-loss", "dit:centre=0.5")
    assert said in scores.attrs["caution"] and scores.attrs["note_centre"] == 0.5
    assert said in ik.verify_top(run, "test-loss", scores, top=2).attrs["caution"]
    work = "mnist-1v7-lr:n_train=24:epochs=2"
    found = ik.compare(work, ["dit", "dit:centre=0.5"], seeds=(0, 1))
    assert found.attrs["caution"].count("about 12 of the 24 examples in") == 1  # whatever the seeds
    assert found.intercept.dims == ("estimator", "seed", "query", "window")
    assert found.intercept.sel(estimator="dit:centre=0.5").values.all()
    assert not found.intercept.sel(estimator=["dit", "loo"]).any()
    of_one = found.sel(seed=1)
    again = ik.evaluate(ik.record(ik.make("workload", work, seed=1)), "lds:m=4", "test-loss", scores=of_one)[
        "lds:m=4"
    ]
    assert again.predicted.sizes["estimator"] == 3


def test_trust_asks_about_single_examples_and_is_refused_in_one_line():
    run = recorded("sgd")
    with pytest.raises(InputError, match="these scores are for sets"):
        ik.trust(run, "test-loss", CENTRED)


def test_the_command_line_says_so(tmp_path):
    store = tmp_path / "run.zarr"
    run_cli("record", TINY, "--store", store)
    out = run_cli("estimate", store, "--estimator", "dit:centre=0.5").output
    assert "for sets that leave about 12 of the 24 examples in" in out and "trust" not in out
    assert "centre" in fails("estimate", store, "--estimator", "dit:centre=2", code=2)


def test_the_spread_of_a_loss_that_depends_on_its_batch_is_taken_one_by_one():
    """The first and the last example of the first batch have no partner of their class, so that they alone
    look as if losses were each their own."""
    x = torch.randn(18, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 2, 0, 1, 1, 2, 2, 2, 0, 1, 0, 1, 2, 0, 1, 2])

    def drawn_together(z, y):
        alike = (y[:, None] == y).to(z) * (1 - torch.eye(len(y)).to(z))
        apart = (z[:, None] - z).square().sum(-1)
        return torch.nn.functional.cross_entropy(z, y, reduction="none") + (alike * apart).sum(1)

    model = torch.nn.Linear(5, 3).double()
    data = torch.utils.data.TensorDataset(x[:12], y[:12])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    with ik.Tape(None, model, optimizer, loss=drawn_together, data=data, separable=False) as tape:
        for _, (a, b) in tape.batches(torch.utils.data.DataLoader(data, batch_size=4)):
            optimizer.zero_grad()
            drawn_together(model(a), b).mean().backward()
            optimizer.step()
    run = tape.trajectory(test=(x[12:], y[12:]))
    spread = Spread(torch.full((run.steps,), 0.5))
    for t in range(run.steps):
        theta, rows = run.state(t).theta, slice(4 * t, 4 * t + 4)

        def losses(theta, rows=rows):
            layout = run.workload.layout.split(theta)
            z = torch.func.functional_call(model, layout, (x[rows],))
            return drawn_together(z, y[rows])

        each = jacrev(losses)(theta) / 4
        torch.testing.assert_close(spread.squares(run.step, run.state(t)), each.square().sum(0))
