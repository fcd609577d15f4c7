"""Recorders that are not lossless: what is stored, that everybody is told, and what one may do with it."""

from dataclasses import replace

import helpers_writing
import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from helpers_cli import TINY, run
from helpers_stores import sealed
from hypothesis import given
from hypothesis import strategies as st

import influencekit as ik
from influencekit._training.step import Step
from influencekit._verbs.verify import verify
from influencekit.recorders import Rounded
from influencekit.testing import tiny_workload

WORKLOAD = tiny_workload(ik.Adam(lr=0.05), dtype=torch.float32)
LONG = replace(WORKLOAD, order=WORKLOAD.plan.indices.repeat(4, 1))
numbers = st.floats(width=32, allow_nan=False)


@given(values=st.lists(numbers, min_size=1, max_size=20), bits=st.integers(1, 23))
def test_rounded_is_the_nearest_number_with_so_many_bits(values, bits):
    """Against exact arithmetic: the mantissa as a whole number, Python's round half to even."""
    given = np.array(values, dtype=np.float32)
    found = Rounded(bits).quantize(given.copy())
    for x, y in zip(given.tolist(), found.tolist(), strict=True):
        if x == 0 or abs(x) < np.finfo(np.float32).tiny or not np.isfinite(x):
            continue  # zeros and infinities are the suite's; below the normal numbers there are fewer bits
        _, exponent = np.frexp(x)
        unit = 2.0 ** (int(exponent) - 1 - bits)
        expected = round(x / unit) * unit
        assert y == expected or (np.isinf(y) and abs(expected) > float(np.finfo(np.float32).max))


def test_rounded_to_7_bits_is_bfloat16_as_torch_rounds():
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 100
    assert torch.equal(torch.from_numpy(Rounded(7).quantize(x.numpy())), x.bfloat16().float())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_it_rounds_other_dtypes_and_leaves_those_that_have_no_more_bits(dtype):
    x = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype).numpy()
    found = Rounded(10).quantize(x)
    assert found.dtype == x.dtype and abs(found / x - 1).max() <= 2.0**-11
    assert (found == x).all() == (dtype == torch.float16)


def test_a_rounded_store_is_smaller_reads_with_plain_xarray_and_is_exact_at_both_ends(tmp_path):
    sizes = {}
    for recorder in ("full", "rounded:bits=7", "rounded:bits=4"):
        path = tmp_path / recorder.replace(":", "-")
        ik.record(LONG, recorder, path)
        sizes[recorder] = sum(f.stat().st_size for f in path.rglob("theta/c/**/*") if f.is_file())
    assert sizes["full"] > 1.5 * sizes["rounded:bits=7"] > 1.5 * 1.05 * sizes["rounded:bits=4"]
    whole, near = (xr.open_zarr(tmp_path / name) for name in ("full", "rounded-bits=7"))
    for name in ("theta", "exp_avg", "exp_avg_sq"):
        a, b = whole[name].values, near[name].values
        assert (a[[0, -1]] == b[[0, -1]]).all() and a.dtype == b.dtype
        assert not (a == b).all() and (abs(b - a) <= abs(a) * 2.0**-8).all()
    assert near.attrs["lossless"] is False and whole.attrs["lossless"] is True


def test_results_and_verify_say_that_it_is_not_lossless(tmp_path):
    """Scores come near those of `full`, with a caution; verify takes the store for what it is."""
    exact = ik.estimate(ik.record(LONG))
    near = ik.estimate(ik.record(LONG, "rounded:bits=10"))
    error = abs(near.influence - exact.influence).max() / abs(exact.influence).max()
    assert 0 < error < 0.05
    assert "caution" not in exact.attrs and "rounded:bits=10, which is not lossless" in near.attrs["caution"]
    path = tmp_path / "run.zarr"
    run("record", TINY, "--store", path, "--recorder", "rounded:k=2")
    said = run("verify", path).output
    assert "recorder rounded:k=2, which is not lossless" in said
    assert "are not the run's own but what rounded:k=2 makes of them (not lossless)" in said
    shown = " ".join(run("estimate", path).output.split())
    assert "Beware: the states were stored by rounded:k=2, which is not lossless" in shown
    words = run("compare", TINY, "--recorder", "rounded:k=2", "--estimators", "dit").output
    assert "Beware: the states were stored by rounded:k=2, which is not lossless" in " ".join(words.split())


@pytest.mark.parametrize("window", [None, (3, 20)])
def test_verify_finds_a_changed_number_in_a_rounded_store(tmp_path, window):
    path = tmp_path / "run.zarr"
    near = ik.record(LONG, "rounded:bits=7:k=3", path, window)
    assert verify(near).steps == near.last - near.first and verify(near).gap == 0
    assert verify(near, spans=2).steps == 6
    theta = zarr.open_group(path, mode="r+")["theta"]
    row = theta[2]
    row[5] *= 1 + 2.0**-7
    theta[2] = row
    sealed(path)
    with pytest.raises(ik.StoreError, match="trained again, are not what was recorded: parameter"):
        verify(ik.open(path, LONG))


def cut_off(monkeypatch, path, recorder, window=None) -> None:
    original = Step.advance

    def advance(self, state):
        if state.step == 10:
            raise KeyboardInterrupt
        return original(self, state)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Step, "advance", advance)
        ik.record(LONG, recorder, path, window)


@pytest.mark.parametrize("window", [None, (4, 20)])
def test_a_rounded_recording_is_continued_to_the_same_bits(tmp_path, monkeypatch, window):
    """Its steps are trained again, since the state it stopped at is not exact."""
    path = tmp_path / "run.zarr"
    cut_off(monkeypatch, path, "rounded:k=4", window)
    again = ik.record(LONG, store=path, resume=True)
    ik.record(LONG, "rounded:k=4", tmp_path / "whole.zarr", window)
    helpers_writing.same(path, helpers_writing.contents(tmp_path / "whole.zarr"))
    assert again.last == (24 if window is None else 20)


def test_a_rounded_recording_whose_steps_do_not_come_again_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "run.zarr"
    cut_off(monkeypatch, path, "rounded:k=4")
    original = Step.advance

    def advance(self, state):
        new, losses = original(self, state)
        return (new._replace(theta=new.theta * 1.01) if state.step == 5 else new), losses

    with monkeypatch.context() as patch:
        patch.setattr(Step, "advance", advance)
        for _ in range(2):  # it lets go of the store
            with pytest.raises(ik.StoreError, match="here they do not end in the same state"):
                ik.record(LONG, store=path, resume=True)


@pytest.mark.parametrize("spec", ["rounded:bits=0", "rounded:bits=52", "rounded:k=0"])
def test_what_rounded_refuses(spec):
    with pytest.raises(ik.InputError, match="rounded: (bits|k) must be"):
        ik.make("recorder", spec)
