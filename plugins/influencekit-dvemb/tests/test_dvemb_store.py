"""Collected gradients, stored embeddings, and what is asked of them."""

import numpy as np
import pytest
import torch
import xarray as xr
from helpers_dvemb import dense, images, small_cnn
from influencekit_dvemb import Collector, DVEmb, embed, neighbours, scores, totals
from influencekit_dvemb.sources import Replayed
from torch import nn

import influencekit as ik
from influencekit.testing import tiny_workload

EXACT = {"rtol": 1e-9, "atol": 1e-13}
WORKLOAD = images(small_cnn(), l2=0.02)
RUN = ik.record(WORKLOAD)


def collected(path, workload=WORKLOAD, **options):
    """The workload's run as a plain PyTorch loop with a collector; a mean loss with its own penalty."""
    from copy import deepcopy

    model, (x, y) = deepcopy(workload.model), workload.train
    optimizer = torch.optim.SGD(model.parameters(), lr=workload.optimizer.lr)
    options = {"examples": len(x), "slots": 4, "dim": 6, "l2": workload.l2} | options
    with Collector(path, model, optimizer, **options) as collect:
        for t in range(workload.plan.steps):
            rows = workload.plan.batch(t)
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(x[rows]), y[rows])
            loss = loss + 0.5 * workload.l2 * sum(p.square().sum() for p in model.parameters())
            loss.backward()
            collect.step(rows, int(workload.plan.epoch[t]))
            optimizer.step()
            with torch.no_grad():
                model(x)  # evaluation in between does not disturb it
    return xr.open_zarr(path, chunks=None)


def test_hooks_in_a_plain_loop_collect_what_is_replayed_from_the_recorded_run(tmp_path):
    found = collected(tmp_path / "g.zarr")
    source = Replayed(RUN, 6, 0)
    np.testing.assert_allclose(found.gradient.values, source.gradients(0, RUN.steps).numpy(), **EXACT)
    np.testing.assert_array_equal(found.batch.values, RUN.plan.indices.numpy())
    np.testing.assert_allclose(found.theta.values[0], RUN.final.theta.numpy(), **EXACT)
    assert found.gradient.dims == ("step", "slot", "feature")
    assert found.epoch.values.tolist() == RUN.plan.epoch.tolist()


def test_embeddings_of_collected_gradients_need_no_run_and_score_as_the_estimator(tmp_path):
    collected(tmp_path / "g.zarr")
    found = embed(tmp_path / "g.zarr", tmp_path / "e.zarr", segments=3)
    expected = ik.contributions(RUN, "test-losses", DVEmb(dim=6), at=[RUN.steps])
    answer = scores(found, "test-losses", WORKLOAD)
    np.testing.assert_allclose(answer.contribution.values, expected.contribution.values, **EXACT)
    by_hand = scores(found, ik.make("query", "test-losses").gradient(WORKLOAD, RUN.final.theta))
    np.testing.assert_allclose(by_hand.contribution.values, expected.contribution.values, **EXACT)
    window = [ik.Window(1, 4, "occurrence")]
    np.testing.assert_allclose(
        ik.sum_over_windows(answer, window).influence.values,
        ik.sum_over_windows(expected, window).influence.values,
        **EXACT,
    )


@pytest.mark.parametrize("segments", [1, 2, 6])
def test_embeddings_are_those_of_the_dense_recursion(tmp_path, segments):
    found = embed(RUN, tmp_path / "e.zarr", dim=6, segments=segments)
    expected = dense(RUN, Replayed(RUN, 6, 0).projection).numpy()
    np.testing.assert_allclose(found.embedding.values, expected, **EXACT)


@pytest.mark.parametrize("segments", [1, 5])
def test_every_checkpoint_answers_as_the_recursion_restarted_for_it(tmp_path, segments):
    found = embed(RUN, tmp_path / "e.zarr", dim=6, checkpoints=[2, 4], segments=segments)
    stops = found.stop.values.tolist()
    assert stops == [2, 4, 6]
    answer = scores(found, "test-losses", WORKLOAD, at=stops)
    for t in stops:
        restarted = ik.contributions(RUN, "test-losses", DVEmb(dim=6, segments=1), at=[t])
        np.testing.assert_allclose(
            answer.contribution.sel(evaluation=t).values, restarted.contribution.values[:, 0], **EXACT
        )
    windows = [ik.Window(2, 4), ik.Window(2, 4, "window"), ik.Window(4, 6), ik.Window(0, 4)]
    expected = ik.estimate(RUN, "test-losses", DVEmb(dim=6), windows).influence.values
    np.testing.assert_allclose(ik.sum_over_windows(answer, windows).influence.values, expected, **EXACT)
    with pytest.raises(ik.InputError, match="cannot be evaluated at state 3; they can at 2, 4, 6"):
        scores(found, "test-losses", WORKLOAD, at=[3])
    with pytest.raises(ik.InputError, match="checkpoints must be states from 1 to 6, got 9"):
        embed(RUN, tmp_path / "e2.zarr", checkpoints=[9])


