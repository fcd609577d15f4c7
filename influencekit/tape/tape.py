"""Record somebody else's PyTorch loop: batches, learning rates, random states, and some of the states."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from influencekit.errors import DivergedError, InputError
from influencekit.interfaces import Recorder
from influencekit.registry import resolve
from influencekit.tape.change_detector import Rest, refuse_hooks, watch
from influencekit.tape.door import admit, own_ids, refuse_parallel
from influencekit.tape.identity import check_identity, described_run
from influencekit.tape.loader import IndexedBatch, Source
from influencekit.tape.observer import Observer, Reduction, diverged
from influencekit.tape.opening import open_taped
from influencekit.tape.optimizer import check_rates, described, rates, rebuilt, remembered, settings, trained
from influencekit.tape.position import LoopPosition
from influencekit.tape.replica import Call, changed_buffers
from influencekit.tape.rng import capture
from influencekit.tape.spotcheck import Done, Moment, Rule, SpotCheck
from influencekit.tape.trainable_state import TrainableState, copied
from influencekit.tape.writer import TapeWriter
from influencekit.training.layout import Layout
from influencekit.trajectory.trajectory import Trajectory

__all__ = ["Tape"]


class Tape:
    """Records a training loop while it runs, so that it can be replayed and attributed afterwards.

        with ik.Tape("run.zarr", model, optimizer, loss=per_example, data=train_set) as tape:
            for epoch in range(3):
                for ids, batch in tape.batches(loader):
                    ...  # forward, backward, clip, optimizer.step(), scheduler.step() as before

    store: a new path, or None for memory. loss(outputs, target) -> [n]: one loss per example; a step of the
    loop must minimise their mean over each micro-batch, divided by `accumulate` (`reduction="sum"`: their
    sum; a function of the batch: the coefficient of every example, for instance 1 / number of tokens).
    `data`: the map-style data set; `collate`: what the loader collates with (default: the loader's).
    `forward(model, batch)` gives the outputs where they are not `model(*inputs)` or `model(**inputs)`.
    `target_key`: the target's entry in batches that are dicts. `accumulate`: micro-batches in a step.
    `clip_norm`: the loop clips the global norm of the gradient. `separable=False` admits losses that depend
    on the other examples of a batch (contrastive ones; not batch norm), and marks the results. `ids`: your
    own names of the examples. `scheduler`: one or more, saved for `resume`, which continues an interrupted
    run. `check`: the fraction of the loop's time that may go into replaying randomly chosen steps (0 = none,
    1 = every step); `tolerance`: how far, relative to the update, a replay may be off where it is not
    bitwise.

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

    def __init__(
        self, store: str | Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, *,
        loss: Callable[[Any, Any], Tensor], data: Any, collate: Callable[[list[Any]], Any] | None = None,
        recorder: Recorder | str = "every-k:k=50", forward: Callable[[nn.Module, Any], Any] | None = None,
        target_key: str = "labels", reduction: Reduction = "mean", accumulate: int = 1,
        clip_norm: float | None = None, separable: bool = True, ids: Sequence[Hashable] | None = None,
        scheduler: Any = (), resume: bool = False, check: float = 0.01, tolerance: float = 5e-3,
        name: str = "taped",
    ) -> None:  # fmt: skip
        trained_ones = [p for group in optimizer.param_groups for p in group["params"]]
        admit(model, trained_ones, data, accumulate, reduction, check)
        self._settings = settings(optimizer)
        self.model, self.optimizer = model, optimizer
        self._store, self._resume = store, resume
        self._call = Call(loss, data, collate or default_collate, target_key, forward)
        self._collate_given = collate is not None
        self._recorder = resolve("recorder", recorder)
        self._reduction, self._accumulate, self._clip = reduction, accumulate, clip_norm
        self._separable, self._name = separable, name
        self._ids = own_ids(ids, len(data))
        schedulers = list(scheduler) if isinstance(scheduler, list | tuple) else [scheduler]
        self._share, self._tolerance = check, tolerance
        self._device = next(model.parameters()).device
        self._position = LoopPosition(optimizer, schedulers, self._device)

    # the context ------------------------------------------------------------------------------------

    def __enter__(self) -> Tape:
        refuse_hooks(self.model)
        refuse_parallel()
        self._seen = Observer(self.model, self._call, self._reduction, self._accumulate)
        self._spot = SpotCheck(self.model, self._call, self._share, self._tolerance, self._separable)
        self._writer = TapeWriter(self._store, self._recorder)
        self._source = Source(self._call.data)
        self._epoch, self._done, self._note = -1, 0, dict[str, Any]()
        self._state: TrainableState | None = None  # until the first step shows what is trained
        self._parameters, self._used = list(self.model.parameters()), list[bool]()
        self._back: dict[str, Any] | None = None
        self._buffers = copied(self.model, [n for n, _ in self.model.named_buffers()])
        if self._store is not None and Path(self._store).exists():
            if not self._resume:
                raise InputError(
                    f"{self._store} exists already; choose another path, delete it, or continue it with "
                    "resume=True"
                )
            self._return()
        self._handles = watch(
            self.model, self.optimizer, self._seen.forward, self._seen.after, self._before_step,
            self._after_step,
        )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        for handle in self._handles:
            handle.remove()
        writer = self._writer.writer
        if writer is None:
            if kind is None:
                raise InputError(
                    "the tape saw no optimizer step; iterate over tape.batches(loader) inside it"
                )
        elif kind is None:
            try:
                end = self._end()
                self._writer.state(self._seen.step, end, self._position.noted(self._epoch, self._done))
                self._spot.last(self._seen.step)
            except BaseException:
                writer.close("recording")
                raise
            writer.close(replay=self._spot.words())
        elif issubclass(kind, DivergedError):
            writer.close("stopped", reason=str(rest[0]))
        else:  # what was recorded stays, and may be resumed
            writer.close("recording")

    open = __enter__

    def close(self) -> None:
        """What leaving the `with` block does."""
        self.__exit__(None)

    def trajectory(self, test: Any = None, **more: Any) -> Trajectory:
        """The run, once the tape is closed, for the estimators; like `influencekit.open`, which says more."""
        call, writer = self._call, self._writer.writer
        if writer is None:
            raise InputError("the tape has recorded nothing yet")
        return open_taped(
            writer.group, str(self._store or "the tape"), model=self.model, loss=call.loss, data=call.data,
            test=test, collate=call.collate, forward=call.forward, **more,
        )  # fmt: skip

    @property
    def committed(self) -> int:
        """The number of steps that are safe on disk, whatever happens to the process."""
        return 0 if self._writer.writer is None else self._writer.writer.committed

    # what the loop iterates over --------------------------------------------------------------------

    def batches(
        self, loader: DataLoader[Any] | Iterable[tuple[Sequence[int], Any]]
    ) -> Iterator[tuple[list[Hashable], Any]]:
        """(ids, batch) of an epoch: the loader's own batches in its own order. Call it once an epoch.

        `loader` is a torch DataLoader over the tape's data set, or pairs (positions, batch) of your own
        making. In a resumed run the batches that were done are passed over.
        """
        self._epoch += 1
        back = self._back
        if back is not None and self._epoch < back["epoch"]:
            return
        if back is not None:
            self._position.begin_again(back, loader, self._writer.generators)
        self._position.begin(loader)
        if hasattr(loader, "collate_fn") and not self._collate_given:
            self.collate_with(loader.collate_fn)
        source, done = self._source.batches(loader), 0
        if back is not None:
            while done < back["position"]:
                next(source, None)
                done += 1
            assert self._state is not None
            self._state.load(back["tensors"], back["number"])
            self._position.return_to(back, self._writer.generators)
            self._back = None
        while True:
            if not self._seen.seen:
                self.boundary(position=done)
            self._seen.settle()
            found = next(source, None)
            if found is None:
                return
            done += 1
            self._done = done
            self._seen.queue.clear()  # a batch that the loop passed over
            self._seen.push(found)
            yield [self._ids[i] for i in found.indices], found.batch
            self._seen.check_done()

    def collate_with(self, collate: Callable[[list[Any]], Any]) -> None:
        """Examples are fetched again with this collation."""
        self._call = replace(self._call, collate=collate)
        self._seen.call = self._call
        self._spot.use(self._call)

    # events: `batches` and the hooks send them, integrations send the first two ----------------------

    def boundary(self, *, epoch: int | None = None, position: int = 0) -> None:
        """A step is about to begin, at this position of this epoch: keep the state, if the recorder does."""
        self._epoch = self._epoch if epoch is None else epoch
        step, state = self._seen.step, self._state
        if state is None:
            self._note = self._position.noted(self._epoch, position)  # kept with state 0, at its first step
            self._rest = Rest(self.model)
        else:
            state.check_buffers(step)
            if self._writer.keeps(step):
                state.check_rest(step, thorough=True)
                self._writer.state(step, state.moment(), self._position.noted(self._epoch, position))
        if self._spot.decide(step) or state is None:
            self._buffers = copied(self.model, list(self._buffers))

    def push(self, indices: Sequence[int], rng: bytes | None = None, batch: Any = None) -> None:
        """The micro-batch of these positions is forwarded next (first come, first served)."""
        self._seen.push(IndexedBatch([int(i) for i in indices], rng or capture(), batch))

    def _before_step(self) -> None:
        step = self._seen.step
        if not self._seen.seen:
            raise InputError(
                f"optimizer.step() was called without a new batch, after step {step - 1} was done; every "
                "step needs a forward pass on a batch of tape.batches"
            )
        self._seen.settle()
        used = [p.grad is not None for p in self._parameters]
        state = self._state
        if state is None or self._spot.wanted or used != self._used:
            params = trained(self.model, self.optimizer, self._clip)
            state = self._state or self._begin(params)
            if list(params) != list(state.params):
                odd = sorted(set(params) ^ set(state.params))[0]
                raise InputError(
                    f"step {step}: parameter {odd} has a gradient in some steps and none in others; freeze "
                    "it for the whole run, or use it in every step"
                )
            self._used = used
        check_rates(self._settings, self.optimizer, step)
        state.check_parameters(step)
        state.check_rest(step, thorough=self._spot.wanted)
        self._lrs = rates(self.optimizer)
        if self._spot.wanted:
            self._spot.before(state.moment()._replace(buffers=self._buffers))

    def _after_step(self) -> None:
        assert self._state is not None
        state, seen, step = self._state, self._seen, self._seen.step
        state.mark()
        early = seen.micros(True) if seen.early is None and self._spot.wanted else []
        micros, coefficients, losses = seen.finish()
        if not state.finite():
            raise diverged("parameters", step)
        if self._spot.wanted:
            done = Done(step, micros, coefficients, self._lrs, seen.autocast, seen.training)
            found = self._spot.after(done, state.rule, state.moment(), early if early != micros else ())
            seen.early = found is not done if seen.early is None else seen.early
            micros = found.micros
        if self._spot.again:
            self._spot.repeat(step)
        self._writer.step(micros, coefficients, losses, self._lrs, max(self._epoch, 0))

    def _end(self) -> Moment:
        """The last state. Errors: the loop ended within a step, or before where a resumed run was."""
        assert self._state is not None
        self._seen.check_done()
        self._state.check_parameters(self._seen.step)
        self._state.check_rest(self._seen.step, thorough=True)
        if self._back is not None:
            raise InputError(
                f"the loop ended before epoch {self._back['epoch']}, where the run that it resumes was cut "
                "off; pass every epoch's loader to tape.batches again"
            )
        return self._state.moment()

    # the beginning, and the beginning of a resumed run ----------------------------------------------

    def _begin(self, params: dict[str, nn.Parameter]) -> TrainableState:
        """The first step is about to be done: now it is known what is trained."""
        changing = changed_buffers(self._buffers, self.model)
        self._buffers = {n: self._buffers[n] for n in changing}
        description = described(self.optimizer, params, self._clip)
        state = self._hold(params, changing, description, 0)
        slots, updates = remembered(self.optimizer, state.rule.optimizer, state.rule.layout, params)
        state.rule = state.rule._replace(updates=updates)
        state.check_rest(0, thorough=True)
        first = Moment(state.rule.layout.join(params), slots, self._buffers)
        if self._writer.writer is None:
            about = described_run(
                self.model, self._call, state.rule, self._seen, changing, separable=self._separable,
                optimizer=description, tolerance=self._tolerance,
            )  # fmt: skip
            self._writer.begin(state.rule, first, self._ids, {"workload": self._name, **about})
        self._writer.state(0, first, self._note)
        return state

    def _hold(
        self, params: dict[str, nn.Parameter], changing: list[str], description: dict[str, Any], updates: int
    ) -> TrainableState:
        layout = Layout(tuple(params), tuple(tuple(p.shape) for p in params.values()))
        rule = Rule(layout, rebuilt(description), updates)
        self._state = TrainableState(self.model, self.optimizer, params, changing, rule, self._rest)
        return self._state

    def _return(self) -> None:
        """Take up the run that the store holds."""
        attrs = self._writer.reopen()
        assert self._writer.writer is not None
        kept, about = self._writer.writer.resumed, attrs["fingerprint"]
        changing = [n for n, _ in attrs["buffers"]]
        try:
            check_identity(about, self.model, self._call.data, changing, str(self._store))
        except BaseException:
            self._writer.writer.leave()
            raise
        if kept is None:  # cut off before a state was there: begin
            return
        own, said = dict(self.model.named_parameters()), attrs["tape"]
        params = {n: own[n] for n, _ in about["parameters"]}
        self._buffers = copied(self.model, changing)
        self._rest = Rest(self.model)
        state = self._hold(params, changing, said["optimizer"], said["updates"])
        self._back = {**kept.snapshot, "tensors": kept.tensors, "number": kept.number}
        self._writer.remember_generators()
        self._seen.step = kept.number
        state.load(kept.tensors, kept.number)
