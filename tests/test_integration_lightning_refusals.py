"""What the Lightning callback refuses by name."""

import pytest

pytest.importorskip("lightning", reason="the extra influencekit[lightning] is not installed")

import lightning as L  # noqa: E402
from helpers_lightning import N, Net, Points, fit, per_example  # noqa: E402
from torch.utils.data import DataLoader, IterableDataset  # noqa: E402

import influencekit as ik  # noqa: E402
from influencekit.trainers.lightning import InfluenceCallback

pytestmark = pytest.mark.filterwarnings("ignore")


class Twice(Net):
    def __init__(self):
        super().__init__(manual=True)

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        self.optimizers().step()


class Clipping(Net):
    def configure_gradient_clipping(self, optimizer, *rest, **more):
        pass


class Augmenting(Net):
    def on_after_batch_transfer(self, batch, index):
        return batch


class Skipping(Net):
    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 2 else None


class Silent(Net):
    def training_step(self, batch, batch_idx):
        return None if batch_idx == 2 else super().training_step(batch, batch_idx)


class Doubling(Net):
    def on_after_backward(self):
        if self.global_step == 3:
            self.net[0].weight.grad.mul_(2)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([Points()[i] for i in range(N)])


REFUSED = {
    "was called without a new batch": (Twice, {}),
    "Clipping overrides configure_gradient_clipping": (Clipping, {}),
    "Augmenting overrides on_after_batch_transfer": (Augmenting, {}),
    "not trained on": (Skipping, {}),
    "training_step returned no loss": (Silent, {}),
    "step 3, replayed, is not what the loop did": (Doubling, {}),
    "precision '64-true'": (Net, {"precision": "64-true"}),
    "callback StochasticWeightAveraging": (Net, {"more": L.pytorch.callbacks.StochasticWeightAveraging(0.1)}),
    "callback GradientAccumulationScheduler": (
        Net, {"more": L.pytorch.callbacks.GradientAccumulationScheduler({0: 2})},
    ),
    "overfit_batches": (
        Net, {"overfit_batches": 2, "loaders": lambda: DataLoader(Points(), 4, shuffle=True)},
    ),
    "keep one": (Net, {"reload": True, "reload_dataloaders_every_n_epochs": 1}),
    "give the Trainer one": (Net, {"loaders": lambda: [DataLoader(Points(), 4), DataLoader(Points(), 4)]}),
    "IterableDataset": (Net, {"loaders": lambda: DataLoader(Stream(), 4)}),
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_recorded_is_refused_by_name(words, tmp_path):
    kind, changes = REFUSED[words]
    changes = dict(changes)
    more, loaders = changes.pop("more", None), changes.pop("loaders", lambda: DataLoader(Points(), 4))
    settings = {
        "max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "enable_checkpointing": False,
    }  # fmt: skip
    tape = InfluenceCallback(tmp_path / "run.zarr", loss=per_example, check=1)
    module = kind()
    if changes.pop("reload", False):
        module.train_dataloader = loaders
    trainer = L.Trainer(**settings, **changes, callbacks=[tape, *([more] if more else [])])
    with pytest.raises(ik.InputError, match=words):
        trainer.fit(module, *([] if "reload_dataloaders_every_n_epochs" in changes else [loaders()]))


def test_several_devices_are_refused(tmp_path):
    tape = InfluenceCallback(tmp_path / "run.zarr", loss=per_example)
    with pytest.raises(ik.InputError, match="strategy DDPStrategy cannot be recorded"):
        tape.setup(L.Trainer(accelerator="cpu", strategy="ddp", devices=1, logger=False), Net(), "fit")


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ik.InputError, match="has no submodule 'body'; it has net"):
        fit(InfluenceCallback(tmp_path / "run.zarr", loss=per_example, module="body"))
    with pytest.raises(ik.InputError, match="reduction must be 'mean', 'sum' or a function"):
        InfluenceCallback(tmp_path / "run.zarr", loss=per_example, reduction="median")


def test_without_the_callback_the_loader_is_as_before(tmp_path):
    L.seed_everything(0, verbose=False)
    data = Points()
    loader = DataLoader(data, 4, num_workers=1)
    tape = InfluenceCallback(tmp_path / "run.zarr", loss=per_example)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[tape],
    )  # fmt: skip
    trainer.fit(Net(), loader)
    assert type(loader) is DataLoader and loader.dataset is data
    assert [len(batch) for batch in loader] == [2] * 6
