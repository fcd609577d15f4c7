"""What examples look like: one scale for all pictures, nothing that is not finite, and clear errors."""

import base64
import io

import numpy as np
import pytest
import torch
from helpers_report import run, scores
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import influencekit as ik
from influencekit._report.contents import contents
from influencekit._report.pictures import range_of

nan, inf = float("nan"), float("inf")


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content.value)))).astype(float)


def test_equal_values_look_equal_in_all_pictures_of_a_page():
    """Flat pictures, each lighter than the one before; stretched for themselves all would be black."""
    greys = torch.linspace(-3, 9, 16)
    found = contents(
        [greys[:8, None, None, None].expand(8, 1, 6, 6), greys[8:, None, None, None].expand(8, 1, 6, 6)],
        range(16),
    )
    shown = [pixels(each) for each in found]
    assert all(each.min() == each.max() for each in shown)
    assert (np.diff([each.min() for each in shown]) > 0).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.linspace(0.1, 0.8, 50), (0, 1)), (np.arange(200.0), (0, 255)), (np.full(9, 0.5), (0, 1)),
        (np.arange(17.0), tuple(np.percentile(np.arange(17.0), (0.5, 99.5)))), 
        (np.full(9, -3.0), (-3.5, -2.5)),
        (np.array([*[0.0] * 999, -4.0]), (-4, 0)),
    ],
)  # fmt: skip
def test_usual_ranges_are_kept(values, expected):
    assert range_of([values]) == pytest.approx(expected)


@settings(max_examples=50)
@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=40))
def test_a_range_has_a_size_and_does_not_ask_for_the_order(values):
    low, high = range_of([np.array(values)])
    assert low < high and (low, high) == range_of([np.array([v]) for v in values[::-1]])


def test_pictures_without_their_values_that_are_not_finite():
    x = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    spoilt = x.clone()
    spoilt[0, 0, 0, :2], spoilt[1, 0, 3, 3], spoilt[2] = nan, inf, nan
    found, clean = contents([spoilt], range(4)), contents([x], range(4))
    notes = [each.note for each in found]
    assert notes[0].startswith("2 of 36 values are NaN or infinite") and notes[1].startswith("1 of 36")
    assert notes[2].startswith("36 of 36") and notes[3] is None and clean[0].note is None
    np.testing.assert_array_equal(pixels(found[0])[1:], pixels(clean[0])[1:])
    np.testing.assert_array_equal(pixels(found[3]), pixels(clean[3]))


def test_waves_without_their_values_that_are_not_finite():
    x = torch.randn(2, 1, 320, generator=torch.Generator().manual_seed(0))
    x[:, :, 0] = 9.0  # the peak, so that both have one height
    spoilt = x.clone()
    spoilt[0, 0, 10], spoilt[0, 0, 11], spoilt[0, 0, 20] = nan, inf, -inf
    found, clean = contents([spoilt], range(2)), contents([x], range(2))
    assert found[0].note.startswith("3 of 320 values") and found[1] == clean[1]
    ours, theirs = (np.array(each[0].value) for each in (found, clean))
    assert ours[5].tolist() == [0, 0], "a part of nothing else is flat"
    assert ours[10].tolist() == [round(100 * float(x[0, 0, 21]) / 9)] * 2
    np.testing.assert_array_equal(np.delete(ours, [5, 10], 0), np.delete(theirs, [5, 10], 0))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 2), (1, 64, 2), (3, 300, 200)])
def test_small_and_large_pictures_are_pictures(shape):
    found = contents([torch.rand(3, *shape)], range(3))[0]
    assert found.kind == "picture" and max(found.width, found.height) == min(128, max(shape[1:]))


class Failing:
    def decode(self, row):
        raise RuntimeError("no such\ntoken")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (Failing(), r"names.decode\(tokens\) failed for example 'a' with RuntimeError: no such;"),
        (["x", "y"], "names failed for example 'b' with IndexError"),
        ({0: "x", 1: "y"}, "names failed for example 'b' with KeyError"),
    ],
)
def test_names_that_fail_are_one_line_with_the_id(names, said):
    with pytest.raises(ik.InputError, match=said) as caught:
        contents([torch.tensor([[0, 1], [1, 5]])], ["a", "b"], names=names)
    assert "\n" not in str(caught.value)


def test_tokens_below_zero_are_not_names_from_the_end_of_the_list():
    assert contents([torch.tensor([[0, -100, -1]])], [0], names=["x", "y"])[0].value == ["x", "-100", "-1"]


@pytest.mark.parametrize("show", [{}, {"nobody": "text"}])
def test_show_of_no_example_is_refused(show):
    for ask in (
        lambda: ik.report(run(), scores(), show=show),
        lambda: scores().ik.with_examples(run(), show),
    ):
        with pytest.raises(ik.InputError, match="none of the ids"):
            ask()
