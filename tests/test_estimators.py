"""Estimators against dense, unrolled and retrained answers, over many optimizers, models and batches."""

from dataclasses import replace

import pytest
import torch
from helpers_estimators import LOSSES, WINDOWS, Linear, close, scores
from helpers_step import conv_workload, dense, untraced
from hypothesis import given, settings
from hypothesis import strategies as st
from test_optimizers import Sign, adams, rates, sgds
from torch import nn

from influencekit import (
    SGD,
    Adam,
    AdamW,
    Claim,
    DivergedError,
    Group,
    InputError,
    Window,
    Workload,
    make,
    record,
)
from influencekit.testing import retrained, tiny_workload, unrolled_gradient

# dit ----------------------------------------------------------------------------------------------------

PATTERNS = [(), ("last.*",), ("*.bias",)]


@settings(max_examples=25)
@given(st.one_of(sgds(), adams()), rates, st.sampled_from(PATTERNS), st.integers(0, 9))
def test_dit_equals_autodiff_through_the_run_for_any_settings_of_any_optimizer(optimizer, lr, pattern, seed):
    # eps well above the noise floor: where it is 1e-8, the first step of Adam is a sign function, see below
    changes = {"eps": 1e-3} if isinstance(optimizer, Adam) else {}
    groups = (Group(pattern, {"lr": lr}),) if pattern else ()
    clip = None if optimizer.clip_norm is None else 0.1 * optimizer.clip_norm
    optimizer = replace(optimizer, lr=min(optimizer.lr, 0.1), clip_norm=clip, groups=groups, **changes)
    workload = tiny_workload(optimizer, seed=seed)
    with untraced():
        found = scores("dit", workload)
    close(found, unrolled_gradient(workload, LOSSES, WINDOWS))


@pytest.mark.parametrize("optimizer", [Adam(lr=0.05), AdamW(lr=0.05)], ids=repr)
def test_dit_equals_autodiff_for_adam_as_it_comes(optimizer):
    workload = tiny_workload(optimizer)
    close(scores("dit", workload), unrolled_gradient(workload, LOSSES, WINDOWS), 1e-9)


@pytest.mark.parametrize(
    "options", [{"classes": 3}, {"classes": 3, "batches": "dict"}, {"batches": "tensor"}], ids=str
)
@pytest.mark.parametrize("optimizer", [SGD(lr=0.2), AdamW(lr=0.05, eps=0.01)], ids=["sgd", "adamw"])
def test_dit_and_loo_for_classes_dicts_and_tensors(options, optimizer):
    workload = tiny_workload(optimizer, **options)
    trajectory = record(workload)
    for name, oracle in (("dit", unrolled_gradient), ("loo", retrained)):
        found = make("estimator", name).scores(trajectory, LOSSES, WINDOWS[:3])
        close(found, oracle(workload, LOSSES, WINDOWS[:3]))


def test_dit_goes_through_an_optimizer_of_ones_own():
    workload = tiny_workload(Sign(lr=0.05))
    close(scores("dit", workload), unrolled_gradient(workload, LOSSES, WINDOWS))


def test_dit_and_loo_on_convolutions():
    workload = conv_workload()
    windows = [Window(0, 4), Window(1, 3), Window(2, 4, "window")]
    close(scores("dit", workload, windows), unrolled_gradient(workload, LOSSES, windows))
    close(scores("loo", workload, windows), retrained(workload, LOSSES, windows))


@pytest.mark.parametrize(
    "query", ["prediction:example=2", "feature-importance", "alignment", "parameter:index=3"]
)
def test_dit_for_other_queries(query):
    workload, query = tiny_workload(SGD(lr=0.2, momentum=0.5)), make("query", query)
    with untraced():
        found = scores("dit", workload, WINDOWS, query)
    close(found, unrolled_gradient(workload, query, WINDOWS))


def test_occurrences_add_up_to_the_whole_run():
    """Contributions: C[T, t] summed over t is the effect of the full window (method.md)."""
    workload = tiny_workload(AdamW(lr=0.05, eps=0.01, clip_norm=0.2))
    windows = [Window(0, 6), *(Window(t, t + 1, "occurrence") for t in range(6))]
    for curvature in ("hessian", "gauss-newton", "fisher"):
        with untraced():
            found = scores(f"dit:curvature={curvature}", workload, windows)
        close(found[:, 1:].sum(1), found[:, 0])


def test_few_columns_at_a_time_change_nothing(monkeypatch):
    workload = tiny_workload(SGD(lr=0.2, momentum=0.5))
    trajectory = record(workload)
    expected = make("estimator", "dit").scores(trajectory, LOSSES, WINDOWS)
    monkeypatch.setattr("influencekit.estimators.dit._MEMORY", 1)  # one column a pass
    close(make("estimator", "dit").scores(trajectory, LOSSES, WINDOWS), expected, 1e-13)


# curvature ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"classes": 3}, {"batches": "tensor"}], ids=str)
def test_gauss_newton_is_the_hessian_of_a_linear_model(options):
    workload = tiny_workload(**options)
    outputs = 3 if options else 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (Linear if outputs == 1 else nn.Linear)(3, outputs).double()
    workload = replace(workload, model=model)
    close(scores("dit:curvature=gauss-newton", workload), scores("dit", workload), 1e-12)


