"""Influence functions against a dense solve, and what is refused."""

import pytest
import torch
from helpers_estimators import LOSSES, close, scores
from helpers_step import dense
from torch import nn

from influencekit import (
    SGD,
    Adam,
    Group,
    InfluenceKitError,
    InputError,
    Window,
    Workload,
    estimate,
    make,
    record,
)
from influencekit.testing import tiny_workload


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