def test_the_store_is_labelled_and_plain_xarray_reads_it(tmp_path):
    workload = tiny_workload()
    embed(ik.record(workload), tmp_path / "e.zarr", dim=4)
    found = xr.open_zarr(tmp_path / "e.zarr")
    assert found.embedding.dims == ("step", "slot", "feature")
    assert {"step", "epoch", "lr", "example", "layer", "train"} <= set(found.coords)
    batch = found.batch.values
    ids = np.array(workload.train_ids)
    assert (found.example.values[batch >= 0] == ids[batch[batch >= 0]]).all()
    assert found.layer.values.tolist() == ["first"] * 4 + ["last"] * 4
    assert not found.embedding.values[batch < 0].any()


def test_neighbours_are_the_nearest_by_cosine_of_summed_embeddings(tmp_path):
    workload = tiny_workload()
    x, y = (v.clone() for v in workload.train)
    x[3], y[3] = x[0], y[0]  # a duplicate
    from dataclasses import replace

    found = embed(ik.record(replace(workload, train=(x, y))), tmp_path / "e.zarr", dim=None)
    nearest = neighbours(found, example=12, count=7)
    assert nearest.train.values[0] == 20  # the id of position 3
    assert (np.diff(nearest.values) <= 0).all() and 12 not in nearest.train.values
    summed = totals(found).values
    e = np.zeros_like(summed)
    for t, row in enumerate(found.batch.values):
        for s, j in enumerate(row):
            if j >= 0:
                e[j] += found.embedding.values[t, s]
    np.testing.assert_allclose(summed, e, **EXACT)
    own = float(summed[0] @ summed[3] / np.linalg.norm(summed[0]) / np.linalg.norm(summed[3]))
    assert float(nearest[0]) == pytest.approx(own)
    with pytest.raises(ik.InputError, match="no example has the id 99"):
        neighbours(found, example=99)


def test_a_store_that_was_not_finished_is_not_there(tmp_path):
    with pytest.raises(ik.InputError, match="3 positions for a batch of 4"):
        collected_wrongly(tmp_path / "g.zarr", lambda collect, rows: collect.step(rows[:3]))
    assert not list(tmp_path.iterdir())
    collected(tmp_path / "g.zarr")
    with pytest.raises(ik.InputError, match="exists already"):
        collected(tmp_path / "g.zarr")


def collected_wrongly(path, step, loss=None, **options):
    model, (x, y) = small_cnn().double(), WORKLOAD.train
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Collector(path, model, optimizer, **({"examples": 11, "slots": 4} | options)) as collect:
        for t in range(2):
            rows = WORKLOAD.plan.batch(t)
            optimizer.zero_grad()
            out = nn.functional.binary_cross_entropy_with_logits(model(x[rows]), y[rows])
            (loss or (lambda out, model: out))(out, model).backward()
            step(collect, rows)
            optimizer.step()


def twice(out, model):
    """As with accumulated gradients: another pass before the step."""
    out.backward()
    x, y = WORKLOAD.train
    return nn.functional.binary_cross_entropy_with_logits(model(x[:4]), y[:4])


@pytest.mark.parametrize(
    ("step", "loss", "options", "words"),
    [
        (lambda c, rows: None, None, {}, "no step was collected"),
        (lambda c, rows: c._steps or c.step(rows), None, {"slots": 3}, "slots of the largest batch"),
        (lambda c, rows: c.step(rows), None, {"reduction": "max"}, "must be 'mean' or 'sum', got 'max'"),
        (
            lambda c, rows: c.step(rows),
            lambda out, m: out + m[0].weight.norm(),
            {},
            "do not explain its gradient",
        ),
        (lambda c, rows: c.step(rows), None, {"l2": 0.1}, "do not explain its gradient"),
        (lambda c, rows: c.step(rows), twice, {}, "accumulated gradients"),
        (lambda c, rows: c.step(rows + 5), None, {}, "positions must be from 0 to 10"),
    ],
)
def test_a_loop_that_is_misunderstood_is_refused(tmp_path, step, loss, options, words):
    with pytest.raises(ik.InputError, match=words):
        collected_wrongly(tmp_path / "g.zarr", step, loss, **options)
    assert not list(tmp_path.iterdir())


def test_a_step_that_was_not_collected_is_noticed(tmp_path):
    seen = []

    def every_second(collect, rows):
        seen.append(rows)
        if len(seen) == 2:
            collect.step(rows)

    with pytest.raises(ik.InputError, match="1 updates and 0 collected steps"):
        collected_wrongly(tmp_path / "g.zarr", every_second)


def test_collectors_of_other_optimizers_are_refused(tmp_path):
    model = small_cnn()
    for optimizer in (
        torch.optim.Adam(model.parameters()),
        torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
    ):
        with pytest.raises(ik.InputError, match="derived for plain SGD"):
            Collector(tmp_path / "g.zarr", model, optimizer, examples=11, slots=4)


@pytest.mark.parametrize("name", ["embedding/c/0/0/0", "train/c/0", "zarr.json"])
def test_a_damaged_store_is_named(tmp_path, name):
    embed(RUN, tmp_path / "e.zarr", dim=6)
    file = tmp_path / "e.zarr" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 8
    file.write_bytes(data)
    with pytest.raises(ik.StoreError, match=f"e.zarr is damaged: {name} .*make it again"):
        scores(tmp_path / "e.zarr", "test-losses", WORKLOAD)
    file.unlink()
    with pytest.raises(ik.InfluenceKitError, match="e.zarr"):
        scores(tmp_path / "e.zarr", "test-losses", WORKLOAD)
