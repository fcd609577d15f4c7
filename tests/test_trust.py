"""The figure of trust: 1 where first order is right, low where training is rough, the same however run."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from helpers_step import conv_workload, quick, traced  # noqa: F401 (a fixture)
from scipy.stats import pearsonr, spearmanr
from torch import nn

import influencekit as ik
from influencekit import SGD, Adam, AdamW, InputError, Window
from influencekit._verbs.trust import LIMITS
from influencekit._verbs.trust.words import advice
from influencekit.testing.oracle import plain_run, tiny_workload, weighted_run
from influencekit.testing.setting import agree

pytestmark = pytest.mark.usefixtures("quick")
QUERY = ik.make("query", "test-loss")


def proportional(n=12):
    """Losses linear in the parameters: training answers to every weight in exact proportion."""
    generator = torch.Generator().manual_seed(0)
    x, c = (torch.randn(n, *shape, generator=generator, dtype=torch.float64) for shape in ((3,), ()))
    return ik.Workload(
        model=nn.Linear(3, 1, bias=False).double(), loss=lambda out, c: c * out[:, 0], train=(x, c),
        test=(x[:5], c[:5]), optimizer=SGD(lr=0.1, momentum=0.5), epochs=2, batch_size=4,
    )  # fmt: skip


def rough(seed=0, activation=nn.ReLU):
    """A ReLU network that fits random labels at a learning rate at which it leaps."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(48, 6, generator=generator)
    y = (torch.rand(48, generator=generator) > 0.5).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(6, 12), activation(), nn.Linear(12, 12), activation(), nn.Linear(12, 1)]
        model = nn.Sequential(*layers, nn.Flatten(0))
    return ik.Workload(
        model=model, loss=nn.BCEWithLogitsLoss(reduction="none"), train=(x, y), test=(x[:24] + 0.1, y[:24]),
        optimizer=SGD(lr=1.5), epochs=12, batch_size=8,
    )  # fmt: skip


@cache
def recorded(seed, calm=False):
    return ik.record(replace(rough(seed, nn.Tanh), optimizer=SGD(lr=0.05)) if calm else rough(seed))


# what the figures are -----------------------------------------------------------------------------


@pytest.mark.parametrize("windows", [None, [Window(1, 5), Window(2, 4, "window")]])
def test_retrain_is_the_smaller_of_two_correlations_with_plain_retraining(windows):
    """Beside scipy, and torch.optim runs without one example at a time; a weight of 3 is three copies."""
    workload = tiny_workload(AdamW(lr=0.05))
    trajectory = ik.record(workload)
    found = ik.trust(trajectory, QUERY, "dit", "retrain", examples=4, windows=windows)
    scores = ik.estimate(trajectory, QUERY, "dit", windows).influence.sel(train=found.train)
    base, figures = plain_run(workload), []
    for k, window in enumerate(windows or [Window(0, 6)]):
        truth, here = [], found.retrained[0, k].notnull().values
        for name in found.train.values[here].tolist():
            theta = plain_run(workload, workload.train_ids.index(name), window.absent())
            signs = window.evaluations(6).items()
            at = {t: QUERY.at(workload, base[t]) for t, _ in signs}
            truth.append(sum(s * (at[t](theta[t]) - at[t](base[t])) for t, s in signs).item())
        retrained = torch.tensor(found.retrained.values[0, k, here])
        agree("retrain", retrained, torch.tensor(truth, dtype=torch.float64), 1e-9, str(window))
        weight = found.weight.values[k, here]
        estimate, truth = scores.values[0, k, here], np.array(truth)
        copies = np.repeat(np.arange(len(truth)), np.round(6 * weight).astype(int))
        assert np.allclose(6 * weight, np.round(6 * weight))
        random = found.random.values[k, here]
        pair = pearsonr(estimate[copies], truth[copies])[0], spearmanr(estimate[random], truth[random])[0]
        np.testing.assert_allclose(found.agreement.values[:, 0, k], pair)
        figures.append(pair)
        slope = weight @ (estimate * truth) / (weight @ estimate**2)
        assert found.scale[k].item() == pytest.approx(slope)
    assert found.trust.values == pytest.approx([min(pair) for pair in figures])
    assert [found.pearson.values, found.spearman.values] == pytest.approx(np.transpose(figures))
    assert found.overall.item() == pytest.approx(found.trust.mean().item())
    assert found.attrs["method"] == "retrain" and found.attrs["trainings"] <= 7 * len(windows or [0])


