"""Sets of parts on several runs: what `remove(runs=...)` says of examples, it says of parts."""

from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from helpers_executors import Now
from helpers_parts import (
    LENGTHS,
    LOSSES,
    OPTIMIZERS,
    PADDED,
    inputs,
    model,
    recorded,
    taped,
    texts,
    token_losses,
)

import influencekit as ik
from influencekit._effects.selection import crossfitted, extremes
from influencekit._trajectory.rerun import moved, rerun
from influencekit.testing import effect_by_part

ROWS, QUERY = [(0, 2), (3, 4), (4, 1)], ik.make("query", "test-losses")
cached = cache(recorded)


def others(run, runs=4, fraction=0.01):
    return [rerun(run, start=moved(run, fraction, number)) for number in range(1, runs)]


@pytest.mark.parametrize("estimator", ["dit", "loo"])
def test_the_sums_and_effects_of_other_runs_are_those_of_each_by_itself(estimator):
    run = cached("momentum", "mean", 0.05)
    found = ik.remove(run, QUERY, ROWS, estimator, runs=4, moved=0.01)
    each = [ik.remove(one, QUERY, ROWS, estimator) for one in others(run)]
    np.testing.assert_allclose(found.estimate_runs, [one.estimate for one in each], rtol=1e-9)
    np.testing.assert_allclose(found.retrained_runs, [one.retrained for one in each], rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(found.estimate_crossfit, found.estimate_runs.mean("run"), rtol=1e-9)
    assert found.attrs["runs"] == 4 and found.attrs["chosen"] == "by their ids"
    assert "on 3 runs from moved starts" in found.verdict and "example" not in found.verdict
    plain = ik.remove(run, QUERY, ROWS, estimator)
    for name in plain.data_vars:
        np.testing.assert_array_equal(found[name], plain[name])


def test_the_effect_on_a_moved_run_is_that_of_a_plain_loop_from_its_start():
    run, query = cached("adamw", "own weights", 0.05), ik.make("query", "test-loss")
    found = ik.remove(run, query, ROWS, runs=3, moved=0.01)
    change = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.float64)
    for row in ROWS:
        change[row] = 1
    for number in (1, 2):
        net = model()
        start = run.workload.layout.split(moved(run, 0.01, number).theta)
        net.load_state_dict(start)
        work = run.workload
        same = ("train", "test", "optimizer", "epochs", "batch_size", "drop_last", "l2", "loss", "seed")
        other = ik.Workload(model=net, **{name: getattr(work, name) for name in same})
        expected = float(effect_by_part(other, query, ik.Window(0, run.steps), change))
        assert float(found.retrained_runs[number - 1].squeeze()) == pytest.approx(expected, rel=1e-8)


def test_of_the_lowest_every_run_chooses_its_own_parts():
    run = cached("adamw")
    each = [ik.estimate(one, QUERY, parts=True).influence.values[:, 0] for one in (run, *others(run))]
    scores = np.stack([one[:, np.isfinite(one[0])] for one in each])  # [run, query, part]
    lowest = extremes(scores.mean(1), 3, -1)
    rows = [(i, p) for i, n in enumerate(LENGTHS) for p in range(n)]
    found = ik.remove(run, QUERY, [rows[k] for k in np.flatnonzero(lowest[0])], runs=4, moved=0.01)
    expected = crossfitted(np.einsum("ap,bqp->abq", lowest.astype(float), scores))
    np.testing.assert_allclose(found.estimate_crossfit[:, 0], expected.value, rtol=1e-9)
    np.testing.assert_allclose(found.low[:, 0], expected.low, rtol=1e-9)
    assert found.attrs["chosen"] == "the 3 lowest by the mean score"


