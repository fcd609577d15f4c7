"""Record a PyTorch training loop of your own: batches, learning rates, random states, some of the states."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, default_collate

from influencekit._address import local
from influencekit._arguments import checked
from influencekit._code import refuse_training
from influencekit._exclusive import Claim, exclusive
from influencekit._signals import deferred
from influencekit._tape.checks.arguments import (
    check_arguments,
    check_functions,
    check_optimizer,
    refuse_parallel,
    scalers_of,
    schedulers_of,
)
from influencekit._tape.hyperparameters import HyperParameters
from influencekit._tape.loader import as_data_set, entries
from influencekit._tape.loop_batches import Batches
from influencekit._tape.open_taped import open_taped
from influencekit._tape.optimizer import Clip
from influencekit._tape.recording import Recording
from influencekit._tape.replica import Call, Penalty
from influencekit._tape.step_collector import Reduction
from influencekit._tape.stream import StreamExamples
from influencekit._tape.unwrap import model_behind, optimizer_behind
from influencekit._training.checks.model import copy_model
from influencekit._training.ids import checked_ids
from influencekit._training.loss_by_part import Parts
from influencekit._training.ranks import ranks_of
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InputError
from influencekit.interfaces import Recorder
from influencekit.registry import resolve

__all__ = ["Tape"]


class Tape:
    """Records a training loop while it runs, so that it can be replayed and attributed afterwards.

        with ik.Tape("run.zarr", model, optimizer, loss=per_example, data=train_set) as tape:
            for epoch in range(3):
                for ids, batch in tape.batches(loader):
                    ...  # forward, backward, clip, optimizer.step(), scheduler.step() as before

    store: a new path, or None for memory.
    loss(outputs, target) -> [n]: one loss per example, or `ik.Parts`; a parameter named `batch` gets the
        batch, too. A step of the loop must minimise their mean over each micro-batch, divided by
        `accumulate`.
    reduction: "mean"; "sum"; or a function of the batch: the coefficient of every example's loss, for
        instance 1 / number of tokens.
    penalty(model), or penalty(model, outputs, batch) by these names: a scalar that the loop adds to each
        micro-batch's mean (L1, L2, balance of experts), divided by `accumulate`. It belongs to no example.
    data: the map-style data set, or the tensors of all examples, as in (x, y); None for a loop without one
        (a stream, batches made as it goes): then the store keeps the examples, each content once.
    collate: what the loader collates with (default: the loader's).
    forward(model, batch): the outputs where they are not `model(*inputs)` or `model(**inputs)`.
    target_key: the target's entry in batches that are dicts.
    accumulate: the micro-batches of a step, by which each loss is divided; left-over ones may make a smaller
        step (None: divided by the number that the step has).
    clip_norm, clip_norm_type, clip_value: the loop clips the gradient, as `torch.nn.utils.clip_grad_norm_`
        (of this norm) or `clip_grad_value_` does.
    separable: False admits losses that depend on the other examples of a batch (contrastive ones; not batch
        norm), and marks the results.
    ids: your own names of the examples, or the entry of examples that are dicts that has them. Without a data
        set they may come as pairs (ids, batch); else examples are numbered by content as they come.
    scaler: the loop's `torch.amp.GradScaler`. Its skipped steps are left out, and its scale is recorded.
    scheduler: one or more, saved for `resume`.
    resume: continue an interrupted run, or append to a finished one.
    durable: committed steps also outlive a loss of power: every file is forced to the disk before a commit.
    group: `torch.distributed.group.WORLD`, on every rank of a loop whose gradients are averaged over them, as
        by DistributedDataParallel. Rank 0 writes the store.
    check: the fraction of the loop's time that may go into replaying randomly chosen steps (0 = none, 1 =
        every step).
    tolerance: how far, relative to the update, a replay may be off where it is not bitwise.

    On the CPU a replay is bitwise where the loop's mean rounds as `loss(...).mean()` does. Cross entropy's
    does, that of binary cross entropy only for batch sizes that are powers of 2, else to 1e-6 of an update.

    Errors: whatever cannot be recorded exactly, by name, at the step where it is met. Cost: docs/tape.md.

    Example:

        >>> import torch
        >>> import influencekit as ik
        >>> data = torch.utils.data.TensorDataset(torch.randn(12, 3), torch.randint(2, (12,)))
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
        >>> losses = torch.nn.CrossEntropyLoss(reduction="none")
        >>> with ik.Tape(None, model, optimizer, loss=losses, data=data) as tape:
        ...     for ids, (x, y) in tape.batches(loader):
        ...         optimizer.zero_grad()
        ...         losses(model(x), y).mean().backward()
        ...         optimizer.step()
        >>> run = tape.trajectory(test=data)
        >>> ik.estimate(run).influence.shape
        (1, 1, 12)
    """

    @exclusive()
    @checked
    def __init__(
        self, store: str | Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, *,
        loss: Callable[[Any, Any], Tensor | Parts], data: Any,
        collate: Callable[[list[Any]], Any] | None = None,
        recorder: Recorder | str = "every-k:k=50", forward: Callable[[nn.Module, Any], Any] | None = None,
        penalty: Penalty | None = None, target_key: str = "labels", reduction: Reduction = "mean",
        accumulate: int | None = 1, clip_norm: float | None = None, clip_norm_type: float = 2.0,
        clip_value: float | None = None, separable: bool = True,
        ids: Sequence[Hashable] | str | None = None, scaler: Any = None,
        scheduler: Any = (), resume: bool = False, check: float = 0.01, tolerance: float = 5e-3,
        name: str = "taped", durable: bool = False, group: Any = None,
    ) -> None:  # fmt: skip
        store = None if store is None else local(store)
        check_functions(collate=collate, forward=forward, penalty=penalty)
        called, data = model, as_data_set(data)
        if data is None or isinstance(data, IterableDataset):
            data = StreamExamples()
        model, optimizer = model_behind(model), optimizer_behind(optimizer)
        check_optimizer(optimizer)
        params = [p for group in optimizer.param_groups for p in group["params"]]
        check_arguments(model, params, loss, data, accumulate, reduction, check)
        refuse_parallel(group)
        self.model, self.optimizer = model, optimizer
        self._store, self._group = store, group
        self._opened: Recording | None = None
        schedulers, scaling = schedulers_of(scheduler), scalers_of(scaler)
        call = Call(loss, data, collate or default_collate, target_key, forward, penalty)
        self._begin = partial(
            Recording, store, called, optimizer, call, collate_given=collate is not None,
            recorder=resolve("recorder", recorder),
            settings=HyperParameters(optimizer), reduction=reduction, accumulate=accumulate,
            clip=Clip(clip_norm, clip_norm_type, clip_value), separable=separable,
            ids=_names(ids, data), id_entry=ids if isinstance(ids, str) else None,
            schedulers=[*schedulers, *scaling],
            resume=resume, check=check, tolerance=tolerance, name=name, scaler=next(iter(scaling), None),
            durable=durable, group=group,
        )  # fmt: skip

    def __enter__(self) -> Tape:
        refuse_training()
        if self._opened is not None and ranks_of(self._group) is not None:
            raise InputError(
                "a run that several ranks recorded cannot go on; make a new tape for a new store"
            )
        claim = Claim(f"the tape {self._store or 'in memory'}", self)
        try:
            if self._opened is not None and self._opened.finished:
                self._opened.go_on()
            else:
                self._opened = self._begin()
        except BaseException:
            claim.release()
            raise
        self._claim = claim
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *rest: Any) -> None:
        self.close(error)

    open = __enter__

    @deferred()
    def close(self, error: BaseException | None = None) -> None:
        """What leaving the `with` block does. `error`: what ended the loop."""
        recording = self._recording
        try:
            recording.close(error)
        finally:
            self._claim.release()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise InputError(
            "a tape cannot be copied or pickled, since it listens to one loop; copy the model, or "
            "tape.trajectory() once the tape is closed"
        )

    @property
    def _recording(self) -> Recording:
        if self._opened is None:
            raise InputError(
                "the tape is not open; write `with ik.Tape(...) as tape:` around the loop, or call "
                "tape.open() before it and tape.close() after it"
            )
        return self._opened

    @exclusive()
    def trajectory(self, test: Any = None, **more: Any) -> Trajectory:
        """The recorded run, once the tape is closed. Options: see `influencekit.open`. It has frozen weights
        of its own, since a program may go on and train them; `influencekit.open` shares yours."""
        call = self._recording.call
        if not self._recording.closed:
            raise InputError("the tape is still open; ask for its run after the with block, or after close()")
        data = None if isinstance(call.data, StreamExamples) else call.data
        trained = [p for p in self.model.parameters() if p.requires_grad]  # copied when the run is opened
        return open_taped(
            self._recording.writer.opened.group, str(self._store or "the tape"),
            model=copy_model(self.model, trained), loss=call.loss, data=data, test=test,
            collate=call.collate, forward=call.forward, penalty=call.penalty, **more,
        )  # fmt: skip

    @property
    def committed(self) -> int:
        """The number of steps that are safe on disk, whatever happens to the process."""
        writer = self._recording.writer.writer
        return 0 if writer is None else writer.committed

    @property
    def steps(self) -> int:
        """The number of steps that the run has, those before it was resumed included."""
        writer = self._recording.writer.writer
        return 0 if writer is None else writer.steps

    def batches(self, loader: DataLoader[Any] | Iterable[tuple[Sequence[int], Any]]) -> Batches:
        """(ids, batch) of an epoch: the loader's own batches in its own order. Call it once an epoch.

        `loader` is a torch DataLoader over the tape's data set or a subset of it, an object around one (tqdm,
        accelerate's, Fabric's), or pairs (positions, batch) of your own making. Without a data set it gives
        batches, or pairs (ids, batch). In a resumed run the batches that were done are skipped. What comes
        back has the loader's length: `tqdm(tape.batches(loader))`.
        """
        begin = self._recording.batches
        self._claim.move()
        return Batches(begin, loader)

    # for callbacks of trainers, in the place of `batches` ------------------------------------------

    def boundary(self, *, epoch: int) -> None:
        """A step is about to begin."""
        recording = self._recording
        self._claim.move()
        recording.boundary(epoch)

    def push(self, indices: Sequence[int], rng: bytes | None = None, batch: Any = None) -> None:
        """The micro-batch of these positions is forwarded next (first come, first served)."""
        self._recording.push(indices, rng, batch)


def _names(ids: Sequence[Hashable] | str | None, data: Any) -> list[Hashable]:
    """The names of the examples; of a loop without a data set those that it gives with the batches."""
    if isinstance(data, StreamExamples):
        if ids is not None and not isinstance(ids, str):
            raise InputError(
                "ids: without a data set they come with the batches, as pairs (ids, batch), or are an entry "
                'of batches that are dicts, as in ids="name"'
            )
        return data.ids
    if isinstance(ids, str):
        return checked_ids(entries(data, ids), len(data), "ids")
    return list(range(len(data))) if ids is None else checked_ids(ids, len(data), "ids")
