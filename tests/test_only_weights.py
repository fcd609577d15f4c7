"""Somebody has a trained model, and no run: what is said, and what can be had all the same."""

import numpy as np
import pytest
import torch
from helpers_tape import held_out, network, per_example, sample
from torch import nn

import influencekit as ik


def work(model, **more):
    settings = {"optimizer": ik.SGD(lr=0.3), "epochs": 3, "batch_size": 4, **more}
    return ik.Workload(model=model, loss=per_example, train=sample(), test=held_out(), **settings)


def standing(theta, **more):
    """A run of one pass with learning rate 0, of weights [param]."""
    model = network()
    nn.utils.vector_to_parameters(theta, model.parameters())
    return ik.record(work(model.eval(), optimizer=ik.SGD(lr=0.0), epochs=1, **more))


def test_checkpoints_give_what_the_run_gave():
    """`if` and grad-dot at the end, and TracIn as a sum over checkpoints; dit and loo are 0."""
    run = ik.record(work(network()), recorder="full")
    last = standing(run.final.theta.clone())

    def scores(run, name):
        return ik.estimate(run, "test-loss", name).influence.values[0, 0]

    for name in ("if:damping=0.1", "if:damping=0.1:curvature=hessian", "grad-dot"):
        np.testing.assert_allclose(scores(last, name), scores(run, name), rtol=1e-10)
    checkpoints = [standing(run.state(t).theta.clone()) for t in (3, 6, 9)]
    summed = sum(0.3 * scores(each, "grad-dot") for each in checkpoints)
    np.testing.assert_allclose(summed, scores(run, "tracin"), rtol=1e-10)
    assert not scores(last, "dit").any() and not scores(last, "loo").any()
    with pytest.raises(ik.InputError, match="the default damping is 1 / .* give one"):
        scores(last, "if")


@pytest.fixture
def given(tmp_path):
    model = network()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    folder = tmp_path / "out" / "checkpoint-500"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    return {
        "file": tmp_path / "model.pt", "checkpoint": folder, "folder of checkpoints": tmp_path / "out",
        "model": model, "state": model.state_dict(), "text": str(tmp_path / "model.pt"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["file", "checkpoint", "folder of checkpoints", "model", "state", "text"])
@pytest.mark.parametrize("verb", [ik.open, ik.estimate, ik.contributions])
def test_weights_in_the_place_of_a_run(given, kind, verb):
    with pytest.raises(ik.InputError, match="not a recorded run: how it was trained is not in it") as info:
        verb(given[kind])
    text = str(info.value)
    assert "\n" not in text and "ik.SGD(lr=0.0)" in text and "TracIn" in text


def test_what_is_neither_weights_nor_a_run_is_refused_as_before(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ik.StoreError, match="is not a zarr group"):
        ik.open(tmp_path / "empty")
    with pytest.raises(ik.InputError, match="expected a recorded run, got int"):
        ik.estimate(3)
