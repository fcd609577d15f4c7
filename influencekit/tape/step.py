"""The training step of a taped run, and its readings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from influencekit.errors import InputError
from influencekit.tape.replica import Micro, Replica
from influencekit.tape.rng import preserved_random
from influencekit.tape.taped import Taped
from influencekit.training.batch import Batch, first_half_twice, select, tensors_of
from influencekit.training.curvature import gradient, leaf
from influencekit.training.kernels.tracing import Untraced, agree, try_trace
from influencekit.training.linear import Kernels, Product, Pulled, composed, how
from influencekit.training.losses import Training, by_transform
from influencekit.training.step import Piece, State, Step

__all__ = ["TapedStep"]

_SMALL = 1 << 20  # parameters up to which kernels are traced and models retrained in batches
_FEW = 4  # examples on which derivatives are held against differences
_SHAPES = 8  # so many shapes of batches are traced, more are run as they are


class TapedStep(Step):
    """The recorded training step. One model is advanced exactly as the loop did, by `backward`; many models,
    and derivatives, go by plain operators, derivatives without autocast.
    """

    workload: Taped

    def __init__(self, workload: Taped) -> None:
        super().__init__(workload)
        self.replica = Replica(workload.trainer, workload.call)
        self._plain = workload.random or self.joint or workload.n_params > _SMALL
        self._kernels: dict[Any, Kernels] = {}

    @property
    def changing(self) -> tuple[str, ...]:  # type: ignore[override]
        """The buffers that training changes, as recorded."""
        return self.workload.changing

    caution = ""  # type: ignore[assignment]  # the workload says it

    @property
    def joint(self) -> bool:  # type: ignore[override]
        """Whether steps hand buffers on. (Micro-batches are never padded, whatever their losses depend
        on.)"""
        return bool(self.changing)

    @cached_property
    def prefers_loop(self) -> bool:
        """Whether models are trained one after the other."""
        convolves = any("Conv" in type(m).__name__ for m in self.workload.model.modules())
        on_cpu = self.workload.device.type == "cpu"
        cast = self.workload.autocast is not None  # low precision rounds otherwise in a batch
        return cast or self.workload.n_params > _SMALL or (convolves and on_cpu) or not self.batches

    @cached_property
    def batches(self) -> bool:
        """Whether models can be trained together: two of them give what each gives by itself."""
        if self.joint:
            return False
        state = State(torch.stack([self.workload.theta0, self.workload.theta0 * 1.01]), {}, 0)
        with torch.no_grad(), preserved_random(self.workload.device):
            micro, batch = next(self.micros(0))
            weights = self.coefficients(0)[micro.slots].expand(2, -1).contiguous()
            try:
                found = self._many(state, micro, batch, weights)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, InputError):
                return False
            each = []
            for theta, w in zip(state.theta, weights, strict=True):
                view = self._view(theta, {}, micro, batch, self.workload.autocast)
                with torch.enable_grad():
                    z = leaf(theta)
                    losses = view.losses(z, batch)
                    each.append((gradient((w * losses).sum(), z), losses.detach()))
        factor = 1.0 if self.workload.autocast is None else 100.0
        return agree(found, [torch.stack(pair) for pair in zip(*each, strict=True)], factor)

    def capacity(self, memory: int, examples: int | None = None) -> int:
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

    def _view(
        self, theta: Tensor, buffers: Any, micro: Micro, batch: Batch, autocast: Any = None
    ) -> Training:
        return self.workload.as_trained(micro.forward_rng, theta, buffers, batch, autocast)

    def _forward_and_back(
        self, state: State, coefficients: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if coefficients.dim() == 2:
            return (*self._batched(state, coefficients), {})
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

    def _batched(self, state: State, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients [model, param] and losses [model, slot] of many models."""
        total, losses = torch.zeros_like(state.theta), torch.zeros_like(coefficients)
        with torch.no_grad(), preserved_random(state.theta.device):
            for micro, batch in self.micros(state.step):
                g, values = self._many(state, micro, batch, coefficients[:, micro.slots].contiguous())
                total += g
                losses[:, micro.slots] = values
        return total, losses

    def _many(self, state: State, micro: Micro, batch: Batch, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        view = self._view(state.theta[0], state.buffers, micro, batch, self.workload.autocast)
        one, places = by_transform(view, batch), (0, *[None] * len(tensors_of(batch)), 0)
        args = (state.theta, *tensors_of(batch), coefficients)
        key = (state.theta.shape, *self._shape(batch))
        if key not in self._traced:
            if self._plain or len(self._traced) >= _SHAPES:
                return vmap(one, in_dims=places, randomness="same")(*args)
            others = [(args[0][0], *tensors_of(first_half_twice(batch)), args[-1][0])]
            single = try_trace(one, args[0][0], *args[1:-1], args[-1][0], others=others)
            self._traced[key] = try_trace(vmap(single, in_dims=places), *args)
        return self._traced[key](*args)

    def pieces(self, state: State) -> Iterator[Piece]:
        """The micro-batches, each with the buffers that the one before left, as derivatives see them.

        By plain operators, without autocast.
        """
        buffers = state.buffers
        for micro, batch in self.micros(state.step):
            with preserved_random(state.theta.device):
                view = self._view(state.theta, buffers, micro, batch)
                yield Piece(view, batch, micro.slots)
                if buffers:
                    with torch.no_grad():
                        buffers = view.with_buffers_after(view.z(state.theta), batch)[1]

    def pure(self, state: State) -> tuple[Tensor, Tensor]:
        """Gradient and losses [slot] of the pieces."""
        mean = self.coefficients(state.step)
        losses, total = torch.zeros_like(mean), torch.zeros_like(state.theta)
        for view, batch, slots in self.pieces(state):
            with torch.enable_grad():
                z = leaf(view.z(state.theta))
                found = view.losses(z, batch)
                total += gradient((mean[slots] * found).sum(), z)[: len(total)]
            losses[slots] = found.detach()
        return total, losses

    def _shape(self, batch: Batch) -> tuple[Any, ...]:
        return tuple((x.shape, x.dtype) for x in tensors_of(batch))

    # pull and push ----------------------------------------------------------------------------------

    def linear(self, curvature: str = "hessian") -> TapedLinear:  # type: ignore[override]
        """The step linearised in theta, buffers and the weights, for any number of adjoints at once."""
        return TapedLinear(self, curvature)

    def check_pull(self, state: State) -> None:
        with preserved_random(state.theta.device):
            super().check_pull(state)

    def is_derivative(self, state: State) -> bool:
        with preserved_random(state.theta.device):
            return super().is_derivative(state)

    def few(self, state: State) -> tuple[Training, Tensor, Batch, Tensor]:
        """As `Step.few`; forwarded alone, as no micro-batch was."""
        micro, batch = next(self.micros(state.step))
        few = torch.arange(min(_FEW, len(micro.indices)), device=state.theta.device)
        some = select(batch, few)
        view = self._view(state.theta, state.buffers, micro, some)
        return view, state.theta, some, self.coefficients(state.step)[micro.slots][few]

    def kernels(self, state: State, micro: Micro, batch: Batch, curvature: str) -> Kernels:
        """The transposed derivative of one micro-batch's mean gradient, traced once for every shape."""
        key = (curvature, *self._shape(batch))
        if key in self._kernels:
            return self._kernels[key]
        view = self._view(state.theta, {}, micro, batch)
        mean = self.coefficients(state.step)[micro.slots]
        plain = self._plain or len(self._kernels) >= _SHAPES
        if plain:
            gradient: Any = Untraced(view.losses, "the model is large or random")
        else:
            gradient = try_trace(by_transform(view, batch), state.theta, *tensors_of(batch), mean)
        made = Kernels(
            view, curvature, self.prefers_loop, gradient, state.theta, batch, mean, first_half_twice(batch)
        )
        if not plain:
            self._kernels[key] = made
        self.notes["derivatives"] = how(made)
        return made


class TapedLinear:
    """`LinearStep` of a taped run: products summed over the micro-batches of a step."""

    def __init__(self, step: TapedStep, curvature: str) -> None:
        self._step, self._curvature = step, curvature

    def backwards(self, states: Sequence[State]) -> Iterator[tuple[State, Product]]:
        """Consecutive states, last first, each with its function (c, a) -> (H c, products, a before)."""
        for state in reversed(states):
            yield state, self._product(state)

    def _product(self, state: State) -> Product:
        step, device = self._step, state.theta.device
        mean = step.coefficients(state.step)
        if step.joint:
            step.notes["derivatives"] = how(None)
            return composed(step.parts(state, self._curvature), len(mean))
        made = []
        with preserved_random(device):
            for micro, batch in step.micros(state.step):
                kernels = step.kernels(state, micro, batch, self._curvature)
                made.append((micro, kernels.product(state.theta, batch, mean[micro.slots])))

        def product(c: Tensor, a: Tensor) -> Pulled:
            total, gradient_products = torch.zeros_like(c), c.new_zeros(len(c), len(mean))
            with preserved_random(c.device):
                for micro, part in made:
                    h, share = part(c)
                    total += h
                    gradient_products[:, micro.slots] = share
            return total, gradient_products, a

        return product
