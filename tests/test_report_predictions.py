"""A class is read as accuracy reads it, and a regression has numbers and no classes."""

import re

import pytest
import torch
from torch import nn

import influencekit as ik


def trained(model, loss, y, x=None, **options):
    x = torch.randn(len(y), 4, generator=torch.Generator().manual_seed(1)) if x is None else x
    return ik.record(
        ik.Workload(
            model=model,
            loss=loss,
            train=(x, y),
            test=(x[:12], y[:12]),
            optimizer=ik.SGD(lr=0.05),
            epochs=2,
            batch_size=len(y) // 2,
            **options,
        )  # fmt: skip
    )


def squares(z, y):
    return (z.reshape(len(y), -1) - y.reshape(len(y), -1)).square().mean(1)


def one_output(bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    with torch.no_grad():
        model[0].weight.mul_(0.02)
        model[0].bias.fill_(bias)
    return model


@pytest.mark.parametrize("low", [0.0, -1.0])
@pytest.mark.parametrize("bias", [0.25, 0.7, -0.4])
def test_of_one_output_the_threshold_is_that_of_accuracy(bias, low):
    """Half of the targets are 1, so that constant outputs are as often right by either threshold."""
    y = torch.where(torch.arange(24) % 2 == 0, 1.0, low)
    run = trained(one_output(bias), squares, y)
    theta, w = run.final.theta, run.workload
    above = 0.5 if low == 0.0 else 0.0
    outputs = w.outputs(theta, w.train)
    expected = ["1" if v > above else f"{low:.0f}" for v in outputs.tolist()]
    shown = {one.row: one for one in ik.report(run, ik.estimate(run)).record.examples}
    assert [shown[k].prediction for k in range(24)] == expected


@pytest.mark.parametrize("integers", [True, False])
def test_a_regression_has_no_classes_and_no_accuracy(integers):
    generator = torch.Generator().manual_seed(3)
    y = torch.randint(3, 9, (24,), generator=generator).float() if integers else torch.randn(24)
    run = trained(one_output(0.0), squares, y)
    found = ik.report(run, ik.estimate(run), points=2)
    outputs = run.workload.outputs(run.final.theta, run.workload.train).tolist()
    for one in found.record.examples:
        assert one.prediction == f"{outputs[one.row]:.4g}"
    assert found.record.numbers and '"numbers":true' in found.html
    assert "test accuracy" not in [fact.name for fact in found.record.facts]
    text = re.sub(r"<script.*?</script>", "", found.html, flags=re.S)
    assert "not classes and labels" not in text


def test_a_regression_of_several_numbers_has_no_accuracy():
    torch.manual_seed(0)
    run = trained(nn.Linear(4, 3), squares, torch.randn(24, 3))
    record = ik.report(run, ik.estimate(run)).record
    assert record.numbers and "test accuracy" not in [fact.name for fact in record.facts]


def test_classes_have_accuracy():
    torch.manual_seed(0)
    run = trained(nn.Linear(4, 3), nn.CrossEntropyLoss(reduction="none"), torch.arange(24) % 3)
    record = ik.report(run, ik.estimate(run)).record
    assert not record.numbers and "test accuracy" in [fact.name for fact in record.facts]
