"""Record a run: train once, and keep what every estimator needs; or continue a recording."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from influencekit import __version__
from influencekit._address import local
from influencekit._arguments import checked, short
from influencekit._bars import with_progress
from influencekit._code import refuse_training
from influencekit._training.buffers import packed, unpacked
from influencekit._training.checks.examples import check_examples
from influencekit._training.checks.non_finite import diverged, step_blamed
from influencekit._training.checks.step import check_step
from influencekit._training.plan import Plan
from influencekit._training.state import State
from influencekit._training.step import Step
from influencekit._training.workload import Workload
from influencekit._trajectory.fingerprint import check_match, contents, fingerprint
from influencekit._trajectory.replay_check import check_losses
from influencekit._trajectory.trajectory import Trajectory
from influencekit._trajectory.writing import COLUMNS, Column, Writer
from influencekit.errors import DivergedError, InputError, StoreError
from influencekit.interfaces import Recorder
from influencekit.progress import track
from influencekit.registry import label, resolve
from influencekit.windows import Window

__all__ = ["record"]


@with_progress
@checked
def record(
    workload: Workload,
    recorder: Recorder | str | None = None,
    store: str | Path | None = None,
    window: tuple[int, int] | None = None,
    step: Step | None = None,
    resume: bool = False,
    durable: bool = False,
) -> Trajectory:
    """Train `workload` from its initial parameters and record the run.

    `recorder` says which states are kept (None: `full`, all). `store` is a new path, or None for memory.
    `window` = (start, stop) keeps only the states start ... stop and trains no further. `step` is an already
    traced `Step(workload)` to be used again.

    `resume` continues the recording at `store` from its last kept state, if there is one, with its recorder
    and window: the result is bitwise the recording that was never cut off. Where the recorder is not
    lossless, the steps up to that state are trained again. A recording that is interrupted
    (KeyboardInterrupt, or any error) commits what it has; one that is killed has what was committed. With
    `durable`, what was committed also outlives a loss of power: every file is forced to the disk before it.

    Errors: a path that exists, a full or read-only disk (what was committed stays; if nothing was,
    nothing is left there), a store that is renamed, removed or replaced meanwhile, a loss that is random
    or not separable by example, examples that the model or the loss refuses, a NaN or infinite loss (the
    store keeps what came before and is readable; before the window nothing is left there); to resume, a
    complete store, another process that writes it, or a workload, recorder or window that are not the
    store's. Cost: one training run and the states on disk.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"), "every-k:k=2")
        >>> run.steps, run.stored_states
        (2, [0, 2])
    """
    refuse_training()
    store = None if store is None else local(store)
    _check(workload)
    check_examples(workload)
    if step is not None and (not isinstance(step, Step) or step.workload is not workload):
        raise InputError(f"step: expected Step(workload) of this very workload, got {short(step)}")
    step = step or Step(workload)
    check_step(step)
    if resume and store is None:
        raise InputError("resume: expected the path of a store to continue, got none")
    if resume and store is not None and store.exists():
        writer, recorder, (start, stop) = _continue(workload, recorder, store, window, step, durable)
    else:
        recorder = resolve("recorder", "full" if recorder is None else recorder)
        start, stop = window or (0, step.plan.steps)
        Window(start, stop).check(step.plan.steps)
        writer = _create(workload, recorder, store, start, stop, step, durable)
    try:
        accuracy = _train(writer, workload, step, recorder, start, stop)
    except DivergedError:
        raise
    except StoreError:
        writer.leave()
        raise
    except BaseException:
        writer.close("recording")
        raise
    writer.close(**accuracy)
    return Trajectory(writer.group, workload, step)


def _check(workload: Any) -> None:
    """Errors: no workload, or one that is trained already."""
    if isinstance(workload, Trajectory) or (
        isinstance(workload, Workload) and isinstance(workload.order, Plan)
    ):
        raise InputError(
            "this run is recorded already; estimate, compare and the other verbs take it as it is"
        )
    if not isinstance(workload, Workload):
        raise InputError(
            f"record: expected a Workload, got {type(workload).__name__}; make one, or record a loop of your "
            "own with a Tape"
        )


def _train(
    writer: Writer, workload: Workload, step: Step, recorder: Recorder, start: int, stop: int
) -> dict[str, Any]:
    kept = set(recorder.stored_states(start, stop))
    state = step.start() if writer.resumed is None else _returned(writer, step, recorder, start)
    for t in track(range(state.step, stop + 1), "training", stop + 1 - state.step):
        if t in kept:
            writer.state(t, _stored(state, None if t in (start, stop) else recorder))
        if t == stop:
            break
        following, losses = step.advance(state)
        if not bool(losses.isfinite().all() & following.theta.isfinite().all()):
            error = diverged("training loss or parameters", t, step_blamed(step, state, losses))
            if t < start and writer.resumed is None:  # before the window: there is nothing to keep
                writer.remove()
                raise error
            writer.close("stopped", reason=str(error))
            where = f"; states {start} to {t} are kept in {writer.path}" if writer.path and t >= start else ""
            raise DivergedError(f"{error}{where}")
        there = step.plan.indices[t] >= 0
        writer.step({"loss": np.where(there, losses.cpu().numpy(), np.nan)})
        state = following
    return workload.with_buffers(state.buffers).judge(state.theta).attrs() if stop == step.plan.steps else {}


def _stored(state: State, recorder: Recorder | None) -> dict[str, np.ndarray]:
    """What a store is given of a state: as the recorder codes it, or exactly."""
    arrays = {name: x.cpu().numpy() for name, x in {"theta": state.theta, **state.slots}.items()}
    if recorder is not None and not recorder.lossless:
        arrays = {name: recorder.quantize(x) for name, x in arrays.items()}
    if state.buffers:
        arrays["buffers"] = packed(state.buffers)
    return arrays


def _returned(writer: Writer, step: Step, recorder: Recorder, start: int) -> State:
    """The state from which a resumed run goes on; trained anew where the store has it only nearly."""
    kept = writer.resumed
    assert kept is not None
    if recorder.lossless or kept.number == 0:
        buffers = kept.tensors.get("buffers")
        tensors = {
            n: torch.from_numpy(x).to(step.workload.device) for n, x in kept.tensors.items() if n != "buffers"
        }
        own = {} if buffers is None else unpacked(buffers, step.start().buffers)
        return State(tensors.pop("theta"), tensors, kept.number, own)
    state = step.start()
    for _ in track(range(kept.number), "training again", kept.number):
        state = step.advance(state)[0]
    again = _stored(state, None if kept.number == start else recorder)
    if any(not np.array_equal(x, kept.tensors[name]) for name, x in again.items()):
        writer.leave()
        raise StoreError(
            f"{writer.path} was recorded by {label(recorder)}, so resuming trains its {kept.number} steps "
            "again, and here they do not end in the same state; resume it on the machine that recorded it"
        )
    return state


def _create(
    workload: Workload, recorder: Recorder, store: str | Path | None, start: int, stop: int, step: Step,
    durable: bool,
) -> Writer:  # fmt: skip
    plan = workload.plan
    ids = np.array(list(workload.train_ids or range(workload.n_train)))
    if ids.dtype.kind not in "iu":
        ids = np.array([str(i) for i in ids.tolist()], dtype=np.dtypes.StringDType())
    buffers = step.start().buffers
    changing = {"buffers": Column(("kept", "buffer"), "f8")} if buffers else {}
    return Writer.create(
        store,
        size=workload.n_params,
        dtype=str(workload.dtype).removeprefix("torch."),
        slots=workload.optimizer.slots,
        columns={"loss": COLUMNS["loss"], **changing},
        fixed={
            "batch": (("step", "slot"), plan.indices.numpy()),
            "lr": (("step", "group"), plan.lr.numpy()),
            "epoch": (("step",), plan.epoch.numpy()),
            "step": (("step",), np.arange(plan.steps)),
            "train": (("train",), ids),
        },
        attrs={
            "start": start,
            "stop": stop,
            "workload": workload.name,
            "seed": workload.seed,
            "info": dict(workload.info),
            "recorder": label(recorder),
            "lossless": recorder.lossless,
            "held": recorder.max_states,
            "optimizer": repr(workload.optimizer),
            "schedule": repr(workload.schedule),
            "l2": workload.l2,
            "device": str(workload.device),
            "threads": torch.get_num_threads(),
            "influencekit_version": __version__,
            "torch_version": torch.__version__,
            "fingerprint": fingerprint(workload),
            "contents": contents(workload),
            **({"buffers": [[n, list(b.shape)] for n, b in buffers.items()]} if buffers else {}),
        },
        steps=plan.steps,
        states=len(recorder.stored_states(start, stop)),
        durable=durable,
    )


def _continue(
    workload: Workload,
    recorder: Recorder | str | None,
    store: Path,
    window: tuple[int, int] | None,
    step: Step,
    durable: bool,
) -> tuple[Writer, Recorder, tuple[int, int]]:
    """The store's writer, recorder and window; refused where the caller asks for others."""
    writer = Writer.resume(store, durable)
    attrs: Any = dict(writer.group.attrs)
    try:
        check_match(writer.group, workload, str(store))
        own = (attrs["start"], attrs["stop"])
        chosen: Recorder = resolve("recorder", attrs["recorder"] if recorder is None else recorder)
        if label(chosen) != attrs["recorder"] or (window or own) != own:
            raise StoreError(
                f"{store} was recorded by {attrs['recorder']} over steps {own[0]} to {own[1]}, not by "
                f"{label(chosen)} over {(window or own)[0]} to {(window or own)[1]}; resume it without them"
            )
        if writer.resumed is not None:
            check_losses(Trajectory(writer.group, workload, step), str(store))
    except BaseException:
        writer.leave()
        raise
    return writer, chosen, own
