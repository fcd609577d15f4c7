"""Queries against the plain formulas they stand for; the conformance suite tests their gradients."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

import influencekit as ik
from influencekit import InputError, Query, Window, make, record
from influencekit.testing import check_query, tiny_workload, unrolled_gradient

BINARY = tiny_workload()
CLASSES = tiny_workload(classes=3, batches="dict")
AUTO = tiny_workload(batches="tensor")
WORKLOADS = {"one logit": BINARY, "three classes in dicts": CLASSES, "an autoencoder": AUTO}
each_workload = pytest.mark.parametrize("w", WORKLOADS.values(), ids=WORKLOADS.keys())
EXACT = {"rtol": 1e-13, "atol": 1e-15}


def test_test_losses_are_torchs_losses_of_the_module():
    x, y = BINARY.test
    expected = nn.functional.binary_cross_entropy_with_logits(BINARY.model(x), y, reduction="none").detach()
    torch.testing.assert_close(
        make("query", "test-losses").evaluate(BINARY, BINARY.theta0), expected, **EXACT
    )
    expected = nn.functional.cross_entropy(
        CLASSES.model(CLASSES.test["x"]), CLASSES.test["labels"], reduction="none"
    ).detach()
    torch.testing.assert_close(
        make("query", "test-losses").evaluate(CLASSES, CLASSES.theta0), expected, **EXACT
    )


@each_workload
def test_the_test_loss_is_their_mean_and_has_no_penalty(w):
    losses = make("query", "test-losses").evaluate(w, w.theta0)
    torch.testing.assert_close(make("query", "test-loss").evaluate(w, w.theta0), losses.mean()[None], **EXACT)
    assert torch.equal(losses, make("query", "test-losses").evaluate(replace(w, l2=10.0), w.theta0))


@each_workload
def test_the_labels_of_losses_are_the_users_ids(w):
    assert list(make("query", "test-losses").labels(w)) == [100, 3, 7, 2, 50]
    assert list(make("query", "test-losses").labels(replace(w, test_ids=None))) == list(range(5))


@each_workload
@pytest.mark.parametrize("example", [0, 4])
def test_a_prediction_is_one_output(w, example):
    inputs = w.test if w is AUTO else w.test[0] if w is BINARY else w.test["x"]
    outputs = w.model(inputs)[example].detach().reshape(-1)
    for k, expected in enumerate(outputs):
        found = make("query", f"prediction:example={example}:output={k}").evaluate(w, w.theta0)
        torch.testing.assert_close(found, expected[None], **EXACT)


def test_a_parameter_is_itself_by_name_or_by_position():
    theta = torch.arange(BINARY.n_params, dtype=torch.float64)
    weight = BINARY.layout.split(theta)["first.weight"]
    assert make("query", "parameter:name=first.weight:index=2+1").evaluate(BINARY, theta) == weight[2, 1]
    assert make("query", "parameter:index=7").evaluate(BINARY, theta) == 7
    assert list(make("query", "parameter:name=first.weight:index=2+1").labels(BINARY)) == [
        "first.weight[2,1]"
    ]


@pytest.mark.parametrize("w", [BINARY, CLASSES], ids=["tuple", "dict"])
def test_feature_importance_is_the_slope_of_the_loss_in_the_feature(w):
    h = 1e-6
    for example, feature in [(0, 0), (3, 2)]:

        def moved(by, example=example, feature=feature):
            change = torch.zeros(5, 3, dtype=torch.float64)
            change[example, feature] = by
            batch = {**w.test, "x": w.test["x"] + change} if w is CLASSES else (w.test[0] + change, w.test[1])
            return w.losses(w.theta0, batch)[example]

        slope = (moved(h) - moved(-h)) / (2 * h)
        found = make("query", f"feature-importance:example={example}:feature={feature}").evaluate(w, w.theta0)
        torch.testing.assert_close(found, slope[None], rtol=1e-7, atol=1e-9)  # h squared and rounding / h


def test_feature_importance_of_an_autoencoder_moves_input_and_target_together():
    def loss(x):
        return AUTO.losses(AUTO.theta0, x[None])[0]

    expected = torch.func.grad(loss)(AUTO.test[1])[2]
    found = make("query", "feature-importance:example=1:feature=2").evaluate(AUTO, AUTO.theta0)
    torch.testing.assert_close(found, expected[None], **EXACT)


@each_workload
def test_alignment_is_the_unit_gradient_held_fixed(w):
    query = make("query", "alignment")
    leaf = w.theta0.clone().requires_grad_()
    w.losses(leaf, w.test).mean().backward()
    unit = leaf.grad / leaf.grad.norm()
    torch.testing.assert_close(query.gradient(w, w.theta0)[0], unit, rtol=1e-12, atol=1e-14)
    moved = w.theta0 + 0.3
    torch.testing.assert_close(query.at(w, w.theta0)(moved)[0], unit @ moved, rtol=1e-12, atol=1e-14)


def test_the_alignment_effect_is_measured_along_the_recorded_gradient_by_all_estimators():
    query, window = make("query", "alignment"), [Window(0, 6)]
    trajectory = record(BINARY)
    dit = make("estimator", "dit").scores(trajectory, query, window)
    torch.testing.assert_close(dit, unrolled_gradient(BINARY, query, window), rtol=1e-10, atol=1e-14)
    final = trajectory.final.theta
    unit = query.gradient(BINARY, final)[0]
    vector = make("query", "vector", vector=unit)
    for name in ("dit", "loo"):
        a, b = (make("estimator", name).scores(trajectory, q, window) for q in (query, vector))
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


def test_fixed_vectors_project():
    V = torch.randn(3, BINARY.n_params, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    query = make("query", "vector", vector=V)
    torch.testing.assert_close(query.evaluate(BINARY, BINARY.theta0), V @ BINARY.theta0, **EXACT)
    torch.testing.assert_close(query.gradient(BINARY, BINARY.theta0), V, **EXACT)
    assert len(make("query", "vector", vector=V[0]).labels(BINARY)) == 1


@dataclass(frozen=True)
class WeightNorm(Query):
    """A query of one's own, in a few lines: it works with everything."""

    def labels(self, workload):
        return ["norm"]

    def evaluate(self, workload, theta):
        return theta.square().sum()[None]


