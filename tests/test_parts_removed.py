"""Parts of examples that are left out one by one, or as a set: the exact effect beside the scores."""

import runpy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from helpers_cli import run as cli
from helpers_parts import LENGTHS, recorded, summed, taped
from hypothesis import given, settings
from hypothesis import strategies as st

import influencekit as ik
from influencekit.testing import effect_by_part

PARTS = [(i, p) for i, n in enumerate(LENGTHS) for p in range(n)]
cached = cache(recorded)


def plain_effect(run, rows):
    """Training with weight 0 on these parts, in a plain loop."""
    change = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.float64)
    for row in rows:
        change[row] = 1
    return float(effect_by_part(run.workload, ik.make("query", "test-loss"), ik.Window(0, run.steps), change))


@settings(max_examples=8, deadline=None)
@given(
    rows=st.lists(st.sampled_from(PARTS), min_size=1, max_size=8, unique=True),
    kind=st.sampled_from([("sgd", "mean", 0.0), ("adamw", "own weights", 0.05)]),
    order=st.randoms(),
)
def test_a_set_of_parts_is_removed_as_a_plain_loop_does_it_in_any_order(rows, kind, order):
    run = cached(*kind)
    found = ik.remove(run, "test-loss", rows)
    scores = ik.estimate(run, parts=True).influence[0, 0].values
    assert found.retrained.item() == pytest.approx(plain_effect(run, rows), rel=1e-8, abs=1e-13)
    assert found.estimate.item() == pytest.approx(sum(scores[row] for row in rows), rel=1e-12)
    assert found.after.item() == pytest.approx((found.before + found.retrained).item(), rel=1e-12)
    assert sorted(found.train.values) == sorted(f"{i}[{p}]" for i, p in rows)
    assert (np.diff(abs(found.influence[0, 0].values)) <= 0).all()
    order.shuffle(rows)
    xr.testing.assert_identical(found, ik.remove(run, "test-loss", iter(rows)))
    assert "example" not in found.verdict


@pytest.mark.parametrize("l2", [0.0, 0.05])
@pytest.mark.parametrize("example", [1, 2])
def test_all_parts_of_an_example_are_the_example(example, l2):
    run = cached("momentum", "mean", l2)
    whole = ik.remove(run, "test-loss", [example])
    parts = ik.remove(run, "test-loss", [(example, p) for p in range(LENGTHS[example])])
    for name in ("estimate", "retrained", "before", "after"):
        assert parts[name].item() == pytest.approx(whole[name].item(), rel=1e-9)


def test_windows_and_averages_are_those_of_examples():
    run, windows = cached("adamw"), [ik.Window(0, 2), ik.Window(1, 3, "window")]
    rows = [(0, 0), (3, 4), (4, 1)]
    found = ik.remove(run, "test-loss", rows, windows=windows)
    query = ik.make("query", "test-loss")
    for k, window in enumerate(windows):
        change = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.float64)
        for row in rows:
            change[row] = 1
        expected = float(effect_by_part(run.workload, query, window, change))
        assert float(found.retrained[0, k]) == pytest.approx(expected, rel=1e-8)
    averaged = ik.remove(run, "test-loss", rows, average="swa:start=1")
    again = ik.remove(run, "test-loss", rows, ik.estimate(run, average="swa:start=1", parts=True))
    assert averaged.retrained.item() == again.retrained.item() != float(found.retrained[0, 0])


@pytest.mark.parametrize("which", ["harmful", "helpful"])
def test_the_top_parts_are_verified_as_loo_leaves_them_out(which):
    run = cached("momentum", "mean", 0.05)
    found = ik.verify_top(run, "test-loss", "dit", 4, which, parts=True)
    scores, exact = (ik.estimate(run, "test-loss", e, parts=True).influence[0, 0] for e in ("dit", "loo"))
    rows = list(zip(found.id.values.tolist(), found.part.values.tolist(), strict=True))
    flat = np.sort(scores.values[np.isfinite(scores.values)])
    assert (
        found.estimate[0, 0].values.tolist() == (flat[:4] if which == "harmful" else flat[::-1][:4]).tolist()
    )
    assert found.train.values.tolist() == [f"{i}[{p}]" for i, p in rows]
    for k, row in enumerate(rows):
        assert float(found.estimate[0, 0, k]) == float(scores[row])
        assert float(found.retrained[0, 0, k]) == float(exact[row])
    again = ik.verify_top(run, "test-loss", ik.estimate(run, parts=True), 4, which, parts=True)
    xr.testing.assert_identical(found, again)
    assert (
        ik.remove(run, "test-loss", zip(found.id.values, found.part.values, strict=True)).sizes["train"] == 4
    )


