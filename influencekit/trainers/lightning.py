"""A callback for `lightning.Trainer` that tapes its run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from influencekit._address import local
from influencekit._tape import Tape
from influencekit._tape.intercept_loader import check_trainer_loader, intercept_loader
from influencekit._tape.loader import IndexedBatch
from influencekit.errors import InputError
from influencekit.trainers.extras import missing_extra

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.utilities.model_helpers import is_overridden
except ModuleNotFoundError:
    raise missing_extra("lightning") from None

__all__ = ["InfluenceCallback"]

_NO_LOSS = "training_step returned no loss for a batch; leave such examples out of the data set"
_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
# callbacks that change weights, parameter groups or accumulation behind the loop's back
_REFUSED = (
    "StochasticWeightAveraging", "WeightAveraging", "EMAWeightAveraging", "BaseFinetuning", "ModelPruning",
    "GradientAccumulationScheduler", "LearningRateFinder", "BatchSizeFinder",
)  # fmt: skip


class InfluenceCallback(Callback):
    """Records the run of a Trainer: `Trainer(callbacks=[InfluenceCallback("run.zarr", loss=...)])`.

    store: a new path. `loss(outputs, target) -> [n]`: one loss per example; `training_step` must return their
    mean over the batch, or what `reduction` says ("sum", or a function of the batch that gives the
    coefficient of every loss). `module`: the name of the submodule that `training_step` calls, where it does
    not call the LightningModule itself (`self(x)`); the tape then knows the parameters of that alone, and
    `ik.open` takes such a submodule as its model. Other options are the tape's (`recorder`, `target_key`,
    `forward`, `ids`, `separable`, `check`, ...).

    Everything else is read off the Trainer: clipping, accumulation, mixed precision, the examples of every
    batch. With `automatic_optimization=False`, `training_step` does one forward pass on its batch, and a step
    after every batch, or after `accumulate=` of them, by one optimizer; say `clip_norm=` if it clips. What
    cannot be recorded is refused by name when training begins. A run that goes on from a checkpoint is
    recorded from there. Cost: that of the tape.
    """

    def __init__(
        self, store: str | Path, *, loss: Callable[[Any, Any], Tensor],
        reduction: str | Callable[[Any], Tensor] = "mean", module: str | None = None, **options: Any,
    ) -> None:  # fmt: skip
        if isinstance(reduction, str) and reduction not in ("mean", "sum"):
            raise InputError(f"reduction must be 'mean', 'sum' or a function of the batch, got {reduction!r}")
        self._store, self._loss, self._reduction, self._module = local(store), loss, reduction, module
        self._options = options
        self._waiting = False
        self._tape: Tape | None = None
        self._delivered: deque[IndexedBatch] = deque()
        self._undo: list[Callable[[], None]] = []

    # before the loop --------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        _refuse(trainer, pl_module)
        self._loader: Any = None
        source = trainer.fit_loop._data_source  # asked for a loader at the start, and for each reload
        ask = source.dataloader

        def dataloader() -> Any:
            return self._intercept(ask())

        source.dataloader = dataloader  # type: ignore[method-assign]
        self._undo.append(lambda: source.__dict__.pop("dataloader", None))

    def _intercept(self, loader: Any) -> Any:
        """Intercept a loader that Lightning is about to iterate over."""
        check_trainer_loader(loader)
        if self._loader is None:
            self._data, self._collate = loader.dataset, loader.collate_fn
        elif loader is not self._loader:
            raise InputError("the run changes its DataLoader (reload_dataloaders_every_n_epochs); keep one")
        else:
            return loader
        self._loader = loader
        self._undo.append(intercept_loader(loader, self._delivered))
        return loader

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(trainer.optimizers) != 1:
            raise InputError(f"the run has {len(trainer.optimizers)} optimizers; the tape records one")
        if trainer.train_dataloader is not self._loader:
            raise InputError("Lightning has replaced the DataLoader (overfit_batches?); train without that")
        self._accumulate = trainer.accumulate_grad_batches
        (optimizer,) = trainer.optimizers
        automatic, options = pl_module.automatic_optimization, dict(self._options)
        first = partial(_closure_first, needs_loss=automatic)
        self._undo.append(optimizer.register_step_pre_hook(first).remove)  # before the tape's hook
        clipping = {"clip_value" if _by_value(trainer) else "clip_norm": trainer.gradient_clip_val or None}
        if not automatic:  # training_step clips and accumulates itself
            self._accumulate, clipping = options.pop("accumulate", 1), {}
        tape = Tape(
            self._store,
            self._called(pl_module),
            optimizer,
            loss=self._loss,
            data=self._data,
            collate=self._collate,
            reduction=self._reduction,
            accumulate=self._accumulate,
            scaler=getattr(trainer.precision_plugin, "scaler", None),
            **{"name": type(pl_module).__name__, **clipping, **options},
        )
        self._tape = tape.open()

    def _called(self, pl_module: LightningModule) -> nn.Module:
        if self._module is None:
            return pl_module
        try:
            return pl_module.get_submodule(self._module)
        except AttributeError:
            raise InputError(
                f"{type(pl_module).__name__} has no submodule {self._module!r}; it has "
                f"{', '.join(name for name, _ in pl_module.named_children())}"
            ) from None

    # the loop ---------------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._tape is None:
            return
        if pl_module.automatic_optimization and trainer.accumulate_grad_batches != self._accumulate:
            raise InputError(
                f"accumulate_grad_batches changed from {self._accumulate} to "
                f"{trainer.accumulate_grad_batches}; keep it"
            )
        self._check_trained()
        if batch_idx % self._accumulate == 0:
            self._tape.boundary(epoch=trainer.current_epoch)
        self._tape.push(*self._delivered.popleft())
        self._waiting = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._waiting = False
        if self._tape is not None and not outputs and pl_module.automatic_optimization:
            raise InputError(_NO_LOSS)

    def _check_trained(self) -> None:
        if self._waiting:
            raise InputError(
                "a batch was delivered and not trained on (on_train_batch_start returned -1?); leave such "
                "examples out of the data set"
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before_validation = list(self._delivered)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._delivered.clear()  # of the training examples that were evaluated, if it is they that were
        self._delivered.extend(self._before_validation)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_trained()
        self._delivered.clear()  # what was fetched ahead of an epoch that ended early

    # after the loop ---------------------------------------------------------------------------------

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end(exception)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        tape, self._tape = self._tape, None
        for undo in self._undo:
            undo()
        self._undo = []
        if tape is not None:
            tape.close(error)


def _closure_first(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any, needs_loss: bool) -> Any:
    """Run Lightning's closure (forward, backward, clipping) ahead of the step, which does it first anyway.

    The tape's own hook comes next, and finds the gradients as the step will use them.
    """
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if closure is None:
        return None
    with torch.enable_grad():
        loss = closure()
    if loss is None and needs_loss:
        raise InputError(_NO_LOSS)
    return (optimizer,), {}


def _refuse(trainer: Trainer, pl_module: LightningModule) -> None:
    """Refuse by name what a replay would not do again."""
    strategy = type(trainer.strategy).__name__
    if strategy != "SingleDeviceStrategy":
        raise InputError(f"strategy {strategy} cannot be recorded; train on one device (devices=1)")
    if trainer.precision not in _PRECISIONS:
        raise InputError(
            f"precision {trainer.precision!r} cannot be recorded; use one of {', '.join(_PRECISIONS)}"
        )
    for hook in ("configure_gradient_clipping", "optimizer_step", "backward"):
        if is_overridden(hook, pl_module):
            raise InputError(
                f"{type(pl_module).__name__} overrides {hook}, which the tape cannot see into; leave it to "
                "Lightning"
            )
    for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):
        for owner in (pl_module, trainer.datamodule if hasattr(trainer, "datamodule") else None):
            if is_overridden(hook, owner):
                raise InputError(
                    f"{type(owner).__name__} overrides {hook}, which would not be done again; move it into "
                    "the data set or collate_fn"
                )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        kinds = {kind.__name__ for kind in type(callback).__mro__}
        if found := kinds & set(_REFUSED):
            raise InputError(f"callback {sorted(found)[0]} cannot be recorded; train without it")


def _by_value(trainer: Any) -> bool:
    return str(getattr(trainer.gradient_clip_algorithm, "value", trainer.gradient_clip_algorithm)) == "value"
