"""One training step, F(state, weights) -> state, and its four readings: iterate, replicate, pull, push.

    L_t(theta, w) = (1/b) sum_{i in S_t} w_i [ loss(z_i; theta) + (l2/2) |theta|^2 ],   b = |S_t|
    F_t(state, w) = optimizer(state, grad L_t(theta, w))

Short batches are padded to a common width with weight 0, so that one trace serves every step. Nothing
here knows an estimator, a disk or a device.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

from influencekit.errors import InputError
from influencekit.linear import Kernels, LinearStep
from influencekit.optimizers import Slots
from influencekit.tracing import has_convolution, try_trace
from influencekit.workload import Batch, Workload, like, select, tensors_of

__all__ = ["State", "Step"]


class State(NamedTuple):
    """What a step changes: theta [param], the optimizer's slots [param] each, the number of steps done.

    `buffers` holds those of the model's buffers that training changes, by name.
    """

    theta: Tensor
    slots: Slots
    step: int
    buffers: dict[str, Tensor] = {}  # noqa: RUF012 (a named tuple's default, never modified)


class Step:
    """The training step of one workload.

    Attributes: `workload`, `plan`; `loops` tells whether batches of models are trained one after the
    other: convolutions on a CPU, where vmap lowers them to grouped convolutions and is slower per model.

    `like` is the step of another seed, whose traced kernels serve this one as well, if model, loss and shapes
    are the same; the results are the same bits either way. Tracing is most of the cost of a short run.
    """

    def __init__(self, workload: Workload, like: "Step | None" = None) -> None:
        self.workload = workload
        self.plan = workload.plan
        device = workload.device
        indices = self.plan.indices
        self._valid = (indices >= 0).to(workload.dtype).to(device)
        self._rows = indices.clamp(min=0).to(device)
        mean = self.plan.coefficient
        self._mean = self._valid / self._valid.sum(1, keepdim=True) if mean is None else mean.to(self._valid)
        self._traced: dict[Any, Callable[..., Any]] = {}
        self._kernels: dict[Any, Kernels] = {}
        if like is not None and _alike(like, self):
            self._traced, self._kernels = like._traced, like._kernels
        self._linear: dict[str, LinearStep] = {}
        self.queries: dict[Any, Callable[[Tensor], Tensor]] = {}  # traced gradients, by query

    # what a step reads ------------------------------------------------------------------------------

    def start(self) -> State:
        """The state before step 0."""
        theta = self.workload.theta0
        return State(theta, self.workload.optimizer.start(theta), 0)

    def batch(self, t: int | slice) -> Batch:
        """The examples of step t, padded; step may be a slice, which gives [step, slot, ...]."""
        return self.workload.examples(self._rows[t])

    def coefficients(self, t: int | slice, weights: Tensor | None = None) -> Tensor:
        """w_i / b of every slot of step t, all w_i = 1 unless `weights` [..., train] say otherwise."""
        mean = self._mean[t]
        return mean if weights is None else mean * weights[..., self._rows[t]]

    def rows(self, t: int | slice) -> Tensor:
        """Positions in the training set of every slot of step t (0 where padded)."""
        return self._rows[t]

    @property
    def loops(self) -> bool:
        theta = self.workload.theta0
        traced = self._gradient(theta, self.batch(0), self.coefficients(0))
        return (
            theta.device.type == "cpu"
            and isinstance(traced, torch.fx.GraphModule)
            and has_convolution(traced)
        )

    def room(self, memory: int, examples: int | None = None) -> int:
        """How many models (or adjoint columns) fit `memory` bytes at once, on batches of `examples`; >= 1.

        An upper bound on what one takes: its vectors, and all intermediate results of a gradient.
        """
        workload = self.workload
        traced = self._gradient(workload.theta0, self.batch(0), self.coefficients(0))
        kept = getattr(traced, "meta", {}).get("bytes", 64 * workload.theta0.nbytes)
        vectors = (3 + len(workload.optimizer.slots)) * workload.theta0.nbytes
        share = 1.0 if examples is None else examples / self.plan.indices.shape[1]
        return max(1, int(memory / (vectors + share * kept)))

    # iterate ----------------------------------------------------------------------------------------

    def advance(self, state: State) -> tuple[State, Tensor]:
        """The next state, and the losses [slot] of the batch before the update (0 where padded).

        Deterministic: on the CPU the same state gives the same bits, which is what makes replay exact.
        """
        new, losses = self.advance_with(state, self.coefficients(state.step))
        return new, losses * self._valid[state.step]

    def advance_with(self, state: State, coefficients: Tensor) -> tuple[State, Tensor]:
        """One step with slot coefficients w_i / b; theta [param] with [slot], or [model, param] with
        [model, slot]: hundreds of counterfactual models at once, sharing the batch."""
        t = state.step
        g, losses = self.gradient(state, coefficients)
        theta, slots = self.workload.optimizer.step(
            self.workload.layout, state.theta, state.slots, g, self.plan.updates + t, self.plan.lrs(t)
        )
        return State(theta, slots, t + 1), losses

    def gradient(self, state: State, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of L_t shaped like theta, and the losses [..., slot] without the penalty."""
        theta, batch = state.theta, self.batch(state.step)
        with torch.no_grad():
            traced = self._gradient(theta, batch, coefficients)
            g, losses = traced(theta, *tensors_of(batch), coefficients)
            if self.workload.l2:
                g = torch.addcmul(g, theta, self.workload.l2 * coefficients.sum(-1, keepdim=True))
        return g, losses

    def _gradient(self, theta: Tensor, batch: Batch, coefficients: Tensor) -> Callable[..., Any]:
        key = (theta.shape, coefficients.shape)
        if key not in self._traced:

            def mean_loss(theta: Tensor, batch: Batch, coefficients: Tensor) -> tuple[Tensor, Tensor]:
                losses = self.workload.losses(theta, batch)
                return (coefficients * losses).sum(), losses

            def gradient(theta: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
                return grad(mean_loss, has_aux=True)(theta, like(batch, rest[:-1]), rest[-1])

            if theta.dim() == 2:  # over the traced kernels, more of which can be batched than of the model's
                one = self._gradient(theta[0], batch, coefficients[0])
                gradient = vmap(one, in_dims=(0, *[None] * len(tensors_of(batch)), 0))
            self._traced[key] = try_trace(gradient, theta, *tensors_of(batch), coefficients)
        return self._traced[key]

    # pull and push ----------------------------------------------------------------------------------

    def linear(self, curvature: str = "hessian") -> "LinearStep":
        """The step linearised in theta and the weights, for any number of adjoints at once."""
        if curvature not in self._linear:
            batch, mean = self.batch(0), self.coefficients(0)
            key = (curvature, mean.shape)
            if key not in self._kernels:
                self._kernels[key] = Kernels(
                    self.workload, curvature, self.loops, self.workload.theta0, batch, mean
                )
            self._linear[curvature] = LinearStep(self, self._kernels[key])
        return self._linear[curvature]

    def push(self, state: State, tangent: State, weights: Tensor) -> State:
        """Forward mode: the tangent of the next state from the tangents of state and weights [slot]."""
        t = state.step
        batch, mean = self.batch(t), self.coefficients(t)

        def update(theta: Tensor, slots: Slots, coefficients: Tensor) -> tuple[Tensor, Slots]:
            def mean_loss(theta: Tensor) -> Tensor:
                losses = self.workload.losses(theta, batch) + 0.5 * self.workload.l2 * theta @ theta
                return (coefficients * losses).sum()

            g = grad(mean_loss)(theta)
            return self.workload.optimizer.step(self.workload.layout, theta, slots, g, t, self.plan.lrs(t))

        primal = (state.theta, state.slots, mean)
        _, (theta, slots) = jvp(  # type: ignore[misc]
            update, primal, (tangent.theta, tangent.slots, weights * mean)
        )
        return State(theta, slots, t + 1)

    # checks at the door -----------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse a training loss that is random or not a sum over examples (batch norm, contrastive, ...)."""
        batch, theta = self.batch(0), self.workload.theta0
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            before = [b.clone() for b in self.workload.model.buffers()]
            together = self.workload.losses(theta, batch)
            if not together.isfinite().all():
                return  # training will say why, at this very step
            again = self.workload.losses(theta, batch)
            twice = select(batch, torch.zeros(2, dtype=torch.int64, device=theta.device))
            alone = self.workload.losses(theta, twice)[:1]  # beside itself: batch norm wants company
            changed = any(
                not torch.equal(a, b) for a, b in zip(before, self.workload.model.buffers(), strict=True)
            )
        if not torch.equal(together, again) and not changed:
            raise InputError(
                f"the training loss is random{self._culprits('Dropout')}; a run must be repeatable: call "
                "model.eval() on those layers, or set their probability to 0"
            )
        tolerance = 1e-3 if theta.dtype != torch.float64 else 1e-8
        if changed or not torch.allclose(together[:1], alone, rtol=tolerance, atol=tolerance):
            raise InputError(
                "the loss of an example depends on the other examples of its batch"
                f"{self._culprits('BatchNorm')}; influence of single examples is not defined then: use "
                "layer or group norm, or put the batch norm layers in eval mode"
            )

    def _culprits(self, kind: str) -> str:
        found = [n for n, m in self.workload.model.named_modules() if kind in type(m).__name__ and m.training]
        return f" (layers {', '.join(found)})" if found else ""


def _alike(one: Step, other: Step) -> bool:
    """Whether what was traced of `one` serves `other`: nothing but examples, plan and theta0 may differ."""

    def words(workload: Workload) -> tuple[Any, ...]:
        loss, tensors = workload.loss, tensors_of(workload.train)
        return (
            workload.layout, repr(workload.model), repr(loss) if isinstance(loss, nn.Module) else loss,
            workload.l2, workload.dtype, workload.device, type(workload.train), workload.target_key,
            *((x.shape[1:], x.dtype) for x in tensors),
        )  # fmt: skip

    def constants(workload: Workload) -> dict[str, Tensor]:
        found = workload.model.state_dict() | dict(workload.model.named_buffers())
        found = {k: x for k, x in found.items() if k not in workload.layout.names}
        loss = workload.loss.state_dict() if isinstance(workload.loss, nn.Module) else {}
        return found | {f"loss {k}": x for k, x in loss.items()}

    if words(one.workload) != words(other.workload):
        return False
    mine, others = constants(one.workload), constants(other.workload)
    if mine.keys() != others.keys() or not all(torch.equal(mine[k], others[k]) for k in mine):
        return False
    # what cannot be seen from outside: a number in a closure, a branch in forward
    theta, batch, mean = other.workload.theta0, other.batch(0), other.coefficients(0)
    with torch.no_grad():
        here = other.workload.losses(theta, batch)
        there = one._gradient(theta, batch, mean)(theta, *tensors_of(batch), mean)[1]
    return torch.allclose(here, there, rtol=1e-5, atol=1e-7, equal_nan=True)
