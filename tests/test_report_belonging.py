"""A report refuses, in one line, what is not of the question that its scores answer."""

from dataclasses import replace
from functools import cache

import pytest
from helpers_report import retrained, run, scores, workload

import influencekit as ik
from influencekit._report.comparison import of_comparison


@cache
def other():
    """The same data and the same model, trained from the same start with another learning rate."""
    return ik.record(replace(workload(), optimizer=ik.SGD(lr=0.5)))


@cache
def first_epoch():
    return ik.estimate(run(), windows="epoch:0-1")


@cache
def averaged(estimator="dit", query="test-loss"):
    return ik.estimate(run(), query, estimator, average="after:epoch=1")


def trust(of=None, **options):
    return ik.trust(of or run(), examples=4, **options)


def test_trust_says_what_it_is_of():
    attrs = trust().attrs
    expected = ik.estimate(run()).attrs
    assert {n: attrs[n] for n in ("run", "estimator", "query")} == {
        n: expected[n] for n in ("run", "estimator", "query")
    }
    assert trust(average="after:epoch=1").attrs["average"] == averaged().attrs["average"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda: dict(trust=trust(other())), "another run"),
        (lambda: dict(trust=trust(estimator="if")), "trust: it is of if, and the scores are of dit"),
        (lambda: dict(trust=trust(query="prediction:example=1:output=0")), "it is of the query prediction"),
        (lambda: dict(trust=trust(windows="epoch:0-1")), "steps 0 to 3.*ask trust"),
        (lambda: dict(trust=trust(average="after:epoch=1")), "the average after.*scores of last"),
        (lambda: dict(trust=trust().drop_attrs()), "does not say its run"),
        (lambda: dict(retrained=averaged("loo")), "the average after.*scores of last"),
        (lambda: dict(points=averaged(query="test-losses")), "the average after.*scores of last"),
        (lambda: dict(points=ik.estimate(run(), "test-losses", windows="epoch:0-1")), "steps 0 to 3"),
        (lambda: dict(points=ik.estimate(run(), "test-losses", "if")), "it is of if, and the scores are"),
        (lambda: dict(average="after:epoch=1"), "average=after:epoch=1, and the scores are of last"),
    ],
)  # fmt: skip
def test_what_is_of_another_question_is_refused_in_one_line(arguments, said):
    with pytest.raises(ik.InputError, match=said) as caught:
        ik.report(run(), scores(), **arguments())
    assert "\n" not in str(caught.value)


def test_scores_of_an_average_refuse_what_is_of_the_last_state():
    for arguments in (dict(retrained=retrained()), dict(trust=trust())):
        with pytest.raises(ik.InputError, match="the average last, and the scores of after"):
            ik.report(run(), averaged(), **arguments)
    with pytest.raises(ik.InputError, match="average=last, and the scores are of after"):
        ik.report(run(), averaged(), average="last")
    found = ik.report(run(), averaged(), averaged("loo"), trust(average="after:epoch=1")).record
    assert any("after:epoch=1" in fact.value for fact in found.facts if fact.name == "asked of")


@pytest.mark.parametrize("options", [dict(), dict(windows="horizons"), dict(method="smooth")])
def test_trust_of_windows_that_cover_the_scores_stands_in_the_header(options):
    found = ik.report(run(), scores(), trust=trust(**options)).record
    assert any(fact.name == "trust" and "enough is" in fact.value for fact in found.facts)


def test_trust_of_the_whole_run_covers_a_part_of_it_but_retrained_nothing_for_it():
    found = ik.report(run(), first_epoch(), trust=trust()).record
    assert all(one.retrained is None for one in found.examples)


def test_points_of_exact_estimates_are_welcome_and_named():
    exact = ik.estimate(run(), "test-losses", "loo")
    record = ik.report(run(), scores(), points=exact).record
    assert "by loo" in record.points_note
    position = int(record.points[0].id.split()[1])
    for place, value in record.points[0].links:
        assert value == pytest.approx(float(exact.influence[position, 0, record.examples[place].row]))
    assert "by" not in ik.report(run(), scores(), points=2).record.points_note


def test_the_report_of_a_comparison_of_an_average_shows_its_losses():
    result = ik.compare(run(), ["dit"], reference="loo", average="after:epoch=1")
    arguments = of_comparison(result, run())
    shown = ik.report(run(), **arguments).record
    expected = ik.report(run(), averaged()).record
    assert {one.id: one.loss for one in shown.examples} == {one.id: one.loss for one in expected.examples}


def test_a_ceiling_of_several_windows_is_that_of_their_sum():
    """The effects of neighbouring windows add up to that of the whole run, so all of it must be the same."""
    each, whole = (ik.ceiling(run(), runs=3, moved=0.05, windows=w) for w in ("each-epoch", "full"))
    ours, theirs = (ik.report(run(), scores(), ceiling=c).record for c in (each, whole))
    assert [f for f in ours.facts if f.name == "ceiling"] == [f for f in theirs.facts if f.name == "ceiling"]
    for one, other in zip(ours.agreement.metrics, theirs.agreement.metrics, strict=True):
        assert one[1:] == pytest.approx(other[1:], abs=2e-3)
    for one, other in zip(ours.examples, theirs.examples, strict=True):
        for name in ("value", "low", "high"):
            assert getattr(one.retrained, name) == pytest.approx(
                getattr(other.retrained, name), rel=1e-3, abs=1e-7
            )
    lost = ik.report(run(), scores(), ceiling=each[["ceiling"]]).record
    assert "unknown" in next(f.value for f in lost.facts if f.name == "ceiling")
