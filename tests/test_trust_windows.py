"""Trust by window: a figure for each, from retrainings that windows share, at a cost that is stated."""

from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from helpers_step import quick  # noqa: F401 (a fixture)
from hypothesis import given, settings
from hypothesis import strategies as st
from test_trust import QUERY, proportional, recorded

import influencekit as ik
from influencekit import InputError, Window, plot
from influencekit._effects import retrain
from influencekit._verbs.trust.horizons import believed, gap, horizons, reach
from influencekit._verbs.trust.spans import RUNS, draw, looked_at
from influencekit.testing.oracle import tiny_workload

pytestmark = pytest.mark.usefixtures("quick")
EVERY = [Window(0, 24), Window(12, 48), Window(24, 48, "window"), Window(0, 12, "occurrence")]


@cache
def trusted(estimator, **options):
    return ik.trust(recorded(0), QUERY, estimator, "retrain", **options)


# laws of the figure -------------------------------------------------------------------------------


def test_leave_one_out_is_believed_in_every_window():
    found = ik.trust(recorded(0), QUERY, "loo", "retrain", windows=EVERY)
    assert found.trust.dims == ("window",)
    assert found.trust.values == pytest.approx(np.ones(4), abs=1e-4)
    assert found.scale.values == pytest.approx(np.ones(4), abs=1e-4)
    assert found.warning == "" and found.believed == (
        "absence from the start up to step 24; of absence from the start, what up to 36 later steps add; "
        "windows of up to 24 steps; up to 60 steps between absence and evaluation"
    )


def test_random_scores_are_believed_in_no_window():
    scores = ik.estimate(recorded(0), QUERY, "dit", EVERY)
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(size=scores.influence.shape)
        random = scores.assign(influence=scores.influence.copy(data=noise))
        found = ik.trust(recorded(0), QUERY, random, "retrain")
        assert (found.trust < 0.7).all() and (found.trust < found.limit).all()
        assert "in 4 of 4 windows" in found.warning
        assert found.believed.count("not even") == 4


@pytest.mark.parametrize("factor", [2.0, 0.25, -1.0])
def test_scaled_scores_keep_their_correlations_and_the_slope_says_by_how_much(factor):
    scores = ik.estimate(recorded(0), QUERY, "dit", EVERY)
    scaled = scores.assign(influence=factor * scores.influence)
    one, other = (ik.trust(recorded(0), QUERY, each, "retrain") for each in (scores, scaled))
    for name in ("pearson", "spearman"):
        assert other[name].values == pytest.approx(np.sign(factor) * one[name].values, abs=1e-6)
    assert other.scale.values == pytest.approx(one.scale.values / factor, rel=1e-5)


def test_a_window_alone_has_the_figure_that_it_has_among_others():
    """All of them visit every example in every epoch, so each span draws the same random ones."""
    windows = [Window(0, 72), Window(12, 48, "window"), Window(12, 24, "occurrence")]
    together = ik.trust(recorded(0), QUERY, "dit", "retrain", windows=windows)
    for k, window in enumerate(windows):
        alone = ik.trust(recorded(0), QUERY, "dit", "retrain", windows=[window])
        assert alone.trust.item() == pytest.approx(together.trust[k].item(), abs=1e-5)


def test_the_same_absence_under_two_names_has_one_figure():
    """Absent in the last epoch, evaluated at the end: as a window and as an occurrence."""
    windows = [Window(66, 72, "window"), Window(66, 72, "occurrence"), Window(0, 72), Window(0, 72, "window")]
    values = ik.trust(recorded(0), QUERY, "dit", "retrain", windows=windows).trust.values
    assert values[0] == pytest.approx(values[1]) and values[2] == pytest.approx(values[3])


@pytest.mark.parametrize("method", ["retrain", "smooth"])
def test_where_training_is_linear_in_the_weights_every_window_is_believed(method):
    found = ik.trust(ik.record(proportional()), method=method, windows="horizons")
    assert found.trust.values == pytest.approx(np.ones(found.sizes["window"]), abs=1e-8)
    assert "not even" not in found.believed


# the horizon decides ------------------------------------------------------------------------------


