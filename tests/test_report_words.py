"""What a report says of a run is what the loop did: learning rates, steps on the axis, numbers of things."""

import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from influencekit._verbs.trust.words import advice

LOSS = nn.CrossEntropyLoss(reduction="none")


def loop(kind="", examples=24, tests=16, epochs=3, penalty=None):
    """A taped run, and the learning rates with which its loop called `step`, read from the optimizer."""
    torch.manual_seed(0)
    x = torch.randn(examples + tests, 4)
    y = (x[:, 0] > 0).long()
    data, test = TensorDataset(x[:examples], y[:examples]), TensorDataset(x[examples:], y[examples:])
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}]
    optimizer = torch.optim.SGD(groups if kind == "groups" else model.parameters(), lr=0.3)
    steps = epochs * -(-examples // 8)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, steps) if kind == "one cycle" else None
    rates = []
    with ik.Tape(None, model, optimizer, loss=LOSS, data=data, penalty=penalty) as tape:
        for _ in range(epochs):
            for _, (inputs, target) in tape.batches(DataLoader(data, batch_size=8)):
                optimizer.zero_grad()
                extra = 0 if penalty is None else penalty(model)
                (LOSS(model(inputs), target).mean() + extra).backward()
                rates += [group["lr"] for group in optimizer.param_groups]
                optimizer.step()
                if schedule:
                    schedule.step()
    return tape.trajectory(test=test), rates


def facts(page):
    return {each.name: each.value for each in page.record.facts}


@pytest.mark.parametrize("kind", ["", "groups", "one cycle"])
def test_learning_rates_are_those_of_the_steps(kind):
    """It said the first rate of the first group: 0 for a frozen first layer, 0.016 for a cycle up to 0.4."""
    run, rates = loop(kind)
    said = facts(ik.report(run, ik.estimate(run)))["training"]
    found = [float(n) for n in re.search("learning rate (.*?);", said)[1].split(" to ")]
    assert found == pytest.approx(sorted({min(rates), max(rates)}), rel=1e-4, abs=1e-12)
    assert f"learning rate (now {max(rates):g})" in advice(run.workload)


def test_the_advice_counts_the_examples_of_a_batch_not_its_penalty():
    run, _ = loop(penalty=lambda model: 1e-3 * sum(p.square().sum() for p in model.parameters()))
    assert "batches (now 8)" in advice(run.workload)


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_numbers_on_the_axis_of_steps_stand_where_these_steps_are(epochs):
    """Of 3 steps the axis had 0, 1, 2, 2, 3, at every quarter."""
    run, _ = loop(epochs=epochs)
    html = ik.report(run, ik.estimate(run)).html
    ticks = re.findall(r'<text x="([\d.]+)" y="172" text-anchor="\w+">(\d+)(?: steps)?</text>', html)
    places, steps = zip(*((float(x), int(step)) for x, step in ticks), strict=True)
    assert steps[0] == 0 and steps[-1] == run.steps and len(set(steps)) == len(steps)
    wide = (places[-1] - places[0]) / run.steps
    assert places == pytest.approx([places[0] + wide * step for step in steps], abs=0.11)


def test_one_is_not_called_many_and_trust_is_not_said_to_be_tested():
    run, _ = loop(examples=1, tests=1, epochs=1)
    page = ik.report(run, ik.estimate(run), points=1)
    said = facts(page)
    assert said["training"].startswith("1 step by SGD") and said["training"].endswith(
        "1 example, 1 test example"
    )
    assert "1 example," in str(page) and "1 of 1 example has a score" in page.html
    assert not re.search(r"\b1 (test )?examples\b", page.html)
    run, _ = loop()
    page = ik.report(run, ik.estimate(run), ik.estimate(run, estimator="loo"))
    assert page.record.agreement.count == 24 and facts(page)["trust"].startswith("not measured")


@pytest.mark.parametrize("estimator", ["final-loss", "dit"])
def test_a_page_of_scores_that_are_no_effects_says_so(estimator):
    """It said of a training loss of 0.9 that removing the example lowers the test loss by 0.9."""
    run, _ = loop()
    warnings = ik.report(run, ik.estimate(run, estimator=estimator)).record.warnings
    said = [each for each in warnings if each.startswith("The scores of final-loss ask no query")]
    assert len(said) == (estimator == "final-loss")