def test_parts_of_a_taped_run_are_removed_as_its_loop_would():
    """Batches of different widths: the same loop, with weight 0 on a token of each of two texts."""
    rows = [(0, 2), (5, 1)]
    made = taped(torch.optim.AdamW)
    texts = [made.workload.examples(torch.tensor([i]))[1][0] for i, _ in rows]

    def without(outputs, target):
        found = summed(outputs, target)
        keep = torch.ones_like(found.weights)
        for (text, token), wanted in zip(rows, texts, strict=True):
            mine = (target[:, : LENGTHS[text]] == wanted[: target.shape[1]][: LENGTHS[text]]).all(1)
            keep[mine, token] = 0
        return found._replace(weights=found.weights * keep)

    other, query = taped(torch.optim.AdamW, loss=without), ik.make("query", "test-loss")
    change = query.evaluate(made.workload, other.final.theta) - query.evaluate(
        made.workload, made.final.theta
    )
    assert ik.remove(made, "test-loss", rows).retrained.item() == pytest.approx(float(change), rel=1e-9)


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        ([(0, 0), (0, 0)], {}, "part 0 of example '0' is named twice; name each part once"),
        ([(2, 1)], {}, r"example '2' has no part 1; its parts are \[0\]"),
        ([(0, -1)], {}, "example '0' has no part -1"),
        ([(0, 99)], {}, "example '0' has no part 99"),
        ([(8, 0)], {}, "no training example '8'; there are 8"),
        ([(0, 0), 3], {}, r"expected rows \(id, part\) only, got 3 among them"),
        ([(0, 0, 1)], {}, r"expected rows \(id, part\) only, got \(0, 0, 1\)"),
        ([(0, 0.5)], {}, "a part to remove"),
        (PARTS, {}, "these 30 parts are all that the run trains on"),
        ([(0, 0)], {"runs": 2}, "runs must be at least 3, got 2"),
        ([(0, 0)], {"estimator": "if"}, "does not tell parts of an example apart"),
        ([(0, 0)], {"estimator": "scores"}, r"expected what estimate\(..., parts=True\) gives"),
        ([(0, 0)], {"estimator": "loo:examples=2"}, r"some of these parts have no score \(NaN\)"),
        ([(0, 0)], {"estimator": "fewer"}, "they are of 5 parts an example, which has 6 here"),
    ],
)
def test_parts_that_cannot_be_removed_are_refused_in_one_line(rows, more, said):
    run = cached()
    if more.get("estimator") in ("scores", "fewer"):
        scores = ik.estimate(run, parts=more["estimator"] == "fewer")
        more = {"estimator": scores.isel(part=slice(5)) if "part" in scores.dims else scores}
    with pytest.raises(ik.InputError, match=said) as caught:
        ik.remove(run, "test-loss", rows, **more)
    assert "\n" not in str(caught.value)


def test_a_table_of_numbers_names_parts():
    rows = [(4, 1), (0, 5)]
    wanted = ik.remove(cached(), "test-loss", rows)
    for table in (np.array(rows), torch.tensor(rows), set(rows)):
        xr.testing.assert_identical(wanted, ik.remove(cached(), "test-loss", table))


def test_the_command_line_verifies_the_top_parts(tmp_path):
    file = tmp_path / "train.py"
    file.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from helpers_parts import LOSSES, OPTIMIZERS, inputs, model, texts\nimport influencekit as ik\n"
        "work = ik.Workload(model=model(), loss=LOSSES['mean'], train=inputs(texts()),"
        " test=inputs(texts(1)), optimizer=OPTIMIZERS['sgd'], epochs=2, batch_size=3, drop_last=True)\n"
    )
    store, code = str(tmp_path / "run.zarr"), ["--code", f"{file}:work"]
    ik.record(runpy.run_path(str(file))["work"], store=store)
    wanted = ik.verify_top(cached(), top=2, parts=True)
    shown = cli(
        "estimate", store, *code, "--parts", "--verify-top", "2", "--out", str(tmp_path / "scores.nc")
    ).output
    assert "the 2 most harmful, retrained without each" in shown
    saved = xr.open_dataset(tmp_path / "scores.nc")
    assert int(saved.retrained.notnull().sum()) == 2
    for k, (row, part) in enumerate(zip(wanted.id.values, wanted.part.values, strict=True)):
        assert f"{row}[{part}]" in shown and f"{float(wanted.retrained[0, 0, k]):+.3e}" in shown
        at = saved.retrained.isel(train=int(row), part=int(part))
        assert float(at.squeeze()) == float(wanted.retrained[0, 0, k])
    cli("estimate", store, *code, "--parts", "--verify-top", "2", "--out", str(tmp_path / "scores.csv"))
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert "retrained" in lines[0] and len(lines) == 1 + sum(LENGTHS)


@pytest.mark.parametrize(
    "ask",
    [
        lambda run, scores: ik.verify_top(run, "test-loss", scores),
        lambda run, scores: ik.remove(run, "test-loss", [0], scores),
        lambda run, scores: ik.trust(run, "test-loss", scores),
    ],
    ids=["verify_top", "remove", "trust"],
)
def test_scores_of_parts_where_examples_are_asked_about_are_named(ask):
    run = cached("sgd", "mean", 0.0)
    with pytest.raises(ik.InputError, match="these are the scores of parts, and whole examples are asked"):
        ask(run, ik.estimate(run, parts=True))