@pytest.mark.parametrize("power", [1, 1 / 3, 3])
def test_with_all_examples_drawn_trust_is_the_smaller_correlation_over_all_of_them(power):
    """Scores with the truth's ranks and other values: the ranks cannot hide it."""
    trajectory = recorded(0)
    truth = ik.estimate(trajectory, QUERY, "loo")
    values = truth.influence.values
    bent = truth.assign(influence=truth.influence.copy(data=np.sign(values) * abs(values) ** power))
    found = ik.trust(trajectory, QUERY, bent, "retrain", examples=48)
    expected = pearsonr(values.ravel(), bent.influence.values.ravel())[0]
    assert found.spearman.item() == pytest.approx(1)
    assert found.pearson.item() == pytest.approx(expected, abs=1e-4)
    assert found.trust.item() == min(found.pearson.item(), found.spearman.item())
    assert (found.trust.item() > 0.999) == (power == 1)


def outlier(scores, noise):
    """Scores of which a few have their true value and the rest have no more than their sign."""
    values = scores.influence.values.copy()
    large = abs(values) >= np.sort(abs(values).ravel())[-6]
    values[~large] = noise[~large] * abs(values[~large]).max() * 0.2
    return scores.assign(influence=scores.influence.copy(data=values))


def test_where_values_agree_and_ranks_do_not_trust_is_low():
    trajectory = recorded(0)
    truth = ik.estimate(trajectory, QUERY, "loo")
    noise = np.random.default_rng(0).normal(size=truth.influence.shape)
    found = ik.trust(trajectory, QUERY, outlier(truth, noise), "retrain", examples=48)
    assert found.pearson.item() > 0.8 and found.trust.item() == found.spearman.item() < 0.6


def test_a_random_draw_alone_does_not_see_the_tail_and_trust_does():
    """Right for all examples but the six of the largest scores, which decide what Pearson's is over all."""
    trajectory = recorded(0)
    truth = ik.estimate(trajectory, QUERY, "loo")
    values = truth.influence.values.copy()
    large = abs(values).ravel().argsort()[-6:]
    values[..., large] = -3 * values[..., large]
    wrong = truth.assign(influence=truth.influence.copy(data=values))
    over_all = pearsonr(values.ravel(), truth.influence.values.ravel())[0]
    for seed in range(4):
        found = ik.trust(trajectory, QUERY, wrong, "retrain", examples=16, seed=seed)
        assert found.pearson.item() == pytest.approx(over_all, abs=0.15) and over_all < 0
        assert found.trust.item() < 0.2 and "is below" in found.attrs["warning"]


@pytest.mark.parametrize(("factor", "said"), [(1, False), (10, True), (0.1, True)])
def test_scores_of_another_size_keep_their_trust_and_get_a_warning(factor, said):
    trajectory = ik.record(proportional())
    scores = ik.estimate(trajectory, QUERY)
    found = ik.trust(trajectory, QUERY, scores.assign(influence=factor * scores.influence), "retrain")
    assert found.trust.item() == pytest.approx(1) and found.scale.item() == pytest.approx(1 / factor)
    words = f"retraining shows {1 / factor:.2g} times what the scores say: take none of them for an amount"
    assert found.attrs["warning"] == (words if said else "")


def test_smooth_is_the_cosine_of_the_two_changes_that_halving_and_removing_make():
    """Beside a plain weighted loop: f(1/2) - f(1) and f(0) - f(1/2), f the losses of the test examples."""
    workload = tiny_workload(SGD(lr=0.5, momentum=0.5))
    trajectory = ik.record(workload)
    found = ik.trust(trajectory, method="smooth")
    few = [workload.train_ids.index(name) for name in found.train.values.tolist()]
    assert len(set(few)) == 4
    losses = []
    for weight in (1.0, 0.5, 0.0):
        weights = torch.ones(6, 8, dtype=torch.float64)
        weights[:, few] = weight
        losses.append(workload.losses(weighted_run(workload, weights)[-1], workload.test).detach())
    first, second = losses[1] - losses[0], losses[2] - losses[1]
    expected = torch.cosine_similarity(first, second, 0).item()
    assert found.trust.item() == pytest.approx(expected, abs=1e-9) and abs(expected) < 1 - 1e-6
    assert found.attrs["trainings"] == 2
    whole = losses[2] - losses[0]  # beside what first order says of it, which is twice the first half
    assert found.scale.item() == pytest.approx((whole @ (2 * first) / (4 * first @ first)).item(), rel=1e-8)


@pytest.mark.parametrize("method", ["retrain", "smooth"])
def test_where_training_is_linear_in_the_weights_trust_is_one(method):
    found = ik.trust(ik.record(proportional()), method=method)
    assert found.trust.item() == pytest.approx(1, abs=1e-9) and found.attrs["warning"] == ""


@pytest.mark.parametrize("method", ["retrain", "smooth"])
def test_rough_training_is_not_trusted_and_small_steps_are(method):
    """Two seeds each: a network that leaps, and the same that walks, with a smooth activation."""
    for seed in range(2):
        with traced():
            found = ik.trust(recorded(seed), method=method)
            assert ik.trust(recorded(seed, calm=True), method=method).trust.item() > 0.97
        assert found.trust.item() < LIMITS[method], found.trust.item()
        assert "is below" in found.attrs["warning"] and "in place of ReLU" in found.attrs["warning"]


