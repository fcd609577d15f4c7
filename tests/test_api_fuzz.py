"""A tenth of `python -m benchmarks api_fuzz`: odd calls give the right result, or one line."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT)]  # what is not installed

from benchmarks import api_fuzz  # noqa: E402


def test_odd_calls_are_right_or_refused_in_one_line():
    found = list(api_fuzz.campaign(7, 50))
    assert len(found) == 50
    assert [v for v in found if v.kind not in ("right", "refused")] == []


def test_a_wrong_result_and_a_raw_error_would_be_seen():
    from benchmarks.shared.odd.drawing import Call
    from benchmarks.shared.odd.values import REFUSED, Value

    def verdict(make, **values):
        return api_fuzz.judged(Call("f", values, make)).kind

    assert verdict(lambda given: 1 / 0, x=Value("x", 1, 1)) == "raw error"
    assert verdict(lambda given: given["x"], x=Value("x", 1, 2)) == "wrong"
    assert verdict(lambda given: given["x"], x=Value("x", 1, REFUSED)) == "admitted"
    assert verdict(lambda given: given["x"], x=Value("x", 1, 1)) == "right"