def test_on_a_rough_run_the_shortest_horizons_are_believed_more_than_the_longest():
    found = [ik.trust(recorded(seed), QUERY, "dit", "retrain", windows="horizons") for seed in range(3)]
    values = np.mean([each.trust.values for each in found], 0)
    kinds = found[0].removal.values
    for kind in ("window", "occurrence"):
        each = values[kinds == kind]
        assert each[0] > each[-1] + 0.2


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 7))
def test_horizons_are_windows_of_the_run_and_stay_below_their_cost(epochs, each):
    windows = horizons(np.repeat(np.arange(epochs), each).tolist())
    steps = epochs * each
    for window in windows:
        window.check(steps)
    assert Window(0, steps) in windows and Window(0, steps, "window") in windows
    spans = {(0, steps) if w.removal == "global" else w.absent(): max(w.evaluations(steps)) for w in windows}
    assert sum((end - absent[0]) / steps for absent, end in spans.items()) <= 7


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.floats(-1, 1)), min_size=1, max_size=8))
def test_believed_names_the_longest_window_up_to_which_all_reach_the_limit(pairs):
    windows, values = [Window(0, n, "window") for n, _ in pairs], np.array([x for _, x in pairs])
    good = [n for n in range(1, 10) if all(x >= 0.5 for m, x in pairs if m <= n)]
    far = max((m for m, _ in pairs if m in good), default=None)
    words = believed(windows, values, 0.5, 10)
    at_end = believed([Window(10 - w.stop, 10, "window") for w in windows], values, 0.5, 10)
    assert at_end.split()[-2] == words.split()[-2] and "last" in at_end
    expected = f"not even windows of {min(m for m, _ in pairs)} steps"
    assert words == (expected if far is None else f"windows of up to {far} steps")


def test_a_global_window_that_starts_later_is_what_its_steps_add():
    """Its figure is of q at the end minus q at the start: nothing of absence up to its end is claimed."""
    low, high = np.array([0.1, 0.1]), np.array([1.0, 1.0])
    last, both = [Window(4, 5)], [Window(0, 4), Window(4, 5)]
    assert believed(last, high[:1], 0.5, 5) == "of absence from the start, what up to 1 later steps add"
    assert "absence from the start up to step 4;" in believed(both, high, 0.5, 5)
    assert believed(both, np.array([1.0, 0.1]), 0.5, 5) == (
        "absence from the start up to step 4; of absence from the start, not even what 1 later steps add"
    )
    assert believed(both, low, 0.5, 5).count("not even") == 2
    words = ik.trust(recorded(0), QUERY, "loo", "retrain", windows=[Window(60, 72)], examples=4).believed
    assert words == "of absence from the start, what up to 12 later steps add"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(3, 16)), min_size=1, max_size=8))
def test_a_short_window_of_few_examples_does_not_veto_longer_ones(pairs):
    """As if those of few examples had not been asked about, where others rest on more."""
    windows, values = [Window(0, 1 + k, "window") for k in range(len(pairs))], np.array([x for x, _ in pairs])
    counts = [n for _, n in pairs]
    enough = [n >= min(12, max(counts)) for n in counts]
    kept = [w for w, e in zip(windows, enough, strict=True) if e]
    assert believed(windows, values, 0.5, 20, counts) == believed(kept, values[enough], 0.5, 20)


def test_the_count_is_of_random_examples_that_the_window_holds_and_that_have_an_effect():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    x[::2] = 0  # of these neither the score nor the effect is anything
    workload = ik.Workload(
        model=torch.nn.Linear(3, 1, bias=False).double(), loss=lambda out, y: (out[:, 0] - y).square(),
        train=(x, x[:, 0] + 1), test=(x, x[:, 0]), optimizer=ik.SGD(lr=0.1), epochs=2, batch_size=8,
    )  # fmt: skip
    run = ik.record(workload)
    windows = [Window(0, 10, "window"), Window(9, 10, "window")]
    found = ik.trust(run, method="retrain", examples=40, windows=windows)
    last = run.plan.batch(9)
    assert found["count"].values.tolist() == [20, int((last % 2 == 1).sum())]
    smooth = ik.trust(run, method="smooth", windows=windows)
    assert smooth["count"].values.tolist() == [40, 8]


def test_reach_and_gap_are_steps_of_absence_and_steps_until_evaluation():
    found = trusted("dit", examples=4, windows=None)
    assert found.reach.values.tolist() == [72] and found.gap.values.tolist() == [0]
    assert [reach(w) for w in EVERY] == [24, 48, 24, 12] and [gap(w, 72) for w in EVERY] == [0, 0, 0, 60]


# the cost that is stated --------------------------------------------------------------------------


def test_windows_of_global_removal_share_one_retraining_for_each_example():
    shared = ik.trust(ik.record(tiny_workload()), windows=[Window(t, t + 1) for t in range(6)], examples=4)
    assert shared.sizes["window"] == 6 and shared.trainings <= 4 + 2 + 1
    assert shared.runs == shared.trainings  # each a whole run


