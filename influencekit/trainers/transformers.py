"""A callback for `transformers.Trainer` that tapes its run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from influencekit._address import local
from influencekit._tape import Tape
from influencekit._tape.hooks import Hook
from influencekit._tape.intercept_loader import intercept_loader
from influencekit._tape.loader import IndexedBatch
from influencekit._training.call import sees_batch, values_of
from influencekit._training.checks.model import copy_model, frozen
from influencekit.errors import InputError
from influencekit.trainers.extras import missing_extra
from influencekit.trainers.model_losses import (
    Answers,
    CrossEntropy,
    SquaredError,
    count_of_trainer,
    own_forward,
    own_loss,
)
from influencekit.trainers.refusals import refuse_compiled_dropout, refuse_router, refuse_trainer
from influencekit.trainers.trl_models import (
    forward_of_trl,
    has_fused_head,
    logits_of_trl,
    refuse_joined_rows,
    refuse_trl,
    remove_autocast_of,
)

try:
    from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
except ModuleNotFoundError:
    raise missing_extra("transformers") from None

__all__ = ["Answers", "CrossEntropy", "InfluenceCallback", "SquaredError", "own_loss", "reopen_with"]

_OWN = (CrossEntropy, SquaredError, Answers)


@dataclass
class _Micro:
    """A micro-batch: its examples, the targets in it, those that the Trainer counts in it, and the count of
    targets in the step of which it tells the model."""

    batch: Any
    examples: int
    targets: int
    items: int
    counted: float | None = None


class InfluenceCallback(TrainerCallback):
    """Records the run of a `transformers.Trainer`: `trainer.add_callback(InfluenceCallback("run.zarr"))`.

    store: a new path. `loss(outputs, labels) -> [n]`, or with the parameter `batch`: one loss per example;
    default: the model's own, a cross entropy summed over the example's tokens, squared errors, or whatever
    `own_loss(model)` finds. `reduction`: the coefficient of a loss in
    its step. Default: what the Trainer and the model make it, found out from the loss that the model returns.
    "items": 1 / the targets of the whole step; "mean": 1 / the examples of the micro-batch; or a function of
    the batch. Other options are the tape's (`recorder`, `ids`, `separable`, `check`, ...).

    Everything else is read off the Trainer: optimizer, learning rates, clipping, accumulation, fp16 and bf16,
    the examples of every batch. What cannot be recorded is refused by name when training begins. A run that
    goes on from a checkpoint of the Trainer's is recorded from there; where the best model is loaded at the
    end, the run's attribute `reloaded` is the number of that state. Cost: that of the tape.
    """

    def __init__(
        self, store: str | Path, *, loss: Callable[[Any, Any], Tensor] | None = None,
        reduction: str | Callable[[Any], Tensor] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        if isinstance(reduction, str) and reduction not in ("items", "mean"):
            raise InputError(
                f"reduction must be 'items', 'mean' or a function of the batch, got {reduction!r}"
            )
        self._store, self._given, self._reduction, self._options = local(store), loss, reduction, options
        self._target = options.get("target_key", "labels")
        self._within_step = False
        self._tape: Tape | None = None

    # the Trainer's events ---------------------------------------------------------------------------

    def on_train_begin(self, *event: Any, **kwargs: Any) -> None:
        args: TrainingArguments = event[0]
        state: TrainerState = event[1]
        model, loader, optimizer = kwargs["model"], kwargs["train_dataloader"], kwargs["optimizer"]
        refuse_trainer(args, loader, state.global_step)
        refuse_trl(args)
        if "penalty" not in self._options:
            refuse_router(model)
        refuse_joined_rows(loader.collate_fn)
        if args.torch_compile:
            refuse_compiled_dropout(model)
        self._loss = self.loss_of(model, args)
        self._items = count_of_trainer(model)
        self._smoothed = args.label_smoothing_factor != 0
        self._per_target = {"items": True, "mean": False}.get(str(self._reduction))
        if self._reduction is None and has_fused_head(model):  # TRL divides, and tells the model nothing
            self._per_target = True
        self._accumulate = args.gradient_accumulation_steps
        self._epoch = int(state.epoch or 0) - 1
        self._dtype = torch.promote_types(next(model.parameters()).dtype, torch.float32)
        self._delivered: deque[IndexedBatch] = deque()
        self._micros: list[_Micro] = []
        self._coefficients: deque[Tensor] = deque()
        tape = Tape(
            self._store,
            model,
            getattr(optimizer, "optimizer", optimizer),  # accelerate wraps it
            loss=self._loss,
            data=loader.dataset,
            collate=loader.collate_fn,
            reduction=lambda batch: self._coefficients.popleft(),
            accumulate=self._accumulate,
            clip_norm=args.max_grad_norm or None,
            scaler=getattr(optimizer, "scaler", None),
            **{"name": type(model).__name__, **self.called_as(model, args), **self._options},
        )
        self._undo = _around(model, self._forward, self._forwarded)  # hooks ahead of the tape's own
        try:
            self._undo.append(intercept_loader(getattr(loader, "base_dataloader", loader), self._delivered))
            self._tape = tape.open()
        except BaseException:
            self._undo_all()
            raise

    def on_epoch_begin(self, *event: Any, **kwargs: Any) -> None:
        if self._tape is not None:
            self._delivered.clear()  # what an epoch that was left early had fetched ahead
            self._epoch += 1

    def on_step_begin(self, *event: Any, **kwargs: Any) -> None:
        if self._tape is not None:
            self._micros.clear()
            self._within_step = True
            self._tape.boundary(epoch=self._epoch)
            self._coefficients.clear()  # of a step that a GradScaler skipped
            self._push()

    def on_substep_end(self, *event: Any, **kwargs: Any) -> None:
        if self._tape is not None:
            self._push()

    def on_pre_optimizer_step(self, *event: Any, **kwargs: Any) -> None:
        if self._tape is not None:  # now that the step's micro-batches are complete
            self._coefficients.extend(self._coefficient(micro) for micro in self._micros)

    def on_step_end(self, *event: Any, **kwargs: Any) -> None:
        self._within_step = False

    def on_train_end(self, *event: Any, **kwargs: Any) -> None:
        self.close()  # after the best model was loaded, which the tape understands

    def close(self) -> None:
        """End the recording. The Trainer does it, but not where an exception ended the training: then what
        was done until then stays, and can be opened."""
        tape, self._tape = self._tape, None
        if tape is not None:
            self._undo_all()
            tape.close(RuntimeError("training ended within a step") if self._within_step else None)

    def _undo_all(self) -> None:
        for undo in self._undo:
            undo()

    # what a program that opens the run has to say again ------------------------------------------------

    def loss_of(self, model: nn.Module, args: TrainingArguments) -> Callable[..., Tensor]:
        """The loss of one example: the one given, or the model's own."""
        return self._given or own_loss(model, args.label_smoothing_factor)

    def called_as(self, model: nn.Module, args: TrainingArguments) -> dict[str, Any]:
        """How outputs come about, where `model(**batch without labels)` does not say it."""
        own = own_forward(model)
        if has_fused_head(model):
            own = logits_of_trl if args.label_smoothing_factor else forward_of_trl
        found: dict[str, Any] = {} if own is None else {"forward": own}
        return found | {name: self._options[name] for name in ("forward", "penalty") if name in self._options}

    # a micro-batch ----------------------------------------------------------------------------------

    def _push(self) -> None:
        """The next batch that was delivered is going to be forwarded."""
        if not self._delivered:
            raise InputError("the Trainer takes a step on a batch that its DataLoader did not deliver")
        indices, rng, batch = self._delivered.popleft()
        needed = ("start_positions", "end_positions") if isinstance(self._loss, Answers) else (self._target,)
        missing = [name for name in needed if name not in batch]
        if missing and (isinstance(self._loss, _OWN) or not sees_batch(self._loss)):
            raise InputError(
                f"the batch has no entry {missing[0]!r}, only {', '.join(batch)}; name it so in the data "
                "set, or pass loss= and target_key="
            )
        if isinstance(self._loss, _OWN):
            targets = self._loss.terms(batch)
        else:
            targets = len(indices) if missing else int((batch[self._target] != -100).sum())
        items = int(self._items(batch)) if isinstance(batch.get("labels"), Tensor) else targets
        self._micros.append(_Micro(batch, len(indices), targets, items))
        assert self._tape is not None
        self._tape.push(indices, rng, batch)

    def _forward(self, kwargs: dict[str, Any]) -> None:
        counted = kwargs.get("num_items_in_batch")
        self._micros[-1].counted = None if counted is None else float(counted)

    def _forwarded(self, kwargs: dict[str, Any], outputs: Any) -> None:
        """Find out by which count the model has divided the loss that it returns."""
        if self._reduction is not None or self._per_target is not None:
            return
        if "labels" not in kwargs and self._smoothed:  # label smoothing, by the Trainer
            self._per_target = self._micros[-1].counted is not None
            return
        if "loss" not in outputs:
            raise InputError(
                "the Trainer does not take the model's own loss (compute_loss_func?); pass loss= and "
                "reduction= ('items': it divides by num_items_in_batch; 'mean': by the examples)"
            )
        micro = self._micros[-1]
        if not self._own_count(micro):  # all of its labels are -100, which tells nothing
            return
        with torch.no_grad():
            found_losses = values_of(self._loss, outputs, kwargs.get(self._target), kwargs)
            total = float(found_losses.double().sum())
        if not (found_losses.isfinite().all() or outputs["loss"].isfinite()):  # the tape says why
            return
        returned, found = float(outputs["loss"].detach()), {False: total / self._own_count(micro)}
        if micro.counted is not None:
            found[True] = total / micro.counted
        nearest = min(found, key=lambda k: abs(found[k] - returned))
        if not abs(found[nearest] - returned) <= 2e-2 * max(abs(returned), 1e-3):  # 2e-2: bf16
            raise InputError(
                f"the model's loss on a batch is {returned:.6g}, where the mean of loss= is "
                f"{found[False]:.6g}; pass the loss that the model has, and reduction="
            )
        if len(found) == 1 or abs(found[True] - found[False]) > 0.1 * abs(returned):
            self._per_target = nearest

    def _own_count(self, micro: _Micro) -> int:
        """What a mean over this micro-batch divides by."""
        return micro.targets if isinstance(self._loss, _OWN) else micro.examples

    def _coefficient(self, micro: _Micro) -> Tensor:
        """d step loss / d example loss, rounded as backward rounds; times `accumulate`, as the tape divides.

        The Trainer divides a mean by the number of micro-batches, but not where it has told the model how
        many targets the step has; models that do not listen then minimise the sum of the means.
        """
        one = torch.ones((), dtype=self._dtype)
        if callable(self._reduction):
            value = torch.as_tensor(self._reduction(micro.batch)).cpu()
        else:
            total = micro.counted or sum(m.items for m in self._micros)
            count = total if self._per_target else self._own_count(micro)
            whole = self._per_target or micro.counted is not None or self._reduction is not None
            value = (one if whole else one / len(self._micros)) / (
                count or torch.inf
            )  # no label: no gradient
        return value.double() * self._accumulate


