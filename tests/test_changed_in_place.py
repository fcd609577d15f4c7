"""Data and settings of a loss that the program changes in place after a run was recorded are named."""

import numpy as np
import pytest
import torch
from helpers_contents import Fetched, Frozen, examples, reopened, taped, workload
from torch import nn
from torch.utils.data import TensorDataset

import influencekit as ik
from influencekit._trajectory.contents import compare, of_tensors


def in_place(tensor, row):
    tensor[row] = tensor[row] * 0 + 3


def through_numpy(tensor, row):
    tensor.numpy()[row] = 3


@pytest.mark.parametrize("change", [in_place, through_numpy])
@pytest.mark.parametrize("which", ["train", "test"])
@pytest.mark.parametrize("entry", [0, 1])
@pytest.mark.parametrize("kept", ["memory", "opened"])
def test_data_that_change_in_place_after_recording_are_named(tmp_path, change, which, entry, kept):
    w = workload()
    run = ik.record(w, store=None if kept == "memory" else tmp_path / "run.zarr")
    run = run if kept == "memory" else ik.open(tmp_path / "run.zarr", w)
    ik.estimate(run)
    tensor = getattr(w, which)[entry]
    before = tensor.clone()
    change(tensor, 11)
    names = {"train": "training data", "test": "test data"}
    what = f"{names[which]} changed in place .*{['inputs', 'targets'][entry]} "
    for verb in (ik.estimate, ik.compare, ik.contributions, ik.verify):
        with pytest.raises(ik.InputError, match=what):
            verb(run, *([["dit"]] if verb is ik.compare else []))
    tensor.copy_(before)
    assert np.isfinite(ik.estimate(run).influence.values).all()


def test_one_block_of_rows_is_named_as_such():
    x = torch.zeros(300, 2)
    found = compare(
        of_tensors({"0": x, "1": x}), of_tensors({"0": x, "1": x.index_fill(0, torch.tensor(9), 1)})
    )
    assert found.difference == "targets among rows 9 to 10"


def test_the_model_as_it_was_recorded_is_the_runs_own():
    model = Frozen()
    run = ik.record(workload(model=model))
    before = ik.estimate(run).influence.values
    with torch.no_grad():
        model.table.weight.mul_(2)
        model.layer.weight.zero_()
    assert np.array_equal(ik.estimate(run).influence.values, before)


@pytest.mark.parametrize("kind", [TensorDataset, Fetched])
def test_a_taped_run_whose_data_change_in_place_names_them(tmp_path, kind):
    x, y = examples()
    loss = nn.CrossEntropyLoss(weight=torch.ones(3), reduction="none")
    test = x[:5].clone(), y[:5].clone()
    taped(tmp_path / "run.zarr", kind(x, y), loss=loss)
    run = reopened(tmp_path / "run.zarr", kind(x, y), loss=loss, test=test)
    before = ik.estimate(run).influence.values
    for tensor, name in ((x, "training data"), (test[0], "test data"), (loss.weight, "tensors of the loss")):
        tensor.mul_(2)
        with pytest.raises(ik.InputError, match=f"{name} changed in place"):
            ik.estimate(run)
        tensor.div_(2)
    assert np.array_equal(ik.estimate(run).influence.values, before)


class Focal(nn.Module):
    """A loss with settings, one of them deeper, which counts its calls."""

    def __init__(self):
        super().__init__()
        self.inner = nn.CrossEntropyLoss(reduction="none")
        self.powers, self.weight, self.calls = (1.0, 2.0), torch.ones(3), 0

    def forward(self, outputs, target):
        self.calls += 1
        return self.powers[0] * self.inner(outputs, target) * self.weight[0]


@pytest.mark.parametrize("kept", ["memory", "opened", "taped"])
def test_settings_of_a_loss_that_change_after_the_first_use_are_named(tmp_path, kept):
    """Its number of calls is none, and `eval()` means nothing to it."""
    loss, (x, y) = Focal(), examples()
    if kept == "taped":
        taped(tmp_path / "run.zarr", TensorDataset(x, y), loss=loss)
        run = reopened(tmp_path / "run.zarr", TensorDataset(x, y), loss=loss, test=(x[:5], y[:5]))
    else:
        w = workload(loss=loss)
        run = ik.record(w, store=None if kept == "memory" else tmp_path / "run.zarr")
        run = run if kept == "memory" else ik.open(tmp_path / "run.zarr", w)
    before = ik.estimate(run).influence.values
    loss(torch.randn(2, 3), torch.zeros(2, dtype=torch.long)), loss.eval()
    changes = [
        (loss.inner, "label_smoothing", 0.3),
        (loss, "powers", (2.0, 2.0)),
        (loss, "weight", 2 * loss.weight),
    ]
    for owner, name, value in changes:
        was = getattr(owner, name)
        setattr(owner, name, value)
        with pytest.raises(
            ik.InputError, match=rf"the loss has changed .* its setting \S*{name} was"
        ) as error:
            ik.estimate(run)
        assert "\n" not in str(error.value)
        setattr(owner, name, was)
    assert np.array_equal(ik.estimate(run).influence.values, before)
