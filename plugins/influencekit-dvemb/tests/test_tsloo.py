"""Trajectory-specific leave-one-out against plain loops that drop one example at one step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers_dvemb import images, small_cnn
from influencekit_dvemb import TSLOO
from influencekit_dvemb import tsloo as module

import influencekit as ik
from influencekit.registry import make
from influencekit.testing import parametrize_with_checks, plain_run, tiny_workload

AT = [3, 6]


def by_loops(workload, query):
    """C [query, evaluation, step, slot] by one plain PyTorch run for every occurrence."""
    plan, base = workload.plan, plain_run(workload)
    out = torch.zeros(len(query.labels(workload)), len(AT), *plan.indices.shape, dtype=torch.float64)
    for t in range(plan.steps):
        for slot, j in enumerate(plan.batch(t).tolist()):
            run = plain_run(workload, j, (t, t + 1))
            times = (plan.batch(t) == j).sum()  # all of its slots are dropped, and each gets its part
            for k, e in enumerate(AT):
                change = query.evaluate(workload, run[e]) - query.evaluate(workload, base[e])
                out[:, k, t, slot] = change / times
    return out.detach()


def doubled():
    """A problem in whose second batch two of the three slots, in its fifth three of four, are one example."""
    workload = tiny_workload()
    order = workload.order.clone()
    order[1, 2] = order[1, 0]
    order[4, 2:] = order[4, 0]
    return replace(workload, order=order)


@pytest.mark.parametrize(
    ("workload", "strategy"),
    [
        (doubled(), "auto"),
        (doubled(), "loop"),
        (tiny_workload(), "auto"),
        (tiny_workload(ik.SGD(lr=0.2, momentum=0.8, weight_decay=0.05, clip_norm=0.15)), "auto"),
        (tiny_workload(ik.AdamW(lr=0.05, eps=0.01)), "loop"),
        (images(small_cnn(), l2=0.02), "auto"),
    ],
    ids=["twice in a batch", "twice in a batch, looped", "sgd", "momentum", "adamw, looped", "convolution"],
)
def test_contributions_are_those_of_plain_loops(workload, strategy):
    query = make("query", "test-losses")
    found = ik.contributions(ik.record(workload), query, TSLOO(strategy), at=AT)
    torch.testing.assert_close(
        torch.from_numpy(found.contribution.values), by_loops(workload, query), rtol=1e-9, atol=1e-13
    )


@pytest.mark.parametrize("lanes", [1, 3, 5, 9])
def test_however_many_runs_go_on_at_once(monkeypatch, lanes):
    run = ik.record(tiny_workload())
    expected = ik.contributions(run, "test-losses", "tsloo", at=AT).contribution.values
    monkeypatch.setattr(module, "_LANES", lanes)
    found = ik.contributions(run, "test-losses", "tsloo", at=AT).contribution.values
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("workload", [tiny_workload(), doubled()], ids=["once", "more than once"])
def test_a_window_of_one_step_is_leave_one_out(workload):
    run = ik.record(workload)
    windows = [ik.Window(t, t + 1, removal) for t in (0, 1, 4, 5) for removal in ("occurrence", "window")]
    found = ik.estimate(run, "test-losses", "tsloo", windows).influence.values
    expected = ik.estimate(run, "test-losses", "loo", windows).influence.values
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


def test_a_run_that_diverges_says_so():
    workload = tiny_workload(ik.SGD(lr=1e200))
    try:
        run = ik.record(workload)
    except ik.DivergedError:
        return  # the recording said it first
    with pytest.raises(ik.DivergedError, match="lower the learning rate"):
        ik.estimate(run, "test-loss", "tsloo")


@parametrize_with_checks([TSLOO()])
def test_conformance(subject, check):
    check(subject)
