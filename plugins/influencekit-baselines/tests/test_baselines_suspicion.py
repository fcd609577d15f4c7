"""Scores of examples by themselves, against their definitions read one example at a time."""

import pytest
import torch
from helpers_baselines import Logit, classes, problem, scores
from influencekit_baselines import EL2N, Forgetting, GradNorm, Random, SelfInfluence
from torch import nn

import influencekit as ik


def network(outputs):
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, outputs))


def test_el2n_of_one_logit_is_that_of_the_two_that_say_the_same():
    run = ik.record(problem())
    state = run.state(3)  # after the first epoch
    x, y = run.workload.train
    p = (x @ state.theta).sigmoid()
    both = torch.stack([1 - p, p], 1) - torch.stack([1 - y, y], 1)
    torch.testing.assert_close(scores(run, EL2N())[0, 0], -both.norm(dim=1))
    torch.testing.assert_close(scores(run, EL2N(epochs=1)), scores(run, EL2N()))
    assert not torch.equal(scores(run, EL2N(epochs=3)), scores(run, EL2N()))


def test_el2n_of_several_classes_is_the_distance_from_the_one_hot_label():
    run = ik.record(classes(problem(), 3, network(3)))
    x, y = run.workload.train
    with torch.no_grad():
        p = run.workload.outputs(run.final.theta, (x, y)).softmax(1)
    expected = -torch.stack([(row - torch.eye(3)[c]).norm() for row, c in zip(p, y, strict=True)])
    torch.testing.assert_close(scores(run, EL2N(epochs=3))[0, 0], expected)


@pytest.mark.parametrize("seed", range(5))
def test_forgetting_counts_right_then_wrong_between_visits(seed):
    workload = problem(seed, optimizer=ik.SGD(lr=8.0), epochs=12, batch_size=3)  # rough: much is forgotten
    run = ik.record(workload)
    x, y = workload.train
    expected = []
    for j in range(12):
        visits = [t for t in range(run.steps) if j in run.plan.batch(t)]
        right = [bool((x[j] @ run.state(t).theta > 0) == (y[j] > 0.5)) for t in visits]
        events = sum(a and not b for a, b in zip(right, right[1:], strict=False))
        expected.append(-float(events) if any(right) else -7.0)  # twelve visits, at most six events
    found = scores(run, Forgetting())[0, 0]
    assert found.tolist() == expected
    assert len(set(expected)) > 1


def test_what_no_batch_holds_is_not_forgotten():
    order = torch.arange(8).reshape(2, 4).repeat(3, 1)
    found = scores(ik.record(problem(order=order)), Forgetting())
    assert (found[..., 8:] == 0).all()


@pytest.mark.parametrize("estimator", [EL2N(), Forgetting()])
def test_a_regression_is_refused(estimator):
    workload = problem(squared=True)
    workload.train[1].add_(0.25)
    with pytest.raises(ik.InputError, match="expects a classifier"):
        ik.estimate(ik.record(workload), "test-loss", estimator)


def test_more_epochs_than_there_are_is_an_error_that_says_how_many():
    with pytest.raises(ik.InputError, match="the run has 3 epochs, and epochs=4 asks for more"):
        ik.estimate(ik.record(problem()), "test-loss", EL2N(epochs=4))
    with pytest.raises(ik.InputError, match="at least 1, got 0"):
        EL2N(epochs=0)


class Rightness(type(ik.make("query", "test-loss"))):
    """Minus the test loss."""

    better = "higher"

    def evaluate(self, workload, theta):
        return -super().evaluate(workload, theta)


@pytest.mark.parametrize("estimator", [GradNorm(), EL2N(), Forgetting(), SelfInfluence()])
def test_the_most_suspicious_is_the_most_harmful_whichever_way_is_better(estimator):
    run = ik.record(problem(3, optimizer=ik.SGD(lr=8.0), epochs=12, batch_size=3))
    both = [ik.verify_top(run, q, estimator, top=99).train.values for q in ("test-loss", Rightness())]
    low, high = (scores(run, estimator)[0, 0], ik.estimate(run, Rightness(), estimator).influence[0, 0])
    assert high.values.tolist() == (-low).tolist()
    assert low[both[0]].tolist() == low[both[1]].tolist() == low.sort().values.tolist()


def test_random_scores_belong_to_the_example_and_the_seed():
    x, y = problem().train
    one = ik.record(problem(train_ids=list("abcdefghijkl")))
    other = ik.record(problem(train_ids=list("lkjihgfedcba"), model=Logit(3, 1)))
    first = scores(one, Random())
    assert torch.equal(first[0, 0], scores(other, Random())[0, 0].flip(0))
    assert (first == first[0]).all() and first[0, 0].unique().numel() == 12 and first.abs().max() < 1
    assert not torch.equal(first, scores(one, Random(seed=1)))
