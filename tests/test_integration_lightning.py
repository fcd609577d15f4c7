"""The Lightning callback changes nothing, and records what the Trainer did."""

import pytest
import torch

pytest.importorskip("lightning", reason="the extra influencekit[lightning] is not installed")

import lightning as L  # noqa: E402
from helpers_lightning import N, Net, Points, Spy, fit, flat, opened, per_example  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

import influencekit as ik  # noqa: E402
from influencekit.trainers.lightning import InfluenceCallback

pytestmark = pytest.mark.filterwarnings("ignore")


SETTINGS = {
    "as it comes": {},
    "accumulation, a short last group, clipping": {"accumulate_grad_batches": 4, "gradient_clip_val": 0.1},
    "clipping by value": {"gradient_clip_val": 0.02, "gradient_clip_algorithm": "value"},
    "workers, random examples": {"loader": {"num_workers": 2}, "noise": 0.1, "accumulate_grad_batches": 3},
    "persistent workers, whole batches, validation within": {
        "loader": {"num_workers": 2, "persistent_workers": True, "drop_last": True}, "val_check_interval": 2,
    },
    "validated on the training loader": {"same": True, "val_check_interval": 2, "noise": 0.1},
    "validated on the training loader, with workers": {
        "same": True, "val_check_interval": 2, "loader": {"num_workers": 1},
    },
    "bf16": {"precision": "bf16-mixed", "accumulate_grad_batches": 3},
    "manual optimization": {"net": {"manual": True}},
    "manual optimization over three batches": {"net": {"manual": True, "parts": 3}},
    "sgd, momentum, cut short": {
        "net": {"kind": torch.optim.SGD, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        "max_steps": 7, "limit_train_batches": 3, "max_epochs": 9,
    },
}  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_what_is_recorded_is_what_the_trainer_did(settings, tmp_path):
    _, alone = fit(**settings)
    parts = (settings.get("net") or {}).get("parts", 1)
    own = {"accumulate": parts} if parts > 1 else {}
    spy, tape = Spy(), InfluenceCallback(tmp_path / "run.zarr", loss=per_example, check=1, **own)
    _, module = fit(tape, spy, **settings)
    assert torch.equal(flat(module), flat(alone)), "the callback changed the run"
    run = opened(tmp_path / "run.zarr", data=Points(settings.get("noise", 0.0)))
    found = [[i for i in row if i >= 0] for row in run.dataset.batch.values.tolist()]
    assert found == [sum(step, []) for step in spy.steps]
    assert run.attrs["replay"] == f"{len(spy.steps)} steps replayed, equal bit for bit"
    for block in run.blocks(1, run.steps + 1):
        assert all(torch.equal(state.theta, spy.weights[state.step - 1]) for state in block)
    assert run.plan.lr[:, 0].tolist() == spy.rates[: len(spy.steps)]
    assert run.plan.epoch.tolist() == spy.epochs
    parts = max(
        parts, settings.get("accumulate_grad_batches", 1)
    )  # Lightning divides by this even where there are fewer
    for step, row in zip(spy.steps, run.dataset.coefficient.values, strict=True):
        expected = [1 / len(micro) / parts for micro in step for _ in micro]
        assert row[row != 0].tolist() == pytest.approx(expected)


def test_scores_are_the_derivative_of_lightnings_runs(tmp_path):
    """Central differences of whole runs in the weight of an example, with dropout, AdamW and clipping."""
    settings = {"double": True, "accumulate_grad_batches": 2, "gradient_clip_val": 0.1, "max_epochs": 3}
    fit(InfluenceCallback(tmp_path / "run.zarr", loss=per_example), net={"eps": 1e-3}, **settings)
    points = Points()
    points.x = points.x.double()
    run = opened(tmp_path / "run.zarr", model=Net().double(), data=points, test=points)
    scores = ik.estimate(run, "test-loss", "dit").influence.squeeze().values

    def loss_with(j, h):
        weights = torch.ones(N, dtype=torch.float64)
        weights[j] += h
        _, module = fit(net={"weights": weights, "eps": 1e-3}, **settings)
        with torch.no_grad():
            return per_example(module.eval()(points.x), points.y).mean().item()

    for j in (0, 7, 21):
        slope = (loss_with(j, 1e-4) - loss_with(j, -1e-4)) / 2e-4
        assert scores[j] == pytest.approx(-slope, rel=1e-6)


def test_a_submodule_may_be_what_is_taped(tmp_path):
    tape = InfluenceCallback(tmp_path / "run.zarr", loss=per_example, module="net", check=1)
    _, module = fit(tape, net={"inner": True})
    run = opened(tmp_path / "run.zarr", model=Net().net)
    assert torch.equal(run.state(run.last).theta, flat(module.net))
    assert "bit for bit" in run.attrs["replay"]


class Module(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Points(), 4, shuffle=True)


def test_loaders_of_a_data_module_are_heard(tmp_path):
    L.seed_everything(0, verbose=False)
    spy, tape = Spy(), InfluenceCallback(tmp_path / "run.zarr", loss=per_example, check=1)
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[tape, spy],
    )  # fmt: skip
    trainer.fit(Net(), datamodule=Module())
    run = opened(tmp_path / "run.zarr")
    found = [[i for i in row if i >= 0] for row in run.dataset.batch.values.tolist()]
    assert found == [sum(step, []) for step in spy.steps]
    assert run.attrs["replay"] == f"{len(spy.steps)} steps replayed, equal bit for bit"


def test_a_run_from_a_checkpoint_is_recorded_from_there(tmp_path):
    first = Spy()
    trainer, _ = fit(first, enable_checkpointing=True, default_root_dir=tmp_path)
    path = tmp_path / "half.ckpt"
    trainer.save_checkpoint(path)
    spy, tape = Spy(), InfluenceCallback(tmp_path / "run.zarr", loss=per_example, check=1)
    _, module = fit(tape, spy, ckpt=path, max_epochs=4)
    run = opened(tmp_path / "run.zarr")
    assert torch.equal(run.state(0).theta, first.weights[-1])
    assert torch.equal(run.state(run.last).theta, flat(module))
    assert run.attrs["replay"] == f"{len(spy.steps)} steps replayed, equal bit for bit"
    assert set(run.plan.epoch.tolist()) == {2, 3}


class Stopping(L.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == self.step:
            raise RuntimeError("out of coffee")


def test_after_an_exception_what_was_done_is_kept(tmp_path):
    spy = Spy()
    with pytest.raises(RuntimeError, match="coffee"):
        fit(InfluenceCallback(tmp_path / "run.zarr", loss=per_example, recorder="full"), spy, Stopping(5))
    run = opened(tmp_path / "run.zarr")
    assert run.last >= 4
    assert torch.equal(run.state(4).theta, spy.weights[3])


def test_a_step_that_a_scaler_skips_is_left_out(tmp_path):
    """Lightning scales the loss of 16-mixed on a GPU; here a CPU's scaler, whose first factor overflows."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1e38, backoff_factor=1e-34)
    half = L.pytorch.plugins.MixedPrecision("16-mixed", "cpu", scaler)
    spy, tape = Spy(), InfluenceCallback(tmp_path / "run.zarr", loss=per_example, check=1)
    _, module = fit(tape, spy, plugins=[half], gradient_clip_val=0.5)
    run = opened(tmp_path / "run.zarr")
    found = [[i for i in row if i >= 0] for row in run.dataset.batch.values.tolist()]
    assert found == [sum(step, []) for step in spy.steps[1:]]
    assert run.attrs["replay"].startswith(f"{run.steps} steps replayed")
    assert torch.equal(run.state(run.last).theta, flat(module))
