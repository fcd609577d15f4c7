"""Every loop that people write: recorded and right, or refused in one line at step 0."""

import importlib.util
from pathlib import Path

import pytest

pytest.register_assert_rewrite("loop_frame")
from loop_frame import check_recorded, check_refused  # noqa: E402
from loop_style import FEW, GROUPS, STYLES  # noqa: E402

RECORDED = [style for style in STYLES if style.refused is None]
REFUSED = [style for style in STYLES if style.refused is not None]


def need(style):
    if style.missing:
        pytest.skip(f"needs {', '.join(style.missing)}")


@pytest.mark.parametrize("style", RECORDED, ids=lambda style: style.name)
def test_recorded_and_right(style):
    """The tape changes nothing, every step replays, `dit` is the derivative, `loo` the loop without."""
    need(style)
    check_recorded(style)


@pytest.mark.parametrize("style", REFUSED, ids=lambda style: style.name)
def test_refused_in_one_line_at_step_0(style):
    need(style)
    check_refused(style)


def test_most_loops_are_recorded_with_few_lines():
    few = [style for style in RECORDED if style.added <= FEW]
    assert len(STYLES) >= 36 and len(RECORDED) >= 31 and len(few) >= 0.75 * len(RECORDED)


def test_styles_are_described():
    for style in STYLES:
        assert style.constant("GROUP") in GROUPS and style.about[0].endswith("."), style.name
    assert len({style.about[0] for style in STYLES}) == len(STYLES), "a title twice"


def test_the_page_is_current():
    """docs/recorded.md is what docs/loops.py writes."""
    path = Path(__file__).parents[2] / "docs" / "loops.py"
    spec = importlib.util.spec_from_file_location("docs_loops", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run python docs/loops.py"