def test_trainings_and_runs_are_those_that_were_trained(monkeypatch):
    """Counted where they are trained; a span of half the run costs half a run each."""
    seen, original = [], retrain.retrained

    def counted(trajectory, weightings, absent, *rest):
        seen.append((len(weightings), absent))
        return original(trajectory, weightings, absent, *rest)

    monkeypatch.setattr(retrain, "retrained", counted)
    found = ik.trust(recorded(0), QUERY, "dit", "retrain", windows=EVERY)
    assert found.trainings == sum(count for count, _ in seen)
    assert sorted(absent for _, absent in seen) == [(0, 12), (0, 72), (24, 48)]
    ends = {(0, 12): 72, (0, 72): 48, (24, 48): 48}
    assert found.runs == pytest.approx(sum(n * (ends[a] - a[0]) / 72 for n, a in seen))


def test_many_spans_are_thinned_evenly_and_what_is_left_out_is_nan():
    """72 occurrences of one step, of which each costs most of a run."""
    run, windows = recorded(0), [Window(t, t + 1, "occurrence") for t in range(72)]
    spans = looked_at(windows, run.steps)
    assert sum(span.runs for span in spans) <= RUNS and len(spans) > 8
    members = [span.members[0] for span in spans]
    assert members[0] == 0 and members[-1] == 71 and max(np.diff(members)) <= min(np.diff(members)) + 1
    found = ik.trust(run, QUERY, "dit", "retrain", windows=windows, examples=3)
    assert set(np.flatnonzero(found.retrained.notnull().any(("query", "train")))) == set(members)
    assert found.trust.isnull().sum() >= 72 - len(members)
    assert "not even" in found.believed or "up to" in found.believed


def test_spans_that_know_the_same_examples_draw_the_same_ones():
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    known = torch.ones(40, dtype=torch.bool)
    first = draw(known, order, 10)
    assert len(first) == 10 and first.tolist() == sorted(first.tolist())
    known[first[0]] = False
    assert len(set(first.tolist()) & set(draw(known, order, 10).tolist())) == 9


# where nothing can be said ------------------------------------------------------------------------


def test_a_window_whose_retraining_diverges_is_nan_and_the_others_are_not():
    """Without example 3 the loss has no lower bound: after 120 steps it is infinite, after 12 it is not."""
    x, h = torch.ones(4), torch.tensor([-1.0, -1.0, -1.0, 3.5])
    workload = ik.Workload(
        model=torch.nn.Linear(1, 1, bias=False), loss=lambda o, h: 10 * h * o[:, 0].square(),
        train=(x[:, None], h), test=(x[:, None], h), optimizer=ik.SGD(lr=0.1), epochs=120, batch_size=4,
    )  # fmt: skip
    found = ik.trust(ik.record(workload), windows=[Window(0, 2), Window(0, 120)])
    assert found.trust.isnull().values.tolist() == [False, True]
    assert np.isfinite(found.overall) and "nothing" not in found.warning


def test_scores_that_overflow_in_one_window_are_nan_there_and_a_check_says_so(monkeypatch):
    """An adjoint that is too long for floating point, in place of one that takes hours to reproduce."""
    run, original = recorded(0), ik.make("estimator", "dit").scores

    def short_only(self, trajectory, query, windows):
        if any(w.stop - w.absent()[0] > 30 for w in windows):
            raise ik.errors.DivergedError("the adjoint of this run grew beyond floating point")
        return original(trajectory, query, windows)

    monkeypatch.setattr(type(ik.make("estimator", "dit")), "scores", short_only)
    found = ik.trust(run, QUERY, "dit", "retrain", windows=[Window(0, 12), Window(0, 72)])
    assert found.trust.isnull().values.tolist() == [False, True]
    assert found.check_value.sel(check="finite") == 0.5 and "50 % of the scores are NaN" in found.warning
    with pytest.raises(ik.errors.DivergedError):
        ik.trust(run, QUERY, "dit", "retrain")


def test_an_estimator_that_knows_only_the_whole_run_cannot_be_asked_for_horizons():
    with pytest.raises(InputError, match="cannot do window"):
        ik.trust(recorded(0), QUERY, "if", windows="horizons")


# as a curve ---------------------------------------------------------------------------------------


def test_the_curve_has_a_point_for_every_known_window_and_a_line_for_every_removal():
    found = trusted("dit", windows="horizons")
    axes = plot.trust_by_window(found)
    drawn = np.concatenate([points.get_offsets() for points in axes.collections])
    along = np.where(found.removal == "occurrence", found.gap, found.reach)
    expected = np.stack([along, found.trust.values], 1)[found.trust.notnull().values]
    assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, expected.tolist()))
    assert len(axes.get_legend().get_texts()) == 3
    assert any(np.allclose(line.get_ydata(), found.limit) for line in axes.lines)


def test_what_is_no_figure_of_trust_is_refused():
    with pytest.raises(InputError, match="expected what trust"):
        plot.trust_by_window(xr.Dataset())
