"""What a tape of 0.3.0 kept and one of 0.1.0 did not opens, replays and gives the scores of 0.3.0.

`tests/helpers_fixtures_030.py` made the stores; `expected.json` beside each is what 0.3.0 computed from it.
"""

import json

import helpers_fixtures as h
import helpers_fixtures_030 as new
import numpy as np
import pytest

import influencekit as ik

SAME_BITS = h.bits() == json.loads((h.ROOT / "made.json").read_text(encoding="utf-8"))["bits"]


@pytest.mark.parametrize("kind", new.KINDS)
def test_a_store_of_0_3_0_gives_its_scores(kind):
    store = new.ROOT / kind / "run.zarr"
    expected = json.loads((new.ROOT / kind / "expected.json").read_text(encoding="utf-8"))
    size = 0.0 if SAME_BITS else 1e-4 * max(map(abs, expected["dit"]))  # other kernels add in another order
    np.testing.assert_allclose(new.scores(kind, store), expected["dit"], rtol=0, atol=size)
    run = ik.open(store, **new.parts(kind))
    assert ik.verify(run).steps == h.STEPS and run.attrs["influencekit_version"] == "0.3.0"
    assert ("settings" in run.group, "content" in run.group) == (kind == "one-cycle", kind == "kept-examples")
    assert (run.ending is not None) == (kind == "reloaded")