# what they do not depend on -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["retrain", "smooth"])
@pytest.mark.parametrize("build", [conv_workload, lambda: tiny_workload(AdamW(lr=0.05))])
def test_batches_of_models_and_loops_give_the_same_figure(build, method):
    trajectory = ik.record(build())
    scores = ik.estimate(trajectory)
    one, other = (
        ik.trust(trajectory, QUERY, scores, method, strategy=s).trust.item() for s in ("batch", "loop")
    )
    assert one == pytest.approx(other, abs=1e-7)


def test_ready_scores_a_recorder_and_a_second_call_change_nothing():
    workload = tiny_workload(SGD(lr=0.3))
    trajectory = ik.record(workload)
    first = ik.trust(trajectory)
    xr.testing.assert_identical(first, ik.trust(trajectory))
    xr.testing.assert_identical(first, ik.trust(trajectory, "test-loss", ik.estimate(trajectory)))
    xr.testing.assert_allclose(first, ik.trust(ik.record(workload, "every-k:k=4")))
    assert torch.is_grad_enabled()


def test_the_seed_draws_the_examples_and_never_one_that_no_batch_holds():
    trajectory = ik.record(tiny_workload())
    scores = ik.estimate(trajectory)
    drawn = [ik.trust(trajectory, QUERY, scores, examples=4, seed=s).train.values.tolist() for s in range(6)]
    assert len({tuple(ids) for ids in drawn}) > 1
    assert 5 not in {name for ids in drawn for name in ids}  # the id of the unvisited example


# which, and when not ------------------------------------------------------------------------------


def test_auto_takes_retraining_where_models_are_batched_and_two_trainings_elsewhere(monkeypatch):
    small = ik.record(tiny_workload())
    assert ik.trust(small).attrs["method"] == "retrain"
    with traced():
        assert ik.trust(ik.record(conv_workload())).attrs["method"] == "smooth"
    monkeypatch.setattr("influencekit._verbs.trust.verb._BATCHED", 3)
    assert ik.trust(small).attrs["method"] == "smooth"


def test_without_a_test_set_smooth_takes_the_losses_of_training_examples():
    """A taped run of the proportional problem, opened without a test set: again exactly 1."""
    work = proportional()
    x, c = work.train
    model, loss = nn.Linear(3, 1, bias=False).double(), lambda out, c: c * out[:, 0]
    optimizer, data = torch.optim.SGD(model.parameters(), lr=0.1), torch.utils.data.TensorDataset(x, c)
    with ik.Tape(None, model, optimizer, loss=loss, data=data) as tape:
        for _, (inputs, target) in tape.batches(torch.utils.data.DataLoader(data, batch_size=4)):
            optimizer.zero_grad()
            loss(model(inputs), target).mean().backward()
            optimizer.step()
    query = ik.make("query", "parameter:name=weight:index=0+1")
    found = ik.trust(tape.trajectory(), query, method="smooth")
    assert found.trust.item() == pytest.approx(1, abs=1e-9)


def test_a_retraining_that_diverges_or_nothing_to_draw_from_is_said_and_is_no_error():
    x, h = torch.ones(4), torch.tensor([-1.0, -1.0, -1.0, 3.5])
    workload = ik.Workload(
        model=nn.Linear(1, 1, bias=False), loss=lambda o, h: 10 * h * o[:, 0].square(),
        train=(x[:, None], h), test=(x[:, None], h), optimizer=SGD(lr=0.1), epochs=120, batch_size=4,
    )  # fmt: skip
    found = ik.trust(ik.record(workload))
    assert np.isnan(found.trust) and "position 3 gave NaN or infinity" in found.attrs["warning"]
    few = ik.trust(ik.record(proportional()), "test-loss", "loo:examples=2")
    assert np.isnan(few.trust) and "too few examples" in few.attrs["warning"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "feel"}, "method must be one of auto, retrain, smooth, got 'feel'"),
        ({"examples": 2}, "at least 3, got 2"),
    ],
)
def test_impossible_requests_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        ik.trust(ik.record(proportional()), **arguments)


def test_the_advice_names_what_this_workload_has():
    said = advice(rough())
    assert (
        "GELU, in place of ReLU" in said and "learning rate (now 1.5)" in said and "batches (now 8)" in said
    )
    assert "eps" not in said and "ReLU" not in advice(rough(activation=nn.Tanh))
    assert "larger eps of Adam, such as 0.01 (now 1e-08)" in advice(replace(rough(), optimizer=Adam(lr=0.01)))
    assert "eps" not in advice(replace(rough(), optimizer=AdamW(lr=0.01, eps=1e-2)))
    assert "batches" not in advice(replace(rough(), batch_size=48))
