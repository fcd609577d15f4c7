"""The Lightning callback changes nothing, and records what the Trainer did."""

import pytest
import torch

pytest.importorskip("lightning", reason="the extra influencekit[lightning] is not installed")

import lightning as L  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402
from torch.utils.data import DataLoader, Dataset, IterableDataset  # noqa: E402

import influencekit as ik  # noqa: E402
from influencekit.trainers.lightning import InfluenceCallback

pytestmark = pytest.mark.filterwarnings("ignore")
N = 22


class Points(Dataset):
    """Number 0 of an example is its position, so that a batch shows which examples it holds."""

    def __init__(self, noise=0.0):
        self.noise, generator = noise, torch.Generator().manual_seed(0)
        self.x = torch.randn(N, 4, generator=generator)
        self.x[:, 0] = torch.arange(N) / N
        self.y = (self.x[:, 1] > 0).long()

    def __len__(self):
        return N

    def __getitem__(self, i):
        return self.x[i] + self.noise * torch.randn(4) * torch.tensor([0.0, 1, 1, 1]), self.y[i]


def per_example(outputs, target):
    return cross_entropy(outputs, target, reduction="none")


class Net(L.LightningModule):
    def __init__(self, inner=False, weights=None, manual=False, parts=1, **optimizer):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 2))
        self.inner, self.given = inner, optimizer
        self.w, self.parts = weights, parts
        self.automatic_optimization = not manual

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        outputs = self.net(x) if self.inner else self(x)
        if self.w is None:
            loss = cross_entropy(outputs, y)
        else:
            loss = (self.w[positions(x)] * per_example(outputs, y)).mean()
        self.log("loss", loss)
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        self.manual_backward(loss / self.parts)
        if (batch_idx + 1) % self.parts == 0:
            optimizer.step()
            self.lr_schedulers().step()
            optimizer.zero_grad()
        return None

    def validation_step(self, batch, batch_idx):
        self.log("validation", cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        kind = self.given.get("kind", torch.optim.AdamW)
        rest = {k: v for k, v in self.given.items() if k != "kind"}
        optimizer = kind(self.parameters(), **{"lr": 0.05, **rest})
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def positions(x):
    return (x[:, 0] * N).round().long()


class Spy(L.Callback):
    """What a bystander sees: the examples of every micro-batch, the weights and rate of every step."""

    def __init__(self):
        self.seen, self.steps, self.weights, self.rates, self.epochs = [], [], [], [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.seen.append(positions(batch[0]).tolist())
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.done = trainer.global_step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step > self.done:
            self.steps.append(self.seen)
            self.seen, self.rates = [], [*self.rates[: len(self.steps) - 1], self.rates[-1]]
            self.weights.append(flat(module))
            self.epochs.append(trainer.current_epoch)


def flat(module):
    return torch.cat([p.detach().reshape(-1).clone() for p in module.parameters()])


def fit(*callbacks, net=None, loader=None, noise=0.0, double=False, ckpt=None, same=False, **changes):
    """Train a small network, the same way every time."""
    L.seed_everything(0, verbose=False)
    loading = {"batch_size": 4, "shuffle": True, **(loader or {})}
    module = Net(**(net or {}))
    data = Points(noise)
    if double:
        module, data.x = module.double(), data.x.double()
    train = DataLoader(data, **loading)
    settings = {
        "max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "enable_checkpointing": False, "callbacks": list(callbacks),
    }  # fmt: skip
    trainer = L.Trainer(**{**settings, **changes})
    trainer.fit(module, train, train if same else DataLoader(data, batch_size=8), ckpt_path=ckpt)
    return trainer, module


def opened(path, **more):
    return ik.open(path, **{"model": Net(), "loss": per_example, "data": Points(), "test": Points(), **more})


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
