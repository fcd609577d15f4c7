"""The training step of a taped run, and its readings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from influencekit.curvature import Pair
from influencekit.errors import InputError
from influencekit.linear import Kernels, Product
from influencekit.optimizers import Slots
from influencekit.step import State, Step
from influencekit.tape.replica import Micro, Replica
from influencekit.tape.rng import kept
from influencekit.tape.taped import Taped, Training
from influencekit.tracing import try_trace
from influencekit.workload import Batch, like, tensors_of

__all__ = ["TapedStep"]

_SMALL = 1 << 20  # parameters up to which kernels are traced and models retrained in batches
_SHAPES = 8  # so many shapes of batches are traced, more are run as they are


class TapedStep(Step):
    """The recorded training step. One model is advanced exactly as the loop did, by `backward`; many models,
    and derivatives, go through `torch.func` with plain attention, derivatives without autocast.
    """

    workload: Taped

    def __init__(self, workload: Taped) -> None:
        super().__init__(workload)
        self.replica = Replica(workload.trainer, workload.call)
        self._plain = workload.random or bool(workload.changing) or workload.n_params > _SMALL
        self._kernels: dict[Any, Kernels] = {}

    @property
    def loops(self) -> bool:
        convolves = any("Conv" in type(m).__name__ for m in self.workload.model.modules())
        on_cpu = self.workload.device.type == "cpu"
        large = self.workload.n_params > _SMALL
        return large or bool(self.workload.changing) or (convolves and on_cpu)

    def room(self, memory: int, examples: int | None = None) -> int:
        """An upper bound on how many models fit `memory` bytes at once; a guess of their activations."""
        vectors = (64 + len(self.workload.optimizer.slots)) * self.workload.theta0.nbytes
        return max(1, memory // vectors)

    def start(self) -> State:
        raise AssertionError("a taped run starts from its recorded state 0")

    def batch(self, t: int | slice) -> Batch:
        raise AssertionError("a step of a taped run consists of micro-batches")

    def micros(self, t: int) -> Iterator[tuple[Micro, Batch]]:
        """The micro-batches of step t, fetched again."""
        for micro in self.workload.micros(t):
            yield micro, self.workload.call.batch(micro, self.workload.device)

    def advance_with(self, state: State, coefficients: Tensor) -> tuple[State, Tensor]:
        """One step with slot coefficients; one model's changing buffers are those of its own forward."""
        if coefficients.dim() == 2:
            return super().advance_with(state, coefficients)
        g, losses, buffers = self._replayed(state, coefficients)
        t, workload = state.step, self.workload
        theta, slots = workload.optimizer.step(
            workload.layout, state.theta, state.slots, g, self.plan.updates + t, self.plan.lrs(t)
        )
        return State(theta, slots, t + 1, buffers), losses

    def _replayed(self, state: State, coefficients: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        micros = [
            (batch, coefficients[micro.slots], micro.forward_rng) for micro, batch in self.micros(state.step)
        ]
        g, found, buffers = self.replica.gradient(
            self.workload.layout, state.theta, state.buffers, micros, self.workload.autocast
        )
        losses = coefficients.new_zeros(coefficients.shape)
        for micro, values in zip(self.workload.micros(state.step), found, strict=True):
            losses[micro.slots] = values.to(losses)
        return g, losses, buffers

    def gradient(self, state: State, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of L_t shaped like theta, and the losses [..., slot]."""
        if coefficients.dim() == 1:
            return self._replayed(state, coefficients)[:2]
        total, losses = torch.zeros_like(state.theta), torch.zeros_like(coefficients)
        with torch.no_grad(), kept(state.theta.device):
            for micro, batch in self.micros(state.step):
                some = coefficients[:, micro.slots].contiguous()
                try:
                    g, values = self._many(state, micro, batch, some)
                except RuntimeError as error:
                    if self.workload.autocast is None or isinstance(error, torch.OutOfMemoryError):
                        raise
                    raise InputError(
                        "torch cannot differentiate this model inside autocast as retraining needs "
                        f"({str(error).splitlines()[0][:100]}); build it with plain attention "
                        '(transformers: attn_implementation="eager"), or train without autocast'
                    ) from error
                total += g
                losses[:, micro.slots] = values
        return total, losses

    def _many(self, state: State, micro: Micro, batch: Batch, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        view = Training(self.workload, micro.forward_rng, state, batch, self.workload.autocast)
        rest = [None] * len(tensors_of(batch))

        def one(theta: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
            def mean_loss(theta: Tensor) -> tuple[Tensor, Tensor]:
                losses = view.losses(theta, like(batch, rest[:-1]))
                return (rest[-1] * losses).sum(), losses

            return grad(mean_loss, has_aux=True)(theta)

        key = (state.theta.shape, *self._shape(batch))
        if key not in self._traced:
            many = vmap(one, in_dims=(0, *rest, 0), randomness="same")
            args = (state.theta, *tensors_of(batch), coefficients)
            if self._plain or len(self._traced) >= _SHAPES:
                return many(*args)
            single = try_trace(one, args[0][0], *args[1:-1], args[-1][0])
            self._traced[key] = try_trace(vmap(single, in_dims=(0, *rest, 0)), *args)
        return self._traced[key](state.theta, *tensors_of(batch), coefficients)

    def pure_losses(self, state: State) -> Tensor:
        """The losses [slot] as derivatives see them: by `torch.func`, plain attention, without autocast."""
        losses = torch.zeros_like(self.coefficients(state.step))

        def together(theta: Tensor, view: Training, batch: Batch) -> tuple[Tensor, Tensor]:
            each = view.losses(theta, batch)
            return each.sum(), each

        with torch.no_grad(), kept(state.theta.device):
            for micro, batch in self.micros(state.step):
                view = Training(self.workload, micro.forward_rng, state, batch, None)
                _, losses[micro.slots] = grad(together, has_aux=True)(state.theta, view, batch)
        return losses

    def _shape(self, batch: Batch) -> tuple[Any, ...]:
        return tuple((x.shape, x.dtype) for x in tensors_of(batch))

    # pull and push ----------------------------------------------------------------------------------

    def linear(self, curvature: str = "hessian") -> TapedLinear:  # type: ignore[override]
        """The step linearised in theta and the weights, for any number of adjoints at once."""
        return TapedLinear(self, curvature)

    def kernels(self, state: State, micro: Micro, batch: Batch, curvature: str) -> Kernels:
        """The transposed derivative of one micro-batch's mean gradient, traced once for every shape."""
        key = (curvature, *self._shape(batch))
        if key not in self._kernels:
            view = Training(self.workload, micro.forward_rng, state, batch, None)
            plain = self._plain or len(self._kernels) >= _SHAPES
            made = Kernels(
                view, curvature, self.loops, state.theta, batch,
                self.coefficients(state.step)[micro.slots], traceable=not plain,
            )  # fmt: skip
            if plain:
                return made
            self._kernels[key] = made
        return self._kernels[key]

    def push(self, state: State, tangent: State, weights: Tensor) -> State:
        """Forward mode: the tangent of the next state from the tangents of state and weights [slot]."""
        t, workload = state.step, self.workload
        mean = self.coefficients(t)
        micros = [
            (micro, batch, Training(workload, micro.forward_rng, state, batch, None))
            for micro, batch in self.micros(t)
        ]

        def update(theta: Tensor, slots: Slots, coefficients: Tensor) -> tuple[Tensor, Slots]:
            def mean_loss(theta: Tensor) -> Tensor:
                parts = [(coefficients[m.slots] * v.losses(theta, b)).sum() for m, b, v in micros]
                return torch.stack(parts).sum()

            g = grad(mean_loss)(theta)
            return workload.optimizer.step(
                workload.layout, theta, slots, g, self.plan.updates + t, self.plan.lrs(t)
            )

        primal = (state.theta, state.slots, mean)
        with kept(state.theta.device):
            _, (theta, slots) = jvp(  # type: ignore[misc]
                update, primal, (tangent.theta, tangent.slots, weights * mean)
            )
        return State(theta, slots, t + 1)


class TapedLinear:
    """`LinearStep` of a taped run: products and shares summed over the micro-batches of a step."""

    def __init__(self, step: TapedStep, curvature: str) -> None:
        self._step, self._curvature = step, curvature

    def backwards(self, states: Sequence[State]) -> Iterator[tuple[State, Product]]:
        """Consecutive states, last first, each with its function c -> (H c, shares [column, slot])."""
        for state in reversed(states):
            yield state, self._product(state)

    def _product(self, state: State) -> Product:
        step = self._step
        mean = step.coefficients(state.step)
        made = []
        for micro, batch in step.micros(state.step):
            kernels = step.kernels(state, micro, batch, self._curvature)
            made.append((micro, kernels.product(state.theta, batch, mean[micro.slots])))

        def product(c: Tensor) -> Pair:
            total, shares = torch.zeros_like(c), c.new_zeros(len(c), len(mean))
            with kept(c.device):
                for micro, part in made:
                    h, share = part(c)
                    total += h
                    shares[:, micro.slots] = share
            return total, shares

        return product