@pytest.mark.parametrize("curvature", ["hessian", "gauss-newton", "fisher"])
@pytest.mark.parametrize("options", [{}, {"classes": 3}], ids=str)
def test_each_curvature_is_the_recursion_with_its_dense_matrix(curvature, options):
    """Eq. 14 and 19 forward in time: D <- (I - lr B) D + lr/b g_j, B the dense matrix."""
    workload = tiny_workload(**options)
    trajectory, plan = record(workload), workload.plan
    D = torch.zeros(workload.n_train, workload.n_params, dtype=torch.float64)
    for t in range(6):
        rows, lr = plan.batch(t), plan.lrs(t)[0]
        B, g = dense(workload, curvature, trajectory.state(t).theta, rows)
        D = (D - lr * D @ B).index_add(0, rows, lr / len(rows) * g)
    expected = LOSSES.gradient(workload, trajectory.final.theta) @ D.T
    close(scores(f"dit:curvature={curvature}", workload, [Window(0, 6)])[:, 0], expected)


def test_only_the_true_hessian_claims_first_order():
    assert Claim.FIRST_ORDER in make("estimator", "dit").claims
    for curvature in ("fisher", "gauss-newton"):
        assert Claim.FIRST_ORDER not in make("estimator", f"dit:curvature={curvature}").claims


# sgd-influence ------------------------------------------------------------------------------------------


def test_sgd_influence_is_dit_on_the_whole_run_and_refuses_other_optimizers():
    workload, whole = tiny_workload(SGD(lr=0.2, momentum=0.5)), [Window(0, 6)]
    assert torch.equal(scores("sgd-influence", workload, whole), scores("dit", workload, whole))
    with pytest.raises(InputError, match="defined for SGD, and this run used AdamW; use dit"):
        scores("sgd-influence", tiny_workload(AdamW(lr=0.1)), whole)


# loo ----------------------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(st.one_of(sgds(), adams()), st.integers(0, 9))
def test_loo_batched_equals_looped_equals_plain_torch(optimizer, seed):
    workload = tiny_workload(replace(optimizer, lr=min(optimizer.lr, 0.1)), seed=seed)
    expected = retrained(workload, LOSSES, WINDOWS)
    for strategy in ("batch", "loop"):
        with untraced():
            found = scores(f"loo:strategy={strategy}", workload)
        # Adam's first step divides by gradients as small as they come: rounding grows to 1e-9 at eps 1e-8
        close(found, expected, 1e-7 if isinstance(optimizer, Adam) else 1e-10)


def test_loo_batched_equals_looped_for_convolutions():
    workload = conv_workload()
    close(
        scores("loo:strategy=batch", workload, [Window(0, 4)]),
        scores("loo", workload, [Window(0, 4)]),
    )


@pytest.mark.parametrize("room", [1, 3])
def test_few_models_at_a_time_change_nothing(room, monkeypatch):
    workload = tiny_workload(AdamW(lr=0.1))
    expected = scores("loo", workload)
    monkeypatch.setattr("influencekit._training.step.Step.capacity", lambda *a: room)
    close(scores("loo", workload), expected, 1e-12)


def test_a_subset_of_examples_has_the_scores_they_have_in_the_full_set():
    trajectory = record(tiny_workload())

    def scores(name):
        return make("estimator", name).scores(trajectory, LOSSES, WINDOWS)

    full, some = scores("loo"), scores("loo:examples=3")
    retrained_ones = ~some.isnan()
    assert retrained_ones.all(0).all(0).sum() == 3
    close(some[retrained_ones], full[retrained_ones], 1e-12)
    other = ~scores("loo:examples=3:seed=1").isnan()
    assert other.all(0).all(0).sum() == 3 and not torch.equal(other, retrained_ones)
    assert not scores("loo:examples=99").isnan().any()


@pytest.mark.parametrize("recorder", ["full", "every-k:k=4"])
def test_a_recorded_window_is_enough_for_window_removal(recorder):
    workload = tiny_workload(SGD(lr=0.2, momentum=0.5))
    windows = [Window(2, 5, "window"), Window(3, 4, "window")]
    with untraced():
        part = record(workload, recorder, window=(2, 5))
        for name in ("dit", "loo"):
            close(
                make("estimator", name).scores(part, LOSSES, windows), scores(name, workload, windows), 1e-12
            )


def test_a_removal_that_diverges_is_named():
    """Without the one example whose loss bends upwards, that of the others has no lower end."""
    x = torch.tensor([1.0, 1.0, 1.0, 1.0])
    h = torch.tensor([-1.0, -1.0, -1.0, 3.5])
    workload = Workload(
        model=Linear(1, 1, bias=False),
        loss=lambda o, h: 10 * h * o.square(),
        train=(x[:, None], h),
        test=(x[:, None], h),
        optimizer=SGD(lr=0.1),
        epochs=120,
        batch_size=4,
    )
    with pytest.raises(
        DivergedError, match="retraining without the example at position 3 gave NaN or infinity"
    ):
        scores("loo", workload, [Window(0, 120)])


# elsewhere ----------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["dit", "dit:curvature=fisher", "dit:curvature=gauss-newton", "if", "loo"])
@pytest.mark.parametrize("options", [{}, {"classes": 3, "batches": "dict"}], ids=str)
def test_scores_on_cuda_equal_the_cpu(name, options):
    workload = tiny_workload(AdamW(lr=0.05, eps=0.01, clip_norm=0.2), **options)
    windows = [Window(0, 6)] if name == "if" else WINDOWS
    found = scores(name, workload.to("cuda"), windows)
    assert found.device.type == "cuda"
    close(found.cpu(), scores(name, workload, windows), 1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["dit", "loo"])
def test_convolutions_on_cuda_equal_the_cpu(name):
    windows = [Window(0, 4), Window(1, 3, "window")]
    close(
        scores(name, conv_workload().to("cuda"), windows).cpu(), scores(name, conv_workload(), windows), 1e-9
    )