def reopen_with(trainer: Trainer, loss: Callable[..., Tensor] | None = None) -> dict[str, Any]:
    """What `ik.open` needs beside the store and the test examples: model, loss, data, collation, forward.

    `ik.open("run.zarr", test=..., **reopen_with(trainer))`. The trainer may be the one that was recorded, or
    one made again in the same way, which need not train: what its `InfluenceCallback` was told need not be
    told again. `loss`: where the trainer was made without the callback and the callback was given a loss.
    """
    loader = trainer.get_train_dataloader()
    model: Any = trainer.model
    callbacks = [c for c in trainer.callback_handler.callbacks if isinstance(c, InfluenceCallback)]
    if len(callbacks) > 1 and loss is None:
        raise InputError(
            f"the trainer has {len(callbacks)} InfluenceCallbacks; pass loss= of the one you mean"
        )
    callback = callbacks[0] if len(callbacks) == 1 else InfluenceCallback("", loss=loss)
    return {
        "model": _plain(model),
        "loss": loss or callback.loss_of(model, trainer.args),
        "data": loader.dataset,
        "collate": loader.collate_fn,
        **callback.called_as(model, trainer.args),
    }


def _plain(model: nn.Module) -> nn.Module:
    """A copy without what the Trainer and accelerate put around a model that they train; frozen weights are
    the model's own."""
    copy: Any = copy_model(model, frozen(model))
    remove_autocast_of(copy)  # bf16
    if hasattr(copy, "disable_input_require_grads"):
        copy.disable_input_require_grads()
    return copy


def _around(
    model: nn.Module, before: Callable[[Any], None], after: Callable[[Any, Any], None]
) -> list[Callable[[], None]]:
    """Call back around training forwards, also of a model that is compiled, and not of copies."""

    def pre(module: nn.Module, positional: Any, kwargs: dict[str, Any]) -> None:
        if module.training and torch.is_grad_enabled():
            before(kwargs)

    def post(module: nn.Module, positional: Any, kwargs: dict[str, Any], outputs: Any) -> None:
        if module.training and torch.is_grad_enabled():
            after(kwargs, outputs)

    handles = [
        model.register_forward_pre_hook(Hook(torch.compiler.disable(pre)), with_kwargs=True),
        model.register_forward_hook(Hook(torch.compiler.disable(post)), with_kwargs=True),
    ]
    return [handle.remove for handle in handles]
