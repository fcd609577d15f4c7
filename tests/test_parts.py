"""Losses by part: scores of parts add up to their example, and each is what its weight does."""

import runpy
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_cli import fails
from helpers_cli import run as cli
from helpers_parts import (
    LENGTHS,
    LOSSES,
    OPTIMIZERS,
    PADDED,
    collated,
    mean,
    recorded,
    summed,
    taped,
    token_losses,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import influencekit as ik
from influencekit.testing import effect_by_part, gradient_by_part

TAPED = {
    "sgd": partial(taped, partial(torch.optim.SGD, lr=0.3, momentum=0.9, weight_decay=0.01)),
    "adamw, two micro-batches": partial(
        taped, partial(torch.optim.AdamW, lr=0.02, eps=0.01), accumulate=2, clip_norm=0.3
    ),
    "adam, a penalty": partial(taped, partial(torch.optim.Adam, lr=0.02, eps=0.01), reduction="mean"),
}
cached, run_taped = cache(recorded), cache(lambda name: TAPED[name]())


def gap(run, windows, removal="global", estimator="dit"):
    """How far the sums over parts are from the scores of examples, relative to the largest score."""
    whole = ik.estimate(run, "test-loss", estimator, windows, removal).influence
    parts = ik.estimate(run, "test-loss", estimator, windows, removal, parts=True).influence
    assert parts.dims == ("query", "window", "train", "part") and (parts.train == whole.train).all()
    return float(abs(parts.sum("part") - whole).max() / abs(whole).max())


@settings(max_examples=6, deadline=None)
@given(
    optimizer=st.sampled_from([*OPTIMIZERS]),
    loss=st.sampled_from([*LOSSES]),
    l2=st.sampled_from([0.0, 0.05]),
    window=st.tuples(st.integers(0, 2), st.integers(3, 4)),
    removal=st.sampled_from(["global", "window", "occurrence"]),
)
def test_parts_sum_to_their_example(optimizer, loss, l2, window, removal):
    """To rounding of float64, under every removal, with momentum, decay and clipping, and a penalty."""
    low, high = (3, 4) if removal == "occurrence" else window
    assert gap(cached(optimizer, loss, l2), [ik.Window(low, high, removal)]) < 1e-12


@pytest.mark.parametrize("name", TAPED)
@pytest.mark.parametrize("removal", ["global", "window", "occurrence"])
def test_parts_of_a_taped_run_sum_to_their_example(name, removal):
    """Batches of different widths, the mean over the tokens of a batch, micro-batches."""
    run = run_taped(name)
    windows = [ik.Window(2, 3, removal)] if removal == "occurrence" else [ik.Window(0, 3, removal)]
    assert gap(run, windows, removal) < 1e-12


def test_there_is_no_number_where_there_is_no_part():
    found = ik.estimate(cached(), parts=True).influence[0, 0]
    assert found.notnull().sum("part").values.tolist() == list(LENGTHS)
    assert found.sizes["part"] == max(LENGTHS) and (found.fillna(1) != 0).any("part").all()


@pytest.mark.parametrize("estimator", ["dit:curvature=gauss-newton", "sgd-influence"])
def test_parts_of_other_estimators_sum_to_their_example(estimator):
    assert gap(cached(), None, estimator=estimator) < 1e-12


def test_scores_of_parts_are_the_derivative_by_their_weights():
    """Central differences in the weight of one part, and autodiff through the unrolled run."""
    run = cached("adamw", "own weights", 0.05)
    query, window = ik.make("query", "test-loss"), ik.Window(0, run.steps)
    found = torch.tensor(ik.estimate(run, query, parts=True).influence.values[:, 0])
    exact = gradient_by_part(run.workload, query, window)
    assert (found.nan_to_num() - exact).abs().max() < 1e-10 * exact.abs().max()
    for part in [(0, 5), (6, 0)]:
        change, h = torch.zeros(8, 6, dtype=torch.float64), 1e-4
        change[part] = h
        up, down = (effect_by_part(run.workload, query, window, s * change) for s in (1, -1))
        slope = float((up - down) / (2 * h))
        assert slope == pytest.approx(float(found[0, *part]), rel=1e-5)


@pytest.mark.parametrize(("optimizer", "l2"), [("momentum", 0.05), ("adamw", 0.0)])
def test_leaving_out_one_part_is_retraining_with_weight_0_on_it(optimizer, l2):
    run = cached(optimizer, "mean", l2)
    query, windows = ik.make("query", "test-loss"), [ik.Window(0, run.steps), ik.Window(1, 3, "window")]
    found = ik.estimate(run, query, "loo", windows, parts=True).influence
    assert found.attrs == {} or found.notnull().sum() == 2 * sum(LENGTHS)
    for k, window in enumerate(windows):
        for part in [(0, 5), (2, 0)]:
            change = torch.zeros(8, 6, dtype=torch.float64)
            change[part] = 1
            expected = float(effect_by_part(run.workload, query, window, change))
            assert float(found[0, k, *part]) == pytest.approx(expected, rel=1e-8, abs=1e-13)


def test_leaving_out_a_part_of_a_taped_run_is_retraining_without_it():
    """The same loop, in which one token of one text has weight 0."""
    optimizer = partial(torch.optim.SGD, lr=0.3)
    text, token = 4, 2

    def without(outputs, target):
        found = summed(outputs, target)
        mine = (target[:, : LENGTHS[text]] == wanted[: target.shape[1]]).all(1)
        keep = torch.ones_like(found.weights)
        keep[mine, token] = 0
        return found._replace(weights=found.weights * keep)

    run = taped(optimizer)
    wanted = run.workload.examples(torch.tensor([text]))[1][0]
    other = taped(optimizer, loss=without)
    change = float(
        ik.make("query", "test-loss").evaluate(run.workload, other.final.theta)
        - ik.make("query", "test-loss").evaluate(run.workload, run.final.theta)
    )
    found = ik.estimate(run, "test-loss", "loo", parts=True).influence[0, 0, text, token]
    assert float(found) == pytest.approx(change, rel=1e-9)


def test_an_example_of_one_part_has_the_score_of_that_part_also_by_retraining():
    run = cached("momentum", "mean", 0.05)
    whole = ik.estimate(run, "test-loss", "loo").influence[0, 0]
    parts = ik.estimate(run, "test-loss", "loo", parts=True).influence[0, 0]
    assert float(parts[2, 0]) == pytest.approx(float(whole[2]), rel=1e-9)


def test_so_many_parts_are_retrained():
    found = ik.estimate(cached(), "test-loss", "loo:examples=5", parts=True)
    assert int(found.influence.notnull().sum()) == 5


def test_a_run_by_parts_is_replayed_bit_for_bit():
    run = taped(partial(torch.optim.SGD, lr=0.3), loss=mean, reduction="mean", recorder="full")
    for t in range(run.steps):
        again, losses = run.step.advance(run.state(t))
        assert torch.equal(again.theta, run.state(t + 1).theta)
        assert len(losses) in (2, 3)


def test_in_single_precision_parts_are_traced_and_sum_as_well():
    run = cached(dtype=torch.float32)
    found = ik.estimate(run, parts=True)
    assert found.attrs["note_derivatives"].startswith("forward over reverse")
    assert gap(run, None) < 1e-5


# contributions, queries, evaluation -----------------------------------------------------------------------


def test_contributions_of_parts_add_up_to_the_scores_of_parts(tmp_path):
    run, windows = cached("momentum", "mean", 0.05), [ik.Window(0, 4), ik.Window(1, 3)]
    scores = ik.estimate(run, "test-losses", "dit", windows, parts=True).influence
    for store in (None, tmp_path / "contributions.zarr"):
        found = ik.contributions(run, "test-losses", at=[1, 3, 4], parts=True, store=store)
        assert found.contribution.dims == ("query", "evaluation", "step", "slot", "part")
        assert (found.there == scores[0, 0].notnull()).all()
        added = ik.sum_over_windows(found, windows).influence
        np.testing.assert_allclose(added, scores, atol=1e-12 * float(abs(scores).max()))


def test_what_the_parts_of_a_test_example_add_is_its_loss_in_sum():
    run = cached("adamw", "own weights")
    losses = ik.estimate(run, "test-losses").influence[:, 0].values
    parts = ik.estimate(run, "test-parts").influence[:, 0].to_series()
    assert len(parts) == sum(LENGTHS) * 8 and parts.index[0] == ("0[0]", 0)
    by_example = parts.groupby([parts.index.get_level_values(0).str.split("[").str[0], "train"]).sum()
    np.testing.assert_allclose(by_example.unstack().values, losses, atol=1e-13)
    one = ik.estimate(run, "test-parts:example=3", parts=True).influence
    assert one["query"].values.tolist() == [f"3[{p}]" for p in range(LENGTHS[3])]
    np.testing.assert_allclose(one[:, 0].sum("part").sum("query"), losses[3], atol=1e-13)


@pytest.mark.parametrize(("query", "said"), [("test-parts:example=8", "0 to 7"), ("test-parts", "ik.Parts")])
def test_parts_of_a_test_example_that_are_not_there_are_refused(query, said):
    def plain(outputs, target):
        return mean(outputs, target).reduced()

    run = cached() if "=" in query else ik.record(ik.Workload(**{**vars_of(cached()), "loss": plain}))
    with pytest.raises(ik.InputError, match=said):
        ik.estimate(run, query)


def test_top_parts_are_left_out_beside_as_many_in_whole_examples():
    """The rises are those of retraining with weight 0 on these parts, in a plain loop."""
    run = cached("sgd", "mean")
    query, window = ik.make("query", "test-loss"), ik.Window(0, run.steps)
    found = ik.evaluate(run, "qld:fraction=0.2:draws=2:resamples=10:parts=true", query, ["dit"])
    (result,) = found.values()
    assert result.unit.values.tolist() == ["part", "example"] and result.k.item() == round(0.2 * sum(LENGTHS))
    scores = ik.estimate(run, query, "dit", parts=True).influence[0, 0].values
    top = np.zeros(scores.shape)
    top.ravel()[np.nan_to_num(scores, nan=-np.inf).ravel().argsort()[::-1][:6]] = 1
    expected = float(effect_by_part(run.workload, query, window, torch.tensor(top)))
    assert float(result.rise.sel(unit="part").squeeze()) == pytest.approx(expected, rel=1e-9)
    each = np.nanmean(scores, 1)
    best = int(each.argmax())  # of six parts, or the next best as well
    whole, order = np.zeros(scores.shape), each.argsort()[::-1]
    sizes = np.array(LENGTHS)[order].cumsum()
    whole[order[: abs(sizes - 6).argmin() + 1]] = 1
    assert whole[best].all()
    expected = float(effect_by_part(run.workload, query, window, torch.tensor(whole)))
    assert float(result.rise.sel(unit="example").squeeze()) == pytest.approx(expected, rel=1e-9)
    rows = ik.make("evaluation", "qld:parts=true").table(result).rows.index.tolist()
    assert rows[:2] == ["dit, by part", "dit, by example"] and "(rise without random parts)" in rows


def test_the_command_line_prints_the_parts_that_matter_most(tmp_path):
    """The store of a run whose code says how its loss tells parts apart."""
    file = tmp_path / "train.py"
    here = str(Path(__file__).parent)
    file.write_text(
        f"import sys\nsys.path.insert(0, {here!r})\n"
        "from helpers_parts import LOSSES, OPTIMIZERS, inputs, model, texts\nimport influencekit as ik\n"
        "work = ik.Workload(model=model(), loss=LOSSES['mean'], train=inputs(texts()),"
        " test=inputs(texts(1)), optimizer=OPTIMIZERS['sgd'], epochs=2, batch_size=3, drop_last=True)\n"
    )
    code = ["--code", f"{file}:work"]
    store = str(tmp_path / "run.zarr")
    ik.record(runpy.run_path(str(file))["work"], store=store)
    asked = ("--parts", "--top", "2", "--verify-top", "2", "--out", str(tmp_path / "scores.csv"))
    shown = cli("estimate", store, *code, *asked).output
    assert "\npart " in shown and "without the part minus with it" in shown and "all parts; " in shown
    assert "example" not in shown
    scores = ik.estimate(cached(), parts=True).influence[0, 0].to_series().dropna()
    worst, best = scores.idxmin(), scores.idxmax()
    for example, part in (worst, best):
        assert f"{example}[{part}]" in shown
    rows = (tmp_path / "scores.csv").read_text().splitlines()
    assert len(rows) == 1 + sum(LENGTHS) and f"{worst[0]}[{worst[1]}]" in rows[1]
    assert "which are about examples" in fails(
        "estimate", store, *code, "--parts", "--trust", "retrain", code=2
    )


def test_qld_by_part_refuses_who_cannot_tell_them_apart():
    with pytest.raises(ik.InputError, match="does not tell parts of an example apart"):
        ik.evaluate(cached(), "qld:parts=true", "test-loss", ["if"])
    with pytest.raises(ik.InputError, match="pass estimators=, not scores="):
        ik.evaluate(cached(), "qld:parts=true:draws=2", scores=ik.estimate(cached()))


# what is refused ----------------------------------------------------------------------------------------


def left_padded(examples):
    """As `collated`, with the padding in front, so that a token's column depends on its batch."""
    x, y = collated(examples)
    for row, other in zip(x, y, strict=True):
        count = int((other != PADDED).sum())
        row.copy_(row.roll(len(row) - count))
        other.copy_(other.roll(len(other) - count))
    return x, y


def test_parts_that_move_between_batches_are_refused():
    run = taped(partial(torch.optim.SGD, lr=0.3), collate=left_padded)
    assert ik.estimate(run).influence.notnull().all()
    with pytest.raises(ik.InputError, match=r"at step \d the example at position \d has a part in column"):
        ik.estimate(run, parts=True)


def test_parts_that_come_and_go_are_refused():
    """Weights that depend on the model: there may be more parts later than at first."""

    def hard(outputs, target):
        losses = token_losses(outputs, target)
        return ik.Parts(losses, ((losses > 1.9) & (target != PADDED)).to(losses))

    run = ik.record(ik.Workload(**{**vars_of(cached()), "loss": hard}))
    for verb in (ik.estimate, ik.contributions):
        with pytest.raises(ik.InputError, match="and none there when it is looked at by itself"):
            verb(run, parts=True)


def vars_of(run):
    work = run.workload
    names = ("model", "loss", "train", "test", "optimizer", "epochs", "batch_size", "drop_last")
    return {name: getattr(work, name) for name in names}


def test_a_loss_of_one_number_has_no_parts():
    def plain(outputs, target):
        return mean(outputs, target).reduced()

    run = ik.record(ik.Workload(**{**vars_of(cached()), "loss": plain}))
    with pytest.raises(ik.InputError, match=r"let it return ik\.Parts"):
        ik.estimate(run, parts=True)


@pytest.mark.parametrize("estimator", ["if", "dit:curvature=fisher", "dit:centre=0.5"])
def test_an_estimator_that_does_not_tell_parts_apart_says_so(estimator):
    with pytest.raises(ik.InputError, match="does not tell parts of an example apart; use dit or loo"):
        ik.estimate(cached(), "test-loss", estimator, parts=True)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda x, m: ik.Parts(x.sum(1), m), r"expected losses \[batch, part\]"),
        (lambda x, m: ik.Parts(x, m[:, :2]), "expected one weight for each loss"),
        (lambda x, m: ik.Parts(x, None), "expected one weight for each loss"),
        (lambda x, m: ik.Parts.mean(x, None), r"^Parts\.mean: expected mask .* got None; .*ones_like"),
        (
            lambda x, m: ik.Parts.sum(x, True),
            r"^Parts\.sum: expected mask \[batch, column\], a tensor, got True",
        ),
        (lambda x, m: ik.Parts.sum(x.tolist(), m), r"^Parts\.sum: expected losses \[batch, column\], a tens"),
        (lambda x, m: ik.Parts(x.long(), m), "in floating point"),
        (lambda x, m: ik.Parts(x[:2], m[:2]), "one value per example"),
        (lambda x, m: x, r"or return ik\.Parts"),
    ],
)
def test_parts_of_another_shape_are_refused_in_one_line(made, said):
    def loss(outputs, target):
        losses = token_losses(outputs, target)
        return made(losses, (target != PADDED).to(losses))

    with pytest.raises(ik.InputError, match=said):
        ik.record(ik.Workload(**{**vars_of(cached()), "loss": loss}))


def test_an_example_without_a_part_and_with_a_penalty_is_refused():
    def first_only(outputs, target):
        found = mean(outputs, target)
        return found._replace(weights=found.weights * (target[:, 1:2] != PADDED))

    work = vars_of(cached())
    run = ik.record(ik.Workload(**{**work, "loss": first_only, "l2": 0.1, "drop_last": True}))
    with pytest.raises(ik.InputError, match="the example at position 2 has none, and l2= gives it a penalty"):
        ik.estimate(run, parts=True)
    run = ik.record(ik.Workload(**{**work, "loss": first_only}))
    found = ik.estimate(run, parts=True).influence[0, 0]
    assert found[2].isnull().all() and np.isfinite(found[1, 0])
