"""The margin against its closed form on linear models, and its way into the registry."""

import pytest
import torch
from influencekit_margin import Margin
from torch import Tensor, nn

import influencekit as ik
from influencekit import SGD, InputError, Workload
from influencekit.registry import describe, make, spec
from influencekit.testing import parametrize_with_checks

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3).cos()
BINARY = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
CLASSES = torch.tensor([2, 0, 1, 1])


class Logit(nn.Linear):
    """One logit for each example, [n]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(-1)


def problem(model, loss, target, **options):
    data = (X, target)
    return Workload(
        model=model.double(), loss=loss, train=data, test=data, optimizer=SGD(lr=0.1), batch_size=2, **options
    )


binary = problem(Logit(3, 1, bias=False), nn.BCEWithLogitsLoss(reduction="none"), BINARY)
column = problem(nn.Linear(3, 1, bias=False), nn.BCEWithLogitsLoss(reduction="none"), BINARY[:, None])
multiclass = problem(
    nn.Linear(3, 3, bias=False), nn.CrossEntropyLoss(reduction="none"), CLASSES, test_ids=list("abcd")
)


@pytest.mark.parametrize("point", range(4))
def test_one_logit_is_signed_by_its_label(point):
    theta = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    expected = (2 * BINARY[point] - 1) * (X[point] @ theta)
    for workload in (binary, column):
        margin = Margin(point)
        torch.testing.assert_close(margin.evaluate(workload, theta), expected[None])
        # linear in theta, so the gradient is the signed input
        torch.testing.assert_close(margin.gradient(workload, theta), (2 * BINARY[point] - 1) * X[point][None])


@pytest.mark.parametrize("point", range(4))
def test_several_logits_give_the_lead_over_the_best_other_class(point):
    W = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7], [-0.2, 0.8, 0.1]], dtype=torch.float64)
    z, y = (W @ X[point]).tolist(), int(CLASSES[point])
    expected = z[y] - max(z[c] for c in range(3) if c != y)
    value = Margin(point).evaluate(multiclass, W.flatten())
    torch.testing.assert_close(value, torch.tensor([expected], dtype=torch.float64))
    right = bool(multiclass.outputs(W.flatten(), (X, CLASSES))[point].argmax() == y)
    assert (float(value) > 0) == right


def test_it_maps_over_many_parameter_vectors_at_once():
    thetas = torch.linspace(-1, 1, 45, dtype=torch.float64).reshape(5, 9).sin()
    margin = Margin(point=2)
    mapped = torch.vmap(lambda theta: margin.evaluate(multiclass, theta))(thetas)
    torch.testing.assert_close(mapped, torch.stack([margin.evaluate(multiclass, theta) for theta in thetas]))


def test_its_label_is_the_users_id():
    assert Margin(point=2).labels(multiclass) == ["margin[c]"]
    assert Margin(point=2).labels(binary) == ["margin[2]"]


@pytest.mark.parametrize("point", [-1, 4])
def test_a_point_that_is_not_there_is_refused(point):
    with pytest.raises(InputError, match=f"a test point from 0 to 3, got {point}"):
        Margin(point).labels(binary)


def test_a_regression_is_refused():
    regression = problem(Logit(3, 1), nn.MSELoss(reduction="none"), BINARY + 0.25)
    with pytest.raises(InputError, match="margin expects a classifier"):
        Margin().evaluate(regression, regression.theta0)


def test_it_is_found_by_its_entry_point():
    assert make("query", "margin:point=3") == Margin(point=3)
    assert spec(Margin(point=3)) == "margin:point=3"
    row = {row.name: row for row in describe("query")}["margin"]
    assert (row.status, row.options) == ("ok", ("point=0",))
    assert row.provider.startswith("influencekit-margin ")


def test_the_most_harmful_example_held_the_margin_down_most():
    """Of a margin higher is better: the harmful end is the one without which it is larger."""
    run = ik.record(binary)
    effects = ik.estimate(run, Margin(2), "loo").influence.squeeze()
    for which, first in (("harmful", effects.values.argmax()), ("helpful", effects.values.argmin())):
        found = ik.verify_top(run, Margin(2), "dit", top=1, which=which)
        assert found.train.item() == effects.train.values[first]
    assert ik.verify_top(run, Margin(2), "dit").attrs["which"] == "harmful"


@parametrize_with_checks([Margin(), Margin(point=2)])
def test_conformance(subject, check):
    check(subject)
