"""Contributions: their sums are the windows' scores, whatever they were computed from and kept in."""

import dask.array
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import influencekit as ik
from influencekit import InputError, StoreError, Window
from influencekit._verbs import contributions as occurrences
from influencekit.testing import oracle
from influencekit.testing.setting import OPTIMIZERS, queries, recorded
from influencekit.windows import REMOVALS

each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def close(found, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * scale)


def all_windows(steps):
    return [Window(a, b, r) for r in REMOVALS for a in range(steps) for b in range(a + 1, steps + 1)]


@each_optimizer
def test_every_window_under_every_removal_is_a_sum_of_contributions(optimizer):
    run = recorded(optimizer)
    windows = all_windows(run.steps)
    found = ik.contributions(run, queries(), at=range(1, run.steps + 1))
    close(
        ik.sum_over_windows(found, windows).influence, ik.estimate(run, queries(), "dit", windows).influence
    )


@each_optimizer
def test_one_sweep_for_many_windows_gives_what_each_window_alone_gives(optimizer):
    run = recorded(optimizer)
    windows = all_windows(run.steps)[::5]
    together = ik.estimate(run, queries(), "dit", windows).influence
    alone = [ik.estimate(run, queries(), "dit", [w]).influence.values for w in windows]
    close(together, np.concatenate(alone, 1))


def test_windows_equal_retraining_under_all_removals_where_first_order_is_exact():
    workload, positions = oracle.quadratic_workload(ik.SGD(lr=0.1, momentum=0.8))
    vectors = torch.randn(
        2, workload.n_params, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    query, run = ik.make("query", "vector", vector=vectors), ik.record(workload)
    windows = [Window(a, b, r) for r in REMOVALS for a, b in ((0, run.steps), (2, 5), (3, 4))]
    found = ik.sum_over_windows(ik.contributions(run, query, at=[2, 3, 4, 5, run.steps]), windows)
    close(found.influence[..., positions], oracle.retrained(workload, query, windows, positions).numpy())


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_adjoining_windows_add_up(data):
    run = recorded("adamw")
    found = ik.contributions(run, queries(), at=range(1, run.steps + 1))
    a, b, c = sorted(data.draw(st.sets(st.integers(0, run.steps), min_size=3, max_size=3)))
    for removal in ("global", "occurrence"):
        parts = ik.sum_over_windows(found, [Window(a, b, removal), Window(b, c, removal)]).influence.sum(
            "window"
        )
        whole = ik.sum_over_windows(found, [Window(a, c, removal)]).influence[:, 0]
        np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-12 * float(np.abs(found.contribution).max()))


@pytest.mark.parametrize("removal", ["global", "occurrence"])
def test_scores_of_each_epoch_join_to_those_of_larger_windows(removal):
    run = recorded("adamw")
    each = ik.estimate(run, queries(), "dit", "each-epoch", removal)
    ends = [0, *each.stop.values.tolist()]
    larger = [Window(a, b, removal) for k, a in enumerate(ends) for b in ends[k + 1 :]]
    expected = ik.estimate(run, queries(), "dit", larger)
    xr.testing.assert_allclose(ik.sum_over_windows(each, larger), expected, rtol=0, atol=1e-12)
    for windows in ([Window(1, run.steps, removal)], [Window(0, 1, removal)], "full"):
        with pytest.raises(InputError, match=r"is not a sum of the windows|a list of Windows"):
            ik.sum_over_windows(each, windows)


def test_windows_in_which_alone_an_example_is_absent_do_not_join():
    each = ik.estimate(recorded("adamw"), queries(), "dit", "each-epoch", "window")
    first = Window(0, int(each.stop[0]), "window")
    xr.testing.assert_equal(ik.sum_over_windows(each, [first]).influence[:, 0], each.influence[:, 0])
    with pytest.raises(InputError, match="with window removal is not a sum"):
        ik.sum_over_windows(each, [Window(0, int(each.stop[1]), "window")])


def test_an_evaluation_sees_nothing_of_later_steps_and_padding_contributes_nothing():
    run = recorded("adam")
    found = ik.contributions(run, queries(), at=[2, 4])
    assert not found.contribution.sel(evaluation=2, step=slice(2, None)).any()
    assert found.contribution.sel(evaluation=2, step=slice(0, 1)).any()
    assert not found.contribution.where(found.batch < 0, 0).any()