@pytest.mark.parametrize("make", [lambda: cached("momentum", "mean", 0.05), lambda: taped(torch.optim.AdamW)])
def test_all_parts_of_an_example_are_the_example_on_every_run(make):
    run = make()
    whole = ik.remove(run, QUERY, [4], runs=3)
    parts = ik.remove(run, QUERY, [(4, p) for p in range(LENGTHS[4])], runs=3)
    for name in ("estimate_runs", "retrained_runs"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-7, atol=1e-12)
    averaged = ik.remove(run, QUERY, [(4, 0)], runs=3, average="swa:start=1")
    assert np.isfinite(averaged.retrained_runs).all()


def test_an_executor_gives_what_one_process_gives(tmp_path):
    work = ik.Workload(
        model=model(), loss=LOSSES["mean"], train=inputs(texts()), test=inputs(texts(1)),
        optimizer=OPTIMIZERS["sgd"], epochs=2, batch_size=3, drop_last=True,
    )  # fmt: skip
    run, now = ik.record(work, store=tmp_path / "run.zarr"), Now()
    here = ik.remove(run, QUERY, ROWS, runs=3)
    there = ik.remove(run, QUERY, ROWS, runs=3, executor=ik.Workers(now, tmp_path / "slices"))
    assert now.calls == 2 and there.attrs.pop("retrained_on")
    xr.testing.assert_identical(here, there)
    again = ik.remove(run, QUERY, [(0, 2), (3, 3)], runs=3, executor=ik.Workers(now, tmp_path / "slices"))
    assert now.calls == 4 and not again.retrained_runs.equals(here.retrained_runs)


@pytest.mark.parametrize(
    ("numbered", "said"),
    [(True, "examples have other parts in moved run 1 than"), (False, "and none there when")],
)
def test_a_moved_run_whose_examples_have_other_parts_is_refused_in_one_line(numbered, said):
    """Parts that depend on the model, and stay as they are in training, which hardly moves it."""

    def hard(outputs, target):
        losses = token_losses(outputs, target)
        part = torch.arange(target.shape[1]).expand(target.shape) if numbered else None
        return ik.Parts(losses, ((losses > 1.93) & (target != PADDED)).to(losses), part)

    work = cached().workload
    same = ("model", "train", "test", "epochs", "batch_size", "drop_last")
    run = ik.record(ik.Workload(**{n: getattr(work, n) for n in same}, loss=hard, optimizer=ik.SGD(lr=1e-9)))
    there = ik.estimate(run, parts=True).influence[0, 0].notnull().values
    row = tuple(int(k) for k in np.argwhere(there)[0])
    with pytest.raises(ik.InputError, match=said) as caught:
        ik.remove(run, "test-loss", [row], runs=3, moved=0.5)
    assert "\n" not in str(caught.value)


def bent(curvatures):
    """Two examples of two parts, whose losses bend up or down: without those that bend up there is no end."""
    h = torch.tensor(curvatures)
    data = torch.ones(2, 1), h
    work = ik.Workload(
        model=torch.nn.Linear(1, 1, bias=False),
        loss=lambda o, h: ik.Parts(10 * h * o.square(), torch.ones_like(h)),
        train=data, test=data, optimizer=ik.SGD(lr=0.1), epochs=120, batch_size=2,
    )  # fmt: skip
    return ik.record(work)


def test_retraining_of_parts_that_diverges_counts_parts_and_names_one():
    run = bent([[-1.0, 1.3], [-1.0, 1.3]])
    with pytest.raises(ik.DivergedError, match="retraining without 2 parts gave NaN or infinity"):
        ik.remove(run, "test-loss", [(0, 1), (1, 1)])
    run = bent([[-1.0, -1.0], [-1.0, 3.5]])
    said = "retraining without part 1 of the example at position 1 gave NaN or infinity"
    for verb in (
        lambda: ik.remove(run, "test-loss", [(1, 1)]),
        lambda: ik.verify_top(run, "test-loss", top=4, parts=True),
        lambda: ik.estimate(run, "test-loss", "loo", parts=True),
    ):
        with pytest.raises(ik.DivergedError, match=said):
            verb()
