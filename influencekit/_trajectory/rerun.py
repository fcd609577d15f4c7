"""Other runs of a recorded plan: from a moved start, or with other weights on its examples."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from influencekit._arguments import check_seed, real_number
from influencekit._training.buffers import packed
from influencekit._training.checks.non_finite import LOWER_RATE, diverged
from influencekit._training.state import State
from influencekit._training.step import Step
from influencekit._trajectory.fingerprint import digest
from influencekit._trajectory.trajectory import Trajectory
from influencekit._trajectory.writing import COLUMNS, Column, Writer
from influencekit.errors import InputError
from influencekit.progress import track

__all__ = ["moved", "remembered", "rerun", "weighted_runs"]

_HELD = 1 << 30  # bytes of states that are kept in memory; what lies between is replayed
_KEPT = 2  # what was trained again for a run, each of at most so many bytes

T = TypeVar("T")


def moved(trajectory: Trajectory, fraction: float, seed: int) -> State:
    """The first state of a run with theta a little aside: theta + fraction * rms(tensor) * normal, for each
    parameter tensor by itself (a tensor of zeros, such as a bias, moves by `fraction` times the RMS of all).

    Errors: `InputError` for a fraction that is not above 0, or so small that rounding undoes it, and for
    parameters that are all 0.
    """
    real_number("moved", fraction, above=0.0)
    check_seed("seed", seed)
    start = trajectory.step.start()
    generator = torch.Generator().manual_seed(seed)
    theta, layout = start.theta.cpu(), trajectory.workload.layout
    overall = theta.double().square().mean().sqrt()
    rows = []
    for tensor in layout.split(theta).values():
        size = tensor.double().square().mean().sqrt()
        noise = torch.randn(tensor.numel(), generator=generator, dtype=torch.float64)
        rows.append(noise * (size if size > 0 else overall))
    aside = (theta.double() + fraction * torch.cat(rows)).to(start.theta)
    if not overall:
        raise InputError(
            "moved: the initial parameters are all 0, and a fraction of their size moves nothing; begin with "
            "others, or repeat over seeds"
        )
    if torch.equal(aside, start.theta):
        raise InputError(
            f"moved: {fraction:g} of the initial parameters' size is lost in rounding, so nothing moves; "
            "give a larger fraction, such as 0.001"
        )
    return start._replace(theta=aside)


def rerun(
    trajectory: Trajectory, weight: Tensor | float | None = None, start: State | None = None,
    prepare: Callable[[Step, State], State] | None = None, examples: Tensor | None = None, held: int = _HELD,
) -> Trajectory:  # fmt: skip
    """The run trained again, in memory, from `start` and with `weight` on every example.

        theta_{t+1} = F_t(theta_t, weight_t examples)

    on the same batches in the same order, with the same random draws; the divisor of a batch stays. `weight`
    is one number, or one for each step of the run; `examples` has one for each example (None: all 1).
    Penalties, weight decay and momentum act as they did.
    `prepare(step, state)` is the state that a step begins from, in place of the one that training led to. The
    data and the average are the recorded run's; so is `workload`, whose `theta0` is not the new start.

    Shapes: weight [step], examples [train]. Cost: a training run, and at most `held` bytes of states; the
    others are replayed. Errors: `DivergedError` where training leaves the finite numbers.
    """
    workload, last = trajectory.workload, trajectory.last
    scale = None
    if weight is not None:
        scale = torch.as_tensor(weight, dtype=torch.float64).expand(trajectory.steps)
    step = trajectory.step.varied(scale, start, prepare, examples)
    state = step.start()
    each = (1 + len(workload.optimizer.slots)) * workload.theta0.nbytes
    apart = max(1, math.ceil((last + 1) * each / held))
    kept = {last, *range(0, last, apart)}
    same = ("workload", "seed", "info", "optimizer", "device", "caution", "buffers", "reloaded")
    writer = Writer.create(
        None,
        size=workload.n_params,
        dtype=str(workload.dtype).removeprefix("torch."),
        slots=workload.optimizer.slots,
        columns={
            "loss": COLUMNS["loss"],
            **({"buffers": Column(("kept", "buffer"), "f8")} if state.buffers else {}),
        },
        attrs={
            **{k: trajectory.attrs[k] for k in same if k in trajectory.attrs},
            "stop": last,
            "recorder": f"every-k:k={apart}",
        },
        steps=last,
        states=len(kept),
    )  # fmt: skip
    for t in track(range(last + 1), "training", last + 1):
        if t in kept:
            tensors = {name: x.cpu().numpy() for name, x in {"theta": state.theta, **state.slots}.items()}
            writer.state(t, tensors | ({"buffers": packed(state.buffers)} if state.buffers else {}))
        if t == last:
            break
        state, losses = step.advance(state)
        if not bool(state.theta.isfinite().all()):
            raise diverged("parameters of a run with a moved start or other weights", t, LOWER_RATE)
        writer.step({"loss": losses.cpu().numpy()})
    writer.close()
    other = Trajectory(writer.group, workload, step)
    other.ending, other.unchanged = trajectory.ending, trajectory.unchanged
    if last == trajectory.steps and workload.test is not None:
        at_end = other.evaluated(last)
        other.attrs = {**other.attrs, **workload.with_buffers(at_end.buffers).judge(at_end.theta).attrs()}
    return other


def weighted_runs(trajectory: Trajectory, weights: Tensor) -> list[Trajectory]:
    """The run trained again, once for each row of `weights` [run, train], with these weights on its examples.

    On the same batches in the same order, whose divisor stays: a weight of 0 leaves an example out. Queries
    read the same average of states, if any. Kept for the next query that asks for the same weights.

    Cost: a training run each, once, and a GiB of states at most. Errors: `InputError` for weights of another
    shape, `DivergedError` where training leaves the finite numbers.

    Example:

        >>> import influencekit as ik
        >>> import torch
        >>> from influencekit.extend import weighted_runs
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> same, half = weighted_runs(run, torch.stack([torch.ones(24), torch.full((24,), 0.5)]))
        >>> [bool((other.final.theta == run.final.theta).all()) for other in (same, half)]
        [True, False]
    """
    shape = (len(weights), trajectory.workload.n_train)
    if weights.shape != shape or not len(weights) or not bool(weights.isfinite().all()):
        raise InputError(
            f"weights of runs: expected finite numbers, one row of {shape[1]} a run, got shape "
            f"{list(weights.shape)}"
        )

    def train() -> list[Trajectory]:
        each = track(weights, "runs", len(weights))
        return [rerun(trajectory, examples=row, held=_HELD // len(weights)) for row in each]

    ending = trajectory.ending
    found = remembered(trajectory, ("weights", digest([weights])), train)
    return [run if run.ending is ending else run.with_ending(ending) for run in found]


def remembered(trajectory: Trajectory, key: Any, train: Callable[[], T]) -> T:
    """What `train` makes of a run, kept for who asks for the same `key` next: the last two."""
    found: T = trajectory.reruns.pop(key) if key in trajectory.reruns else train()
    trajectory.reruns[key] = found
    for old in list(trajectory.reruns)[:-_KEPT]:
        trajectory.reruns.pop(old, None)
    return found