@pytest.mark.parametrize(("chunk", "held"), [(1 << 22, 1 << 28), (150, 1 << 28), (1 << 22, 3000), (1, 1)])
def test_a_store_holds_the_same_numbers_lazily_in_chunks_of_any_size(chunk, held, tmp_path, monkeypatch):
    monkeypatch.setattr(occurrences, "_CHUNK", chunk)
    monkeypatch.setattr(occurrences, "_HELD", held)
    run = recorded("adamw", "every-k:k=3")
    near = ik.contributions(run, queries(), at=[2, run.steps])
    far = ik.contributions(run, queries(), at=[2, run.steps], store=tmp_path / "c.zarr")
    assert isinstance(far.contribution.data, dask.array.Array)
    xr.testing.assert_equal(far.compute(), near)
    assert far.contribution.dtype == near.contribution.dtype and far.attrs == near.attrs
    again = xr.open_zarr(tmp_path / "c.zarr")
    xr.testing.assert_equal(ik.sum_over_windows(again, "full"), ik.sum_over_windows(near, "full"))
    assert [p.name for p in tmp_path.iterdir()] == ["c.zarr"]


def test_several_passes_give_the_same_numbers(monkeypatch):
    run = recorded("adamw")
    expected = ik.contributions(run, queries())
    monkeypatch.setattr(type(run.step), "capacity", lambda self, memory, examples=None: 2)
    close(ik.contributions(run, queries()).contribution, expected.contribution)
    windows = all_windows(run.steps)[::7]
    few = ik.estimate(run, queries(), "dit", windows).influence
    monkeypatch.undo()
    close(few, ik.estimate(run, queries(), "dit", windows).influence)


def test_each_epoch_is_what_contributions_are_evaluated_for_by_default():
    run = recorded("sgd")
    found = ik.contributions(run, queries(), "dit:curvature=fisher")
    expected = ik.estimate(run, queries(), "dit:curvature=fisher", "each-epoch")
    xr.testing.assert_allclose(ik.sum_over_windows(found, "each-epoch"), expected)
    assert found.attrs == expected.attrs and found.attrs["note_curvature"] == "fisher"


def test_a_lost_chunk_is_never_read_as_zero(tmp_path):
    ik.contributions(recorded("sgd"), store=tmp_path / "c.zarr")
    for chunk in (tmp_path / "c.zarr" / "contribution" / "c").rglob("*"):
        if chunk.is_file():
            chunk.unlink()
    with pytest.raises(StoreError, match="a chunk of them was lost"):
        ik.sum_over_windows(xr.open_zarr(tmp_path / "c.zarr"))


@pytest.mark.parametrize("name", ["contribution", "batch", "epoch"])
def test_a_damaged_chunk_is_refused_whichever_bit_of_it_changed(name, tmp_path):
    ik.contributions(recorded("sgd"), store=tmp_path / "c.zarr")
    chunk = max((p for p in (tmp_path / "c.zarr" / name / "c").rglob("*") if p.is_file()), key=str)
    whole = chunk.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 16)):
        chunk.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        found = xr.open_zarr(tmp_path / "c.zarr")
        with pytest.raises(StoreError, match=f"{name} cannot be read, a chunk of it is damaged") as error:
            ik.sum_over_windows(found)
        assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match="checksum"):  # of xarray itself
            found[name].load()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"estimator": "loo"}, "loo does not tell occurrences apart; use dit"),
        ({"at": []}, "expected states to evaluate at, from 1 to"),
        ({"at": [0]}, "expected states to evaluate at, from 1 to"),
        ({"at": [10**6]}, "expected states to evaluate at, from 1 to"),
        ({"at": "epoch:99"}, "reaches outside the run"),
        ({"store": "nowhere/c.zarr"}, "nowhere/c.zarr cannot be written: No such file"),
        ({"store": "."}, "exists already"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_leaves_nothing(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((InputError, StoreError), match=words) as error:
        ik.contributions(recorded("sgd"), **arguments)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_window_without_its_evaluations_says_which_are_missing():
    found = ik.contributions(recorded("sgd"), at=[2, 5])
    with pytest.raises(InputError, match=r"window \[1, 5\) with global removal needs the effect at state 1"):
        ik.sum_over_windows(found, [Window(1, 5)])
    assert ik.sum_over_windows(found, [Window(1, 5, "window")]).influence.any()
