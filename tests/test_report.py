"""The numbers of a report are those of the results that it was made of."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
import xarray as xr
from helpers_report import N, report, retrained, run, scores, workload
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from torch import nn

import influencekit as ik
from influencekit._report.issues import issues_of
from influencekit._report.patterns import PATTERNS, halves, patterns
from influencekit._report.scores import Verified, whole

finite = st.floats(-1e3, 1e3, allow_nan=False, width=32)
nan = np.nan


def by_row(found=None):
    return {one.row: one for one in (found or report()).record.examples}


def test_scores_are_the_sums_of_the_windows_which_are_the_scores_of_the_whole_run():
    shown, full = by_row(), ik.estimate(run()).influence.values[0, 0]
    assert sorted(shown) == list(range(N))
    np.testing.assert_allclose([shown[k].score for k in range(N)], full, rtol=1e-4, atol=1e-8)
    windows = scores().influence.values[0]
    np.testing.assert_allclose([shown[k].windows for k in range(N)], windows.T, rtol=1e-2)


def test_the_window_that_is_verified_is_the_one_that_is_shown():
    one = whole(scores())
    assert (int(one.start[0]), int(one.stop[0])) == (0, run().steps) and one.sizes["window"] == 1
    np.testing.assert_allclose(one.influence.values[0, 0], scores().influence.values[0].sum(0), rtol=1e-5)


def test_windows_of_other_removals_are_averaged_and_cannot_be_retrained_as_one():
    found = ik.estimate(run(), windows="each-epoch", removal="window")
    shown = by_row(ik.report(run(), found))
    np.testing.assert_allclose(
        [shown[k].score for k in range(N)], found.influence.values[0].mean(0), rtol=1e-4
    )
    with pytest.raises(ik.InputError, match="no window that can be retrained"):
        whole(found)


def test_ranks_run_from_the_most_harmful():
    values = [one.score for one in report().record.examples]
    assert values == sorted(values) and [one.rank for one in report().record.examples] == list(
        range(1, N + 1)
    )


def test_losses_and_predictions_are_those_of_the_last_state():
    w, theta = workload(), run().final.theta
    losses, outputs = w.losses(theta, w.train), w.outputs(theta, w.train)
    names = w.info["classes"]
    for row, one in by_row().items():
        assert one.loss == pytest.approx(float(losses[row]), rel=1e-5)
        assert (
            one.prediction == names[int(outputs[row].argmax())] and one.label == names[int(w.train[1][row])]
        )


def test_a_prediction_of_one_logit_is_read_as_the_accuracy_reads_it():
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0] > 0).float()
    w = ik.Workload(
        model=nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), loss=nn.BCEWithLogitsLoss(reduction="none"),
        train=(x, y), test=(x, y), optimizer=ik.SGD(lr=1.0), epochs=5, batch_size=10,
    )  # fmt: skip
    trained = ik.record(w)
    shown = by_row(ik.report(trained, ik.estimate(trained)))
    right = np.mean([one.prediction == one.label for one in shown.values()])
    assert right == pytest.approx(w.accuracy(trained.final.theta, w.train), abs=1e-6)
    assert {one.prediction for one in shown.values()} == {"0", "1"}


def test_pictures_are_the_inputs_on_one_scale_for_the_page():
    low, high = np.percentile(workload().train[0], (0.5, 99.5))
    shown = [(one, workload().train[0][one.row, 0].numpy()) for one in report().record.examples]
    shown += [(one, workload().test[0][int(one.id.split()[1]), 0].numpy()) for one in report().record.points]
    for one, x in shown:
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(one.content.value)))).astype(float)
        expected = np.clip((x - low) / (high - low), 0, 1)
        np.testing.assert_allclose(image / 255, expected, atol=1 / 255)


def test_retrained_values_are_those_of_leave_one_out():
    truth = retrained().influence.values[0, 0]
    np.testing.assert_allclose([by_row()[k].retrained.value for k in range(N)], truth, rtol=1e-4, atol=1e-9)
    agreed = dict((m, v) for m, v, _ in report().record.agreement.metrics)
    mine = whole(scores()).influence.values[0, 0]
    assert agreed["pearson"] == pytest.approx(np.corrcoef(mine, truth)[0, 1], abs=1e-3)


def test_a_ceiling_brings_intervals_and_trust_what_it_retrained():
    top = ik.ceiling(run(), runs=3, moved=0.01)
    shown = by_row(ik.report(run(), scores(), ceiling=top))
    for k in range(N):
        found = shown[k].retrained
        expected = [float(top[n][0, 0, k]) for n in ("mean", "low", "high")]
        assert [found.value, found.low, found.high] == pytest.approx(expected, rel=1e-4)
    agreed = ik.report(run(), scores(), ceiling=top).record.agreement
    reached = top.ceiling.sel(target="expected-loo").mean(("query", "window"))
    assert {m: t for m, _, t in agreed.metrics} == pytest.approx(
        {m: float(reached.sel(metric=m)) for m in reached.metric.values.tolist()}, abs=1e-3
    )
    assert "mean of 3 runs" in agreed.note
    trusted = ik.trust(run(), "test-loss", whole(scores()), examples=4)
    few = [one for one in by_row(ik.report(run(), scores(), trust=trusted)).values() if one.retrained]
    assert len(few) == trusted.sizes["train"]


def test_points_have_the_ten_strongest_links():
    losses = ik.estimate(run(), "test-losses").influence.values[:, 0]
    w = workload()
    worst = w.losses(run().final.theta, w.test).argsort(descending=True)[:8].tolist()
    record = report().record
    assert [p.id for p in record.points] == [f"test {k}" for k in worst]
    for point, k in zip(record.points, worst, strict=True):
        strongest = np.sort(np.abs(losses[k]))[-10:]
        np.testing.assert_allclose(sorted(abs(v) for _, v in point.links), strongest, rtol=1e-3)
        for place, value in point.links:
            assert value == pytest.approx(losses[k, record.examples[place].row], rel=1e-3, abs=1e-8)


def test_scores_by_test_losses_are_points_by_themselves():
    every = ik.estimate(run(), "test-losses")
    assert ik.report(run(), every).record.points == ik.report(run(), every, points=every).record.points
    assert len(ik.report(run(), scores(), points=every).record.points) == 12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda: dict(retrained=scores()), "is an estimate"),
        (lambda: dict(retrained=ik.estimate(run(), estimator="loo", windows="epoch:0-1")), "steps 0 to 3"),
        (lambda: dict(retrained=ik.estimate(run(), "prediction:example=1:output=0", "loo")), "other queries"),
        (lambda: dict(retrained=3), "a result of a verb"),
        (lambda: dict(trust=scores()), "what trust"),
        (lambda: dict(points=True), "a number of test examples"),
        (lambda: dict(points=scores()), "expected scores by test-losses"),
        (lambda: dict(show="photo"), "picture, tokens, row"),
        (lambda: dict(show=["picture"]), "picture, tokens, row"),
        (lambda: dict(show=lambda x: 1 / 0), "ZeroDivisionError: division by zero"),
        (lambda: dict(show=lambda x: 3), "must give text"),
        (lambda: dict(names=["a"], show="row"), "the 64 columns"),
        (lambda: dict(most=3), "at least 10"),
        (lambda: dict(suspected=scores()), "no column over train"),
        (lambda: dict(retrained=ik.contributions(run())), "expected what verify_top"),
    ],
)  # fmt: skip
def test_what_does_not_belong_is_refused_in_one_line(arguments, said):
    with pytest.raises(ik.InputError, match=said) as caught:
        ik.report(run(), scores(), **arguments())
    assert "\n" not in str(caught.value)


def test_scores_of_another_run_are_refused():
    other = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
    with pytest.raises(ik.InputError, match="another run"):
        ik.report(other, scores())


def test_missing_scores_are_none_and_come_last():
    found = scores().copy(deep=True)
    found.influence.values[:, :, :3] = nan
    record = ik.report(run(), found).record
    last = record.examples[-3:]
    assert sorted(one.row for one in last) == [0, 1, 2] and record.count == N - 3
    assert all(one.score is None and one.rank is None and not one.is_issue for one in last)
    assert "NaN" not in re.search(r'id="data">(.*?)</script>', ik.report(run(), found).html, re.S)[1]


def test_above_the_limit_ends_and_a_sample_are_looked_at_and_it_says_so():
    record = ik.report(run(), scores(), most=20, points=2).record
    looked = [one for one in record.examples if one.content]
    assert len(record.examples) == N and len(looked) == 20 and "20 of them" in record.left_out
    assert record.examples[0].content and record.examples[-1].content
    assert all(record.examples[place].content for point in record.points for place, _ in point.links[:5])


def test_the_page_holds_the_record():
    text = re.search(r'id="data">(.*?)</script>', report().html, re.S)[1]
    data = json.loads(text)
    assert [one["id"] for one in data["examples"]] == [one.id for one in report().record.examples]
    assert [one["score"] for one in data["examples"]] == [one.score for one in report().record.examples]


@given(arrays(np.float64, st.tuples(st.integers(2, 7), st.just(5)), elements=finite))
def test_patterns_do_not_know_the_unit_and_turn_with_time(windows):
    assert sum(halves(windows)) == pytest.approx(windows.sum(0), abs=1e-6)
    found = patterns(windows)
    assert patterns(-windows) == found and set(found) <= set(PATTERNS)
    turned = {"early": "late", "late": "early"}
    assert patterns(windows[::-1]) == [turned.get(p, p) for p in found]


def test_patterns_of_clear_cases():
    cases = {
        "early": [3, 2, 0, 0],
        "late": [0, 0, 1, 5],
        "changes sign": [2, 2, -2, -2],
        "throughout": [1, 1, 1, 1],
    }
    assert patterns(np.array(list(cases.values()), dtype=float).T) == list(cases)
    assert patterns(np.array([[1.0]])) == [None] and patterns(np.array([[nan], [1.0]])) == [None]


@settings(max_examples=200)
@given(
    arrays(np.float64, 12, elements=finite), arrays(np.float64, 12, elements=st.one_of(finite, st.just(nan))),
    st.booleans(), st.sampled_from([-1, 1]),
)  # fmt: skip
def test_an_issue_is_harmful_and_either_retrained_so_or_trusted(effect, truth, trusted, harmful):
    none = np.full(12, nan)
    found = issues_of(effect, harmful, Verified(truth, none, none), trusted, [])
    for k in np.flatnonzero(found.marked):
        assert effect[k] * harmful > 0
        assert truth[k] * harmful > 0 if np.isfinite(truth[k]) else trusted
    assert ((found.score >= 0) & (found.score <= 1)).all()
    assert [bool(h) for h in found.verified] == np.isfinite(truth).tolist()


def test_an_interval_that_holds_zero_is_no_issue():
    effect = np.array([-9.0, *np.linspace(0, 1, 20)])
    value, wide, narrow = np.full(21, nan), np.full(21, nan), np.full(21, nan)
    value[0], wide[0], narrow[0] = -5.0, 1.0, -1.0
    low = np.where(np.isfinite(value), -8.0, nan)
    assert issues_of(effect, -1, Verified(value, low, narrow), False, []).marked[0]
    assert not issues_of(effect, -1, Verified(value, low, wide), True, []).marked[0]


def test_the_frame_has_a_row_for_every_example():
    frame = report().issues
    assert frame.id.tolist() == workload().train_ids and frame.verified.all()
    np.testing.assert_allclose(frame.influence, whole(scores()).influence.values[0, 0], rtol=1e-5)
    marked = frame[frame.is_influence_issue]
    assert len(marked) and (marked.retrained < 0).all() and (marked.influence_score < 0.5).all()
    alone = ik.report(run(), scores()).issues
    assert not alone.is_influence_issue.any(), "nothing was retrained, and nobody asked for trust"


def test_what_curate_recommends_is_marked_and_listed():
    found = ik.curate(run(), trusted=_more(), k=(2, 4), draws=2)
    record = ik.report(run(), scores(), curated=found).record
    drop = set(np.flatnonzero(found.is_influence_issue.values).tolist())
    assert {one.row for one in record.examples if one.is_issue} == drop
    assert {one.row for one in record.examples if "drop (curate)" in one.marks} == drop
    assert found.attrs["verdict"] in record.verdicts
    assert all(("curate says", "drop") in one.notes for one in record.examples if one.is_issue)
    with pytest.raises(ik.InputError, match="what curate.* gives; pass it as curated="):
        ik.report(run(), scores(), suspected=found)


def _more():
    generator = torch.Generator().manual_seed(5)
    y = torch.arange(60) % 3
    x = 0.4 * torch.randn(60, 1, 8, 8, generator=generator)
    x[torch.arange(60), 0, 2 * y, :] += 1.0
    return x, y


def test_what_suspects_gives_is_a_list_with_its_words_and_its_order():
    values = np.linspace(1, 0, N)[::-1]
    found = xr.Dataset(
        {
            "suspicion": ("train", values),
            "is_label_issue": ("train", values > 0.9),
            "action": ("train", np.where(values > 0.9, "relabel", "keep")),
            "rank": ("train", np.arange(N, 0, -1.0)),
            "learnt": ("train", np.full(N, nan)),
            "auc": ("by", [0.9]),
        },
        coords={"train": scores().train.values, "by": ["final-loss"]},
        attrs={"run": scores().attrs["run"], "verdict": "6 labels look wrong"},
    )
    record = ik.report(run(), scores(), suspected=[found]).record
    assert record.mark_names == ("label issue",) and "6 labels look wrong" in record.verdicts
    for one in record.examples:
        assert one.suspicion == pytest.approx(values[one.row], abs=1e-3)
        assert (
            ("label issue" in one.marks)
            == (values[one.row] > 0.9)
            == (("suspects says", "relabel") in one.notes)
        )
        rank = f"{N - one.row:.3g}"
        assert ("suspects: rank of suspicion", rank) in one.notes and one.suspicion_rank == N - one.row
        assert "suspects: learnt from epoch" not in dict(one.notes)
    with pytest.raises(ik.InputError, match="what suspects.* gives; pass it as suspected="):
        ik.report(run(), scores(), curated=found)
    with pytest.raises(ik.InputError, match="another run"):
        ik.report(run(), scores(), suspected=found.assign_attrs(run="00000000-00000000-?"))


def test_trust_that_left_out_examples_together_is_shown_and_verifies_none_of_them():
    trust = ik.trust(run(), "test-loss", ik.estimate(run()), method="smooth")
    record = ik.report(run(), scores(), trust=trust).record
    assert f"{float(trust.overall):.2f} of 1" in {f.name: f.value for f in record.facts}["trust"]
    assert all(one.retrained is None for one in record.examples)


def test_a_taped_run_of_dicts_without_a_test_set():
    torch.manual_seed(0)
    data = [{"input": torch.randint(9, (6,)), "labels": torch.tensor(k % 2)} for k in range(12)]
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(24, 2))
    loss = nn.CrossEntropyLoss(reduction="none")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ik.Tape(None, model, optimizer, loss=loss, data=data) as tape:
        for _, batch in tape.batches(torch.utils.data.DataLoader(data, batch_size=4)):
            optimizer.zero_grad()
            loss(model(batch["input"]), batch["labels"]).mean().backward()
            optimizer.step()
    taped = tape.trajectory()
    found = ik.report(taped, ik.estimate(taped, "parameter"))
    shown = by_row(found)
    assert [shown[k].content.value for k in range(12)] == [
        [str(t) for t in d["input"].tolist()] for d in data
    ]
    assert {one.prediction for one in shown.values()} <= {"0", "1"} and found.record.points == ()
    assert not found.issues.is_influence_issue.any(), "neither way of a parameter is better"
    with pytest.raises(ik.InputError, match="without a test set"):
        ik.report(taped, ik.estimate(taped, "parameter"), points=2)


def test_scores_of_an_average_are_shown_with_its_losses_and_points():
    averaged = ik.estimate(run(), average="after:epoch=1")
    record = ik.report(run(), averaged, points=3).record
    w, theta = workload(), run().state(6).theta
    losses = w.losses(theta, w.train)
    for one in record.examples:
        assert one.loss == pytest.approx(float(losses[one.row]), rel=1e-5)
    worst = w.losses(theta, w.test).argsort(descending=True)[:3].tolist()
    assert [p.id for p in record.points] == [f"test {k}" for k in worst]
    every = ik.estimate(run(), "test-losses", average="after:epoch=1").influence.values[worst[0], 0]
    assert max(abs(v) for _, v in record.points[0].links) == pytest.approx(np.abs(every).max(), rel=1e-3)
