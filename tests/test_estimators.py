"""Estimators against dense, unrolled and retrained answers, over many optimizers, models and batches."""

from dataclasses import replace

import pytest
import torch
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
    InfluenceKitError,
    InputError,
    Window,
    Workload,
    estimate,
    make,
    record,
)
from influencekit.testing import retrained, tiny_workload, unrolled_gradient

WINDOWS = [
    Window(0, 6),
    Window(2, 5),
    Window(1, 3, "window"),
    Window(0, 6, "window"),
    Window(3, 4, "occurrence"),
]
LOSSES = make("query", "test-losses")
ORACLE = {"rtol": 0.0, "atol": 1e-10}  # relative to the largest score, see `close`


def scores(name, workload, windows=WINDOWS, query=LOSSES, recorder="full"):
    estimator = make("estimator", name) if isinstance(name, str) else name
    return estimator.scores(record(workload, recorder), query, windows)


def close(found, expected, tolerance=1e-10):
    """Float64 sums of a few hundred terms round at 1e-14 of the largest; 1e-10 leaves room, and no more."""
    scale = expected.abs().max()
    assert scale > 0
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=tolerance)


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


class Linear(nn.Linear):
    def forward(self, x):
        return super().forward(x).squeeze(-1)


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
    monkeypatch.setattr("influencekit.training.step.Step.capacity", lambda *a: room)
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


# if -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"classes": 3, "batches": "dict"}, {"batches": "tensor", "l2": 0.0}], ids=str
)
@pytest.mark.parametrize("damping", [None, 0.7])
@pytest.mark.parametrize("curvature", ["hessian", "gauss-newton", "fisher"])
def test_influence_functions_equal_a_dense_solve(options, damping, curvature):
    """(1/n) <grad q, (B + damping I)^{-1} g_j>, B the dense matrix of the whole training set."""
    workload = tiny_workload(**options)
    trajectory, n = record(workload), workload.n_train
    theta = trajectory.final.theta
    B, g = dense(workload, curvature, theta, torch.arange(n))
    lam = 1 / workload.plan.lr.sum() if damping is None else damping
    A = B + lam * torch.eye(workload.n_params, dtype=torch.float64)
    expected = LOSSES.gradient(workload, theta) @ torch.linalg.inv(A) @ g.T / n
    option = f":curvature={curvature}" + ("" if damping is None else f":damping={damping}")
    for solver in ("auto", "exact", "cg:tolerance=1e-12"):
        estimator = make("estimator", f"if{option}:solver={solver}")
        found = estimator.scores(trajectory, LOSSES, [Window(0, 6)])[:, 0]
        close(found, expected, 1e-9)  # the condition of A, at most 100, times the tolerance


def test_what_a_result_says_of_damping_and_solver():
    trajectory = record(tiny_workload())
    notes = make("estimator", "if").notes(trajectory)
    assert notes["solver"] == "exact" and notes["damping"] == pytest.approx(
        1 / trajectory.plan.lr.sum().item()
    )
    assert make("estimator", "if:exact_limit=3").notes(trajectory)["solver"] == "cg"
    result = estimate(trajectory, "test-loss", "if:damping=0.5")
    assert result.attrs["note_damping"] == 0.5


MOMENTUM = SGD(lr=0.3, momentum=0.8, dampening=0.5)
BY_GROUP = SGD(lr=0.3, momentum=0.8, groups=(Group(("last.*",), {"lr": 0.1, "momentum": 0.0}),))
STILL = SGD(lr=0.3, groups=(Group(("last.*",), {"lr": 0.0}),))


@pytest.mark.parametrize("optimizer", [SGD(lr=0.3), MOMENTUM, BY_GROUP, STILL, Adam(lr=0.05)], ids=str)
@pytest.mark.parametrize("solver", ["exact", "cg:tolerance=1e-12"])
def test_the_default_damping_is_one_over_how_far_a_constant_gradient_carries_each_parameter(
    optimizer, solver
):
    """Of a thousand steps: then what is still in the momentum at the end is little beside what was done."""
    workload = tiny_workload(optimizer)
    theta, n, steps = record(workload).final.theta, workload.n_train, 1000
    one, moved, slots = torch.ones_like(theta), torch.zeros_like(theta), optimizer.start(theta)
    rates = [rule.lr for rule in optimizer.members()]
    for t in range(steps):  # a constant gradient of 1 under constant rates: theta goes down by the time
        moved, slots = optimizer.step(workload.layout, moved, slots, one, t, rates)
    time = -moved * workload.plan.lr[:, 0].sum() / (steps * rates[0])  # as long as the run's own rates
    moving = time > 0
    B, g = dense(workload, "gauss-newton", theta, torch.arange(n))
    B, g = B[moving][:, moving], g[:, moving]
    solved = torch.linalg.solve(B + torch.diag(1 / time[moving]), g.T)
    expected = LOSSES.gradient(workload, theta)[:, moving] @ solved / n
    found = scores(f"if:solver={solver}", workload, [Window(0, 6)])[:, 0]
    close(found, expected, 1e-2 if optimizer in (MOMENTUM, BY_GROUP) else 1e-8)


def test_the_note_says_the_damping_of_every_group():
    def said(optimizer):
        return make("estimator", "if").notes(record(tiny_workload(optimizer)))["damping"]

    total = tiny_workload().plan.lr.sum().item() / 0.3  # of a rate of 1
    assert said(MOMENTUM) == pytest.approx(0.2 / (0.5 * 0.3 * total))
    assert said(BY_GROUP) == f"{0.2 / (0.3 * total):.4g} to {1 / (0.1 * total):.4g}, by parameter group"


@pytest.mark.parametrize("optimizer", [SGD(lr=0.0), SGD(lr=0.1, momentum=1.0)], ids=str)
def test_a_run_without_a_default_damping_asks_for_one(optimizer):
    with pytest.raises(InputError, match=r"if: the default damping is .* give one, such as if:damping=0.1"):
        scores("if", tiny_workload(optimizer), [Window(0, 6)])
    assert scores("if:damping=0.1", tiny_workload(optimizer), [Window(0, 6)]).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("twice", ["a feature", "all but rounding"])
def test_without_damping_a_singular_matrix_is_one_line(dtype, twice):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=generator, dtype=torch.float64).to(dtype)
    x = torch.cat(
        [x, x[:, :1] if twice == "a feature" else x @ torch.tensor([[0.3], [0.7], [0.1]]).to(dtype)], 1
    )
    data = (x, (x[:, 0] > 0).to(dtype))
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)).to(dtype)
    workload = Workload(
        model=model, loss=nn.BCEWithLogitsLoss(reduction="none"), train=data, test=data, optimizer=SGD(lr=0.1)
    )
    with pytest.raises(InfluenceKitError, match="if: H .* is singular .* larger damping") as caught:
        scores("if:damping=0", workload, [Window(0, 1)], make("query", "test-losses"))
    assert "\n" not in str(caught.value)
    assert scores("if:damping=0.01", workload, [Window(0, 1)]).isfinite().all()


def test_conjugate_gradients_that_do_not_converge_say_so():
    with pytest.raises(InfluenceKitError, match="iterations"):
        scores("if:solver=cg:iterations=1:tolerance=1e-12", tiny_workload(), [Window(0, 6)])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("if:damping=-1", "damping must be at least 0"),
        ("loo:examples=1", "examples must be at least 2"),
    ],
)
def test_impossible_options_are_refused(spec, words):
    with pytest.raises(InputError, match=words):
        make("estimator", spec)


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
