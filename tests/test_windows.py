"""Window algebra against sets of steps, and the grammar that names windows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from influencekit import InputError, Window
from influencekit._training.plan import Plan
from influencekit.windows import REMOVALS, parse_windows

removals = st.sampled_from(REMOVALS)


@st.composite
def windows(draw, steps=30):
    start = draw(st.integers(0, steps - 1))
    return Window(start, draw(st.integers(start + 1, steps)), draw(removals))


@st.composite
def plans(draw):
    """Epochs of differing lengths, as a plan has them."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    epoch = torch.tensor([e for e, n in enumerate(lengths) for _ in range(n)])
    return Plan(torch.zeros(len(epoch), 2, dtype=torch.int64), torch.ones(len(epoch), 1), epoch)


@given(windows())
def test_what_a_removal_means(window):
    """The table of method.md: where the example is absent, and which effects of the query are added."""
    T = 30
    expected = {
        "global": (
            (0, window.stop),
            {window.stop: 1, window.start: -1} if window.start else {window.stop: 1},
        ),
        "window": ((window.start, window.stop), {window.stop: 1}),
        "occurrence": ((window.start, window.stop), {T: 1}),
    }
    assert (window.absent(), window.evaluations(T)) == expected[window.removal]
    assert window.check(T) is window


@given(st.lists(st.integers(0, 30), min_size=3, max_size=6, unique=True).map(sorted))
def test_evaluations_of_adjoining_global_windows_add_up(cuts):
    """The signs at inner borders cancel: additivity of every score that is linear in them."""
    total = {}
    for a, b in zip(cuts, cuts[1:], strict=False):
        for t, sign in Window(a, b).evaluations(30).items():
            total[t] = total.get(t, 0) + sign
    whole = Window(cuts[0], cuts[-1]).evaluations(30)
    assert {t: s for t, s in total.items() if s} == whole


@given(windows(), windows())
def test_windows_are_values(a, b):
    same = (a.start, a.stop, a.removal) == (b.start, b.stop, b.removal)
    assert (a == b) is same and (len({a, b}) == 1) is same


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((3, 3), r"window \[3, 3\) is empty"),
        ((4, 2), r"window \[4, 2\) is empty"),
        ((-1, 2), "steps are counted from 0"),
        ((0, 2, "gone"), "removal must be one of global, window, occurrence, got 'gone'"),
    ],
)
def test_impossible_windows_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        Window(*arguments)


@given(windows(), st.integers(0, 40))
def test_a_window_reaches_outside_exactly_when_it_stops_after_the_run(window, steps):
    if window.stop <= steps:
        window.check(steps)
    else:
        with pytest.raises(InputError, match=rf"outside the run, which has steps \[0, {steps}\)"):
            window.check(steps)


# the grammar --------------------------------------------------------------------------------------------


@given(plans(), removals)
def test_full_is_the_whole_run_and_epochs_tile_it(plan, removal):
    assert parse_windows("full", plan.epoch.tolist(), removal) == [Window(0, plan.steps, removal)]
    each = parse_windows("each-epoch", plan.epoch.tolist(), removal)
    covered = [t for w in each for t in range(w.start, w.stop)]
    assert covered == list(range(plan.steps))
    assert all(len(set(plan.epoch[w.start : w.stop].tolist())) == 1 for w in each)
    assert all(w.removal == removal for w in each)


@given(plans(), st.data())
def test_epoch_ranges_hold_exactly_the_steps_of_those_epochs(plan, data):
    last = int(plan.epoch[-1]) + 1
    start = data.draw(st.integers(0, last - 1))
    stop = data.draw(st.integers(start + 1, last))
    (window,) = parse_windows(f"epoch:{start}-{stop}", plan.epoch.tolist())
    inside = [t for t, e in enumerate(plan.epoch.tolist()) if start <= e < stop]
    assert list(range(window.start, window.stop)) == inside
    one = parse_windows(f"epoch:{start}-{start + 1}", plan.epoch.tolist())
    assert parse_windows(f"epoch:{start}", plan.epoch.tolist()) == one


@given(plans(), st.data())
def test_step_ranges_and_lists(plan, data):
    start = data.draw(st.integers(0, plan.steps - 1))
    stop = data.draw(st.integers(start + 1, plan.steps))
    text = f"step:{start}-{stop}"
    assert parse_windows(text, plan.epoch.tolist()) == [Window(start, stop)]
    both = parse_windows(f"{text}, full", plan.epoch.tolist())
    assert both == [Window(start, stop), Window(0, plan.steps)]


PLAN = Plan(torch.zeros(6, 2, dtype=torch.int64), torch.ones(6, 1), torch.tensor([0, 0, 1, 1, 2, 2]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot read window ''"),
        ("epochs", "cannot read window 'epochs'; write full, each-epoch, epoch:3"),
        ("full:3", "cannot read window"),
        ("each-epoch:1", "cannot read window"),
        ("epoch:", "cannot read window"),
        ("epoch:x", "expected whole numbers such as epoch:3-5"),
        ("epoch:1-2-3", "expected whole numbers"),
        ("epoch:-1", "expected whole numbers"),
        ("step:3", "expected whole numbers such as step:3-5"),
        ("step:1.5-3", "expected whole numbers"),
        ("step:4-4", "is empty: ranges are half-open"),
        ("epoch:2-1", "is empty"),
        ("step:2-7", "reaches outside the run, which is step:0-6"),
        ("epoch:3", "reaches outside the run, which is epoch:0-3"),
        ("full,", "cannot read window ''"),
    ],
)
def test_unreadable_windows_are_refused_in_the_users_words(text, words):
    with pytest.raises(InputError, match=words):
        parse_windows(text, PLAN.epoch.tolist())
