"""Several runs linearised together: the mean of one run and itself is that run; of two, their mean."""

from contextlib import nullcontext

import pytest
import torch
from helpers_buffers import recorded as with_buffers

import influencekit as ik
from influencekit._effects.mean_of_runs import MeanOfRuns
from influencekit._trajectory.rerun import weighted_runs
from influencekit.estimators import DIT
from influencekit.testing.estimators import recorded
from influencekit.testing.taped import taped


def as_they_are(parts, thetas):
    return parts


def with_more(parts, thetas):
    """A tensor more in the batch, of which nothing is made."""
    return [part.within(lambda more: nullcontext(), [torch.ones(7)]) for part in parts]


def contributions(run, runs, query="test-loss", change=as_they_are):
    """C [step, column, slot] at the end, along the mean of runs."""
    query, mean = ik.make("query", query), MeanOfRuns(runs, change)
    gradient = mean.gradient(run, query, 1)
    found = DIT().sweep(runs[0], query, [((run.steps, 1),)], 0, gradient, mean)
    return torch.cat([part.values for part in reversed(list(found))])


def alone(run, query="test-loss"):
    found = DIT().contributions(run, ik.make("query", query), [run.steps])
    return torch.cat([part.values for part in reversed(list(found))])


RUNS = {
    "sgd": lambda: recorded("sgd with Nesterov momentum"),
    "buffers": lambda: with_buffers("mlp", "sgd"),
    "micro-batches": lambda: taped("dicts"),
}


@pytest.mark.parametrize("change", [as_they_are, with_more])
@pytest.mark.parametrize("name", RUNS)
def test_the_mean_of_a_run_and_itself_is_the_run(name, change):
    run = RUNS[name]()
    torch.testing.assert_close(
        contributions(run, [run, run], change=change), alone(run), rtol=1e-9, atol=1e-15
    )


@pytest.mark.parametrize("query", ["test-loss", "alignment"])
def test_at_the_last_step_it_is_the_mean_of_products_not_the_product_of_means(query):
    """There c is -lr times the mean gradient of the query, and each run has its own gradients of examples."""
    run = recorded("sgd")
    weights = torch.tensor([[0.0], [2.0]]).expand(2, run.workload.n_train)
    runs, work, t = weighted_runs(run, weights), run.workload, run.steps - 1
    found = contributions(run, runs, query)[-1]
    at = ik.make("query", query).at(work, run.final.theta)
    c = torch.stack([torch.func.jacrev(at)(r.final.theta) for r in runs]).mean(0) * -run.plan.lrs(t)[0]
    rows = run.plan.batch(t)

    def losses(theta):
        return work.losses(theta, work.examples(rows)) + 0.5 * work.l2 * theta @ theta

    g = torch.stack([torch.func.jacrev(losses)(r.state(t).theta) for r in runs]).mean(0)
    wanted = -c @ g.T / len(rows)
    torch.testing.assert_close(found[:, : len(rows)], wanted, rtol=1e-10, atol=1e-15)


def test_a_sweep_that_was_left_does_not_disturb_the_next():
    run, query = recorded("sgd"), ik.make("query", "test-loss")
    mean = MeanOfRuns([run, run], as_they_are)
    steps = mean.backwards([run.state(t) for t in range(4)])
    next(steps)
    again = [state.step for state, _ in mean.backwards([run.state(t) for t in range(4)])]
    assert again == [3, 2, 1, 0]
    for theirs, mine in zip(
        DIT().sweep(run, query, [((4, 1),)], 0),
        DIT().sweep(run, query, [((4, 1),)], 0, None, mean),
        strict=True,
    ):
        torch.testing.assert_close(mine.values, theirs.values)
