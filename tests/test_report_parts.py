"""The report shows the parts of examples: their texts as text, their scores as those of their example."""

import numpy as np
import pytest
from helpers_parts import LENGTHS, recorded

import influencekit as ik

RUN = recorded()
SCORES, PARTS = (ik.estimate(RUN, windows="each-epoch", parts=parts) for parts in (False, True))
HOSTILE = "</script><b>&"


def texts(example):
    return [f"{HOSTILE}{word}" for word in example[1].tolist()]


def test_parts_stand_with_their_texts_and_add_up_to_the_score_of_their_example():
    found = ik.report(RUN, SCORES, parts=PARTS, part_names=texts)
    targets = RUN.workload.train[1]
    for one in found.record.examples:
        words = [text for text, _ in one.parts]
        assert words == [f"{HOSTILE}{word}" for word in targets[one.row, : LENGTHS[one.row]].tolist()]
        assert sum(score for _, score in one.parts) == pytest.approx(one.score, rel=0.02, abs=1e-6)
    assert HOSTILE not in found.html and "\\u003c/script\\u003e\\u003cb\\u003e\\u0026" in found.html


def test_the_legend_says_which_way_without_colours_and_is_there_only_with_parts():
    legend = "The line under a part says which way"
    assert legend in (found := ik.report(RUN, SCORES, parts=PARTS)).html
    assert "dashed, harmful" in found.html and "solid, helpful" in found.html
    assert found.record.examples[0].parts[0][0] == "part 0"
    assert legend not in ik.report(RUN, SCORES).html


def test_texts_may_come_by_id():
    by_id = {k: [f"{k}.{p}" for p in range(6)] for k in range(8)}
    (one, *_) = ik.report(RUN, SCORES, parts=PARTS, part_names=by_id).record.examples
    assert [text for text, _ in one.parts] == by_id[one.row][: LENGTHS[one.row]]


def test_texts_stand_in_the_place_of_numbers_of_tokens_and_blank_ones_can_be_seen():
    def blank(example):
        return ["", "  ", " the", *["x"] * len(example[1])]

    (one, *_) = ik.report(RUN, SCORES, parts=PARTS, part_names=blank).record.examples
    assert [text for text, _ in one.parts][:3] == ["(empty)", "␣␣", " the"][: len(one.parts)]
    assert one.content is None
    for others in ({}, {"part_names": blank, "names": {k: str(k) for k in range(99)}}):
        (one, *_) = ik.report(RUN, SCORES, parts=PARTS, **others).record.examples
        assert one.content.kind == "tokens"


@pytest.mark.parametrize(
    ("parts", "names", "said"),
    [
        (SCORES, None, "what estimate(..., parts=True) gives"),
        (PARTS.isel(window=[0]), None, "over other windows than the scores"),
        (PARTS.assign_attrs(estimator="loo"), None, "of estimator loo, and the scores are of dit"),
        (PARTS, lambda example: ["one"], "a text for each of the"),
        (PARTS, lambda example: 1 / 0, "part_names failed for example"),
        (PARTS, {}, "part_names failed for example"),
    ],
)
def test_parts_that_do_not_belong_are_refused_in_one_line(parts, names, said):
    with pytest.raises(ik.InputError) as caught:
        ik.report(RUN, SCORES, parts=parts, part_names=names)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_scores_by_part_are_no_scores_of_examples():
    with pytest.raises(ik.InputError, match="these are the scores of parts; .* these as parts="):
        ik.report(RUN, PARTS)
    assert np.isfinite(SCORES.influence).all()
