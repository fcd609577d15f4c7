"""What a tape of 0.3.0 kept and one of 0.1.0 did not opens, replays and gives the scores of 0.3.0.

`tests/helpers_fixtures_030.py` made the stores; `expected.json` beside each is what 0.3.0 computed from it.
"""

import json
from dataclasses import replace

import helpers_fixtures as h
import helpers_fixtures_030 as new
import numpy as np
import pytest
from helpers_stores import changed

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


@pytest.mark.parametrize(("shown", "lr"), [("np.float64(0.1)", 0.1), ("np.float32(0.1)", np.float32(0.1))])
def test_a_learning_rate_of_numpy_which_0_3_0_wrote_as_such_is_the_same_number(shown, lr, tmp_path):
    workload = ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2")
    workload = replace(workload, optimizer=ik.SGD(lr=lr))
    store = tmp_path / "run.zarr"
    said = ik.record(workload, store=store).attrs["fingerprint"]
    plain = f"lr={float(lr)!r}"
    assert plain in said["optimizer"]
    changed(store, fingerprint={**said, "optimizer": said["optimizer"].replace(plain, f"lr={shown}")})
    assert ik.open(store, workload).steps == 2
    with pytest.raises(ik.StoreError, match="optimizer differ"):
        ik.open(store, replace(workload, optimizer=ik.SGD(lr=0.2)))