def test_a_query_of_ones_own_needs_two_methods():
    check_query(WeightNorm())
    window = [Window(0, 6)]
    scores = make("estimator", "dit").scores(record(BINARY), WeightNorm(), window)
    torch.testing.assert_close(
        scores, unrolled_gradient(BINARY, WeightNorm(), window), rtol=1e-10, atol=1e-13
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("prediction:example=5", "example 5 is not in the test set, which has 0 to 4"),
        ("prediction:example=-1", "example -1 is not in the test set"),
        ("prediction:output=1", "output 1 is not one of the model's 1 outputs"),
        ("parameter:index=16", "one position in 0 to 15"),
        ("parameter:name=last", "no parameter named 'last'; the model has: first.weight"),
        ("parameter:name=first.weight:index=3+0", r"has shape \[3, 3\]; index \[3, 0\] is outside it"),
        ("parameter:name=first.weight:index=1", "is outside it"),
        ("feature-importance:example=9", "example 9 is not in the test set"),
        ("feature-importance:feature=3", "feature 3 is not one of the input's 3 features"),
    ],
)
def test_what_is_not_there_is_refused_by_labels(spec, words):
    with pytest.raises(InputError, match=words):
        make("query", spec).labels(BINARY)


def test_a_vector_of_another_length_is_refused():
    with pytest.raises(InputError, match=r"expected shape \[16\] or \[query, 16\], got \[15\]"):
        make("query", "vector", vector=torch.zeros(15)).labels(BINARY)


@pytest.mark.gpu
@each_workload
@pytest.mark.parametrize(
    "name", ["test-loss", "test-losses", "prediction", "feature-importance", "alignment"]
)
def test_queries_on_cuda_equal_the_cpu(w, name):
    query, there = make("query", name), w.to("cuda")
    found = query.gradient(there, there.theta0)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), query.gradient(w, w.theta0), rtol=1e-10, atol=1e-12)


class _Cube(torch.autograd.Function):
    """Of the form that torch.func does not take."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


class _Cubed(torch.nn.Module):
    def __init__(self, cube):
        super().__init__()
        self.cube = cube

    def forward(self, x):
        return self.cube(x)


@pytest.mark.parametrize("estimator", ["dit", "loo"])
def test_feature_importance_of_an_autograd_function_of_ones_own(estimator):
    """As of the same model by operations of torch; it ended in an error of torch.func, after training."""
    x, y = torch.randn(12, 3, dtype=torch.float64), torch.arange(12) % 3
    found = []
    for cube in (_Cube.apply, lambda x: x**3):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), _Cubed(cube)).double()
        loss = torch.nn.CrossEntropyLoss(reduction="none")
        work = ik.Workload(
            model=model, loss=loss, train=(x, y), test=(x, y), optimizer=ik.SGD(lr=0.1), batch_size=4
        )
        query = "feature-importance:example=1:feature=2"
        found.append(ik.estimate(ik.record(work), query, estimator).influence.values)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-8, atol=1e-12)


def _normalised(layer):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), layer, nn.Tanh(), nn.Linear(4, 3)).double()


class _Weighed(nn.Module):
    """Weights of the whole batch, in evaluation mode, too."""

    def forward(self, x):
        return x * x.detach().mean(0)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4, track_running_stats=False), _Weighed()])
@pytest.mark.parametrize("query", ["prediction:example=1", "feature-importance:example=1"])
def test_one_example_of_a_model_that_looks_at_its_batch_is_refused(query, layer):
    """It was asked as a batch of one: another number than the model gives for it among the others."""
    x, y = torch.randn(12, 3, dtype=torch.float64), torch.arange(12) % 3
    model, loss = _normalised(layer), nn.CrossEntropyLoss(reduction="none")
    work = ik.Workload(model=model, loss=loss, train=(x, y), test=(x, y), optimizer=ik.SGD(lr=0.1))
    with pytest.raises(InputError, match="test example 1 depends on the other test examples") as error:
        make("query", query).labels(work)
    assert "\n" not in str(error.value)
    found = make("query", "test-losses").evaluate(work, work.theta0)
    torch.testing.assert_close(found, loss(model.eval()(x), y).detach(), **EXACT)


def test_one_prediction_may_be_asked_where_the_loss_alone_looks_at_the_batch():
    """Of a contrastive loss, say: outputs are each example's own."""

    def loss(outputs, target):
        return nn.functional.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)), reduction="none")

    x, y = torch.randn(12, 3, dtype=torch.float64), torch.arange(12) % 3
    model = _normalised(nn.Identity())
    work = ik.Workload(model=model, loss=loss, train=(x, y), test=(x, y), optimizer=ik.SGD(lr=0.1))
    found = make("query", "prediction:example=1:output=2").evaluate(work, work.theta0)
    torch.testing.assert_close(found, model(x)[1, 2:].detach(), **EXACT)
