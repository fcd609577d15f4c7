"""What a correlation does not see: sizes, NaN, rounding, a run that learnt nothing, and precision."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers_step import quick  # noqa: F401 (a fixture)
from test_trust import QUERY, proportional, recorded
from torch import nn

import influencekit as ik
from influencekit import SGD, Adam, Window
from influencekit._verbs.trust import checks as checks_module
from influencekit._verbs.trust.precision import deviation
from influencekit.testing.oracle import tiny_workload

pytestmark = pytest.mark.usefixtures("quick")


def check(found, name):
    one = found.sel(check=name)
    return one.check_value.item(), str(one.check_warning.values)


def classifier(logits=1.0, lr=0.5, seed=0):
    """A smooth network in float32, with scaled logits."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(48, 6, generator=generator)
    y = (x[:, 0] + 0.5 * torch.randn(48, generator=generator) > 0).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    return ik.Workload(
        model=model,
        loss=lambda out, y: nn.functional.binary_cross_entropy_with_logits(logits * out, y, reduction="none"),
        train=(x, y), test=(x[:24] + 0.1, y[:24]), optimizer=SGD(lr=lr), epochs=6, batch_size=12,
    )  # fmt: skip


def test_a_run_without_fault_passes_every_check():
    found = ik.trust(ik.record(classifier()))
    assert found.check.values.tolist() == ["scale", "finite", "signal", "learnt", "precision"]
    assert (found.check_value >= found.check_low).all() and (found.check_value <= found.check_high).all()
    assert (found.check_warning == "").all() and found.warning == ""


def test_a_check_warns_exactly_outside_of_its_limits():
    run = ik.record(proportional())
    scores = ik.estimate(run, QUERY)
    for factor in (0.4, 0.6, 1.9, 2.1):
        scaled = scores.assign(influence=scores.influence / factor)
        value, said = check(ik.trust(run, QUERY, scaled, "retrain"), "scale")
        assert value == pytest.approx(factor) and bool(said) == (not 0.5 <= factor <= 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_counted_and_named(bad):
    windows = [Window(0, 36), Window(0, 72)]
    scores = ik.estimate(recorded(0, calm=True), QUERY, "dit", windows)
    values = scores.influence.values.copy()
    values[0, 1, 7] = bad
    found = ik.trust(
        recorded(0, calm=True), QUERY, scores.assign(influence=scores.influence.copy(data=values))
    )
    value, said = check(found, "finite")
    assert value == pytest.approx(1 - 1 / 96) and "NaN or infinite" in said
    assert np.isfinite(found.trust).all()  # of the others something can be said


def test_examples_that_were_left_out_on_request_are_not_missed():
    found = ik.trust(recorded(0), QUERY, "loo:examples=12", "retrain", examples=8)
    assert check(found, "finite") == (1.0, "")


def test_logits_scaled_so_far_down_that_rounding_decides_are_named():
    """Training is as smooth as can be there, and every effect is a few last digits of the loss."""
    found = ik.trust(ik.record(classifier(logits=1e-4)), method="smooth")
    assert check(found, "signal")[1].startswith("effects are only")
    fine = ik.trust(ik.record(classifier()), method="smooth")
    assert fine.check_value.sel(check="signal") > 1000 * found.check_value.sel(check="signal")
    wide = ik.trust(ik.record(classifier(logits=1e-4).to(dtype=torch.float64)), method="smooth")
    assert check(wide, "signal")[1] == ""


def test_a_run_that_learnt_nothing_is_named_however_well_it_is_predicted():
    found = ik.trust(ik.record(classifier(lr=1e-3)))
    assert found.trust > 0.99 and "learnt nothing" in check(found, "learnt")[1] and "learnt" in found.warning
    assert check(ik.trust(ik.record(classifier())), "learnt")[1] == ""


def test_wrong_scores_of_a_smooth_run_are_seen_by_the_sum_of_a_few():
    """`smooth` knows no estimator: its cosine is 1 whatever the scores, and the sum of the few says so."""
    run = ik.record(proportional())
    scores = ik.estimate(run, QUERY)
    for factor, wrong in ((1.0, False), (-1.0, True), (1e-3, True), (10.0, True)):
        found = ik.trust(run, QUERY, scores.assign(influence=factor * scores.influence), "smooth")
        assert found.trust.item() == pytest.approx(1)
        assert bool(check(found, "sum")[1]) == wrong


# precision ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1, momentum=0.9), Adam(lr=0.01), SGD(lr=0.3, clip_norm=0.1)])
def test_in_float64_the_sweep_is_what_it_is_in_float64(optimizer):
    """Beside itself: the traced sweep and reverse over reverse differ by rounding alone."""
    run = ik.record(tiny_workload(optimizer))
    assert deviation(run, QUERY, "hessian") < 1e-12
    single = ik.record(tiny_workload(optimizer, dtype=torch.float32))
    assert 1e-9 < deviation(single, QUERY, "hessian") < 1e-4


@pytest.mark.parametrize("curvature", ["gauss-newton", "fisher"])
def test_every_curvature_is_compared_with_its_own(curvature):
    assert deviation(ik.record(tiny_workload()), QUERY, curvature) < 1e-12


def test_a_sweep_that_rounds_to_the_digits_of_tf32_is_named(monkeypatch):
    """Products rounded to ten bits, as tensor cores do it."""
    run = ik.record(classifier())
    original = type(run.step.linear()).backwards

    def rounded(self, states):
        for state, here in original(self, states):
            yield state, here._replace(pull=lambda c, a, pull=here.pull: pull(ten_bits(c), a))

    def ten_bits(x):
        mantissa, exponent = torch.frexp(x)
        return torch.ldexp((mantissa * 2**11).round() / 2**11, exponent)

    monkeypatch.setattr(type(run.step.linear()), "backwards", rounded)
    value, said = check(ik.trust(run, QUERY, ik.estimate(run)), "precision")
    assert 1e-4 < value < 1e-2 and "switch TF32 off" in said


def test_precision_is_of_first_order_sweeps_only():
    assert np.isnan(check(ik.trust(recorded(0), QUERY, "loo", "retrain", examples=4), "precision")[0])
    scores = ik.estimate(recorded(0)).assign_attrs(estimator="of my own")
    assert np.isnan(check(ik.trust(recorded(0), QUERY, scores, "retrain", examples=4), "precision")[0])


def test_with_buffers_that_training_changes_the_precision_is_known():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(24, 3, generator=generator), torch.randn(24, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0))
    work = ik.Workload(
        model=model, loss=nn.MSELoss(reduction="none"), train=(x, y), test=(x[:6], y[:6]),
        optimizer=SGD(lr=0.1), epochs=3, batch_size=8,
    )  # fmt: skip
    assert 1e-9 < deviation(ik.record(work), QUERY, "hessian") < 1e-4
    assert (
        deviation(ik.record(replace(work, batch_size=12).to(dtype=torch.float64)), QUERY, "hessian") < 1e-10
    )


def test_what_was_learnt_is_that_of_the_run_wherever_its_recording_begins():
    work = ik.make("workload", "mnist-1v7-lr:n_train=64:epochs=12:batch_size=16")
    steps = ik.record(work).steps
    whole, late = (ik.record(work, window=window) for window in (None, (steps // 2, steps)))
    assert checks_module._learnt(late) == checks_module._learnt(whole) > 0.05
