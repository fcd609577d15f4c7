"""`scores.ik` in a notebook: both ends, caution first; xarray's own view stays."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers_report import HOSTILE, run, scores, workload

import influencekit as ik


class Rows(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.rows, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_both_ends_are_shown_with_their_scores_and_ids_as_text():
    mean = scores().influence.values[0].sum(0)
    order = mean.argsort()
    page = Rows(scores().ik._repr_html_())
    shown = [row[2].split(",")[0] for row in page.rows]
    harmful = [k for k in order if mean[k] < 0][:10]
    helpful = [k for k in order[::-1] if mean[k] > 0][:10]
    np.testing.assert_allclose([float(x) for x in shown], mean[[*harmful, *helpful]], rtol=1e-3)
    assert "script" not in page.tags and any(HOSTILE[0] in str(row) for row in page.rows) == any(
        scores().train.values[k] == HOSTILE[0] for k in [*harmful, *helpful]
    )
    assert "<xarray.Dataset>" in repr(scores()) and "most harmful:" in repr(scores().ik)


def test_caution_comes_first_and_examples_are_pictures():
    doubtful = scores().assign_attrs(caution="half <b>recorded")
    page = doubtful.ik.with_examples(run())._repr_html_()
    assert page.startswith("<div><p><b>Beware.</b> half &lt;b&gt;recorded")
    assert Rows(page).tags.count("img") == len(Rows(page).rows)


def test_what_is_no_score_is_refused():
    with pytest.raises(ik.InputError, match="what estimate"):
        scores().influence.isel(window=0).to_dataset().ik._repr_html_()
    other = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
    with pytest.raises(ik.InputError, match="another run"):
        scores().ik.with_examples(other)


def test_the_number_is_that_of_the_report_and_says_what_it_is():
    for found, said in (
        (scores(), "the sum of 4 windows"),
        (ik.estimate(run(), windows="each-epoch", removal="window"), "the mean of 4 windows"),
        (ik.estimate(run(), "test-losses"), "global removal, the mean of 12 queries"),
    ):
        first = ik.report(run(), found).record.examples[0]
        page = Rows(found.ik._repr_html_())
        assert float(page.rows[0][2].split(",")[0]) == pytest.approx(first.score, rel=1e-3)
        assert said in found.ik._repr_html_() and said in repr(found.ik)


def test_examples_of_another_run_of_the_same_data_are_refused():
    other = ik.record(replace(workload(), optimizer=ik.SGD(lr=0.5)))
    with pytest.raises(ik.InputError, match="another run"):
        scores().ik.with_examples(other)
