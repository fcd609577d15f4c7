"""One training step, F(state, weights) -> state, and its four readings: iterate, replicate, pull, push.

    L_t(theta, w) = (1/b) sum_{i in S_t} w_i [ loss(z_i; theta) + (l2/2) |theta|^2 ],   b = |S_t|
    F_t(state, w) = optimizer(state, grad L_t(theta, w)), and the buffers as the forward pass leaves them

Short batches are padded to a common width with weight 0, so that one trace serves every step, unless losses
depend on their whole batch (batch norm). Nothing here knows an estimator, a disk or a device.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import vmap

from influencekit.errors import InputError
from influencekit.training.batch import Batch, first_half_twice, select, tensors_of, with_tensors
from influencekit.training.checks.model import refuse_hidden_ties
from influencekit.training.checks.separability import BATCH_STATISTICS, own_losses
from influencekit.training.checks.taylor import check_pull, is_derivative
from influencekit.training.forward import pushed_forward
from influencekit.training.kernels.same_trace import same_trace
from influencekit.training.kernels.tracing import agree, has_convolution, try_trace
from influencekit.training.linear import Kernels, LinearStep, Part, how
from influencekit.training.losses import Training, by_backward, by_transform
from influencekit.training.state import Piece, State
from influencekit.training.workload import Workload

__all__ = ["Piece", "State", "Step"]

_FEW = 8  # examples on which derivatives are held against differences


class Step:
    """The training step of one workload.

    Attributes: `workload`, `plan`; `prefers_loop` tells whether batches of models are trained one after the
    other; `notes` what the results should say of how derivatives were taken.

    `like` is the step of another seed, whose traced kernels serve this one as well, if model, loss and shapes
    are the same; the results are the same bits either way. Tracing is most of the cost of a short run.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> step, state = run.step, run.state(0)
        >>> again, losses = step.advance_with(state, step.coefficients(0))
        >>> bool((again.theta == run.state(1).theta).all()), losses.shape == step.rows(0).shape
        (True, True)
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
        if like is not None and not like.joint and same_trace(like, self):
            self._traced, self._kernels = like._traced, like._kernels
        self._linear: dict[str, LinearStep] = {}
        self._used: tuple[bool, ...] | None = None
        self._derivative: dict[int, bool] = {}  # by step, as are those whose pull was looked at
        self.pulls: set[int] = set()
        self.notes: dict[str, str] = {}
        self.queries: dict[Any, Callable[[Tensor], Tensor]] = {}  # traced gradients, by query

    # what a step reads ------------------------------------------------------------------------------

    def start(self) -> State:
        """The state before step 0."""
        theta = self.workload.theta0
        return State(theta, self.workload.optimizer.start(theta), 0, self.own_buffers(self.changing))

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

    @cached_property
    def changing(self) -> tuple[str, ...]:
        """The buffers that training changes, seen at the start and nearby: averages may not move at first."""
        names = [name for name, _ in self.workload.model.named_buffers()]
        if not names:
            return ()
        buffers, found, theta0 = self.own_buffers(names), set[str](), self.workload.theta0
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for t, theta in ((0, theta0), (self.plan.steps - 1, 1.01 * theta0 + 1e-3)):
                split = self.workload.layout.split(theta)
                after = self.workload.trained(split, buffers, self.unpadded(t)[0])[1]
                found |= {n for n in names if not torch.equal(buffers[n], after[n])}
                buffers = after
        return tuple(filter(found.__contains__, names))

    def own_buffers(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Copies of the model's own buffers."""
        own = dict(self.workload.model.named_buffers()) if names else {}
        return {name: own[name].detach().clone() for name in names}

    @cached_property
    def tied(self) -> bool:
        """Whether the loss of an example depends on the others of its batch, as by batch normalisation."""
        with torch.random.fork_rng(devices=[]):
            return not own_losses(self.losses_at_start, self.unpadded(0)[0])

    @property
    def joint(self) -> bool:
        """Whether a step must see its own batch and nothing else."""
        return bool(self.changing) or self.tied

    @cached_property
    def padded(self) -> bool:
        """Whether short batches are padded: where one trace serves all, so that no value decides anything."""
        if self.joint:
            return False
        traced = self._gradient(self.workload.theta0, self.batch(0), self.coefficients(0))
        return isinstance(traced, fx.GraphModule)

    @property
    def caution(self) -> str:
        """What results must say of how losses depend on their batch; nothing as a rule."""
        return BATCH_STATISTICS if self.tied else ""

    def losses_at_start(self, batch: Batch) -> Tensor:
        """Training losses of any batch at the initial parameters."""
        workload = self.workload
        buffers = self.own_buffers(self.changing)
        return workload.loss_of(
            workload.trained(workload.layout.split(workload.theta0), buffers, batch)[0], batch
        )

    def unpadded(self, t: int) -> tuple[Batch, Tensor]:
        """The batch of step t without padding, and which of the slots it fills."""
        slots = self._valid[t].nonzero().flatten()
        return self.workload.examples(self._rows[t][slots]), slots

    @cached_property
    def prefers_loop(self) -> bool:
        """Whether models are trained one after the other: where each has buffers of its own, or cannot be
        batched, and for convolutions on a CPU, which vmap lowers to grouped ones, slower per model."""
        theta = self.workload.theta0
        if self.joint:
            return True
        traced = self._gradient(theta, self.batch(0), self.coefficients(0))
        convolves = isinstance(traced, fx.GraphModule) and has_convolution(traced)
        return (theta.device.type == "cpu" and convolves) or not self.batches

    @cached_property
    def batches(self) -> bool:
        """Whether models can be trained together: two of them give what each gives by itself."""
        if self.joint:
            return False
        t = self.plan.steps - 1
        theta, batch, mean = self.workload.theta0, self.batch(t), self.coefficients(t)
        thetas, weights = torch.stack([theta, 1.01 * theta]), torch.stack([mean, 0.5 * mean])
        try:
            with torch.no_grad():
                return self._believed(self._vmapped(thetas, batch, weights), thetas, batch, weights)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return False

    def _vmapped(self, thetas: Tensor, batch: Batch, weights: Tensor) -> Callable[..., Any]:
        """Gradients of many models at once: over the traced kernels, more of which can be batched than of the
        model's, or over the model where it is not traced."""
        if self.padded:
            one = self._gradient(thetas[0], batch, weights[0])
        else:
            one = by_transform(Training.of(self.workload), batch)
        return vmap(one, in_dims=(0, *[None] * len(tensors_of(batch)), 0))

    def _believed(self, many: Callable[..., Any], thetas: Tensor, batch: Batch, weights: Tensor) -> bool:
        """Whether the first and the last of many models get what they get by themselves."""
        ends, rest = [0, len(thetas) - 1], tensors_of(batch)
        found = [x[ends] for x in many(thetas, *rest, weights)]
        one = self._gradient(thetas[0], batch, weights[0])
        each = [one(thetas[k], *rest, weights[k]) for k in ends]
        return agree(found, [torch.stack(pair) for pair in zip(*each, strict=True)])

    def capacity(self, memory: int, examples: int | None = None) -> int:
        """How many models (or adjoint columns) fit `memory` bytes at once, on batches of `examples`; >= 1.

        An upper bound on what one takes: its vectors, and all intermediate results of a gradient.
        """
        workload, kept = self.workload, 64 * self.workload.theta0.nbytes
        if not self.joint:
            traced = self._gradient(workload.theta0, self.batch(0), self.coefficients(0))
            kept = getattr(traced, "meta", {}).get("bytes", kept)
        vectors = (3 + len(workload.optimizer.slots)) * workload.theta0.nbytes
        part = 1.0 if examples is None else examples / self.plan.indices.shape[1]
        return max(1, int(memory / (vectors + part * kept)))

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
        g, losses, buffers = self._forward_and_back(state, coefficients)
        theta, slots = self.workload.optimizer.step(
            self.workload.layout, state.theta, state.slots, g, self.plan.updates + t, self.plan.lrs(t)
        )
        return State(theta, slots, t + 1, buffers), losses

    def gradient(self, state: State, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of L_t shaped like theta, and the losses [..., slot] without the penalty."""
        return self._forward_and_back(state, coefficients)[:2]

    def _forward_and_back(
        self, state: State, coefficients: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        theta, t = state.theta, state.step
        buffers: dict[str, Tensor] = {}
        with torch.no_grad():
            if self.padded:
                batch = self.batch(t)
                traced = self._gradient(theta, batch, coefficients)
                g, losses = traced(theta, *tensors_of(batch), coefficients)
            else:
                batch, slots = self.unpadded(t)
                weights = coefficients[..., slots]
                if theta.dim() == 1:
                    g, some, buffers = self._slow(theta, state.buffers, batch, weights)
                else:
                    g, some = self._vmapped(theta, batch, weights)(theta, *tensors_of(batch), weights)
                losses = some.new_zeros(coefficients.shape).index_copy(-1, slots, some)
            if self.workload.l2:
                g = torch.addcmul(g, theta, self.workload.l2 * coefficients.sum(-1, keepdim=True))
        return g, losses, buffers

    def _slow(
        self, theta: Tensor, buffers: Mapping[str, Tensor], batch: Batch, coefficients: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Gradient, losses and buffers by `backward`; refused where parameters are used now and then."""
        workload = self.workload
        g, losses, after, used = by_backward(workload, theta, buffers, batch, coefficients)
        self._used = self._used or used
        if used != self._used and (workload.optimizer.slots or workload.decays):
            names = zip(workload.layout.names, used, self._used, strict=True)
            odd = next(name for name, now, before in names if now != before)
            raise InputError(
                f"parameter {odd} has a gradient on some batches and none on others, and "
                f"{type(workload.optimizer).__name__} skips it there; multiply by 0 where it is not used, or "
                "train with plain SGD"
            )
        return g, losses, after

    def _gradient(self, theta: Tensor, batch: Batch, coefficients: Tensor) -> Callable[..., Any]:
        key = (theta.shape, coefficients.shape)
        if key not in self._traced:
            self._traced[key] = self._trace(theta, batch, coefficients)
        if why := getattr(self._traced[key], "why", ""):
            self.notes["gradient"] = f"not traced: {why}"
        return self._traced[key]

    def _trace(self, theta: Tensor, batch: Batch, coefficients: Tensor) -> Callable[..., Any]:
        example = (theta, *tensors_of(batch), coefficients)
        if theta.dim() == 2:
            many = self._vmapped(theta, batch, coefficients)
            traced = try_trace(many, *example)
            return traced if self._believed(traced, theta, batch, coefficients) else many

        def slow(theta: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
            return self._slow(theta, {}, with_tensors(batch, rest[:-1]), rest[-1])[:2]

        last = self.plan.steps - 1
        others = [
            (theta * 1.01, *tensors_of(self.batch(last)), self.coefficients(last)),
            (theta, *tensors_of(first_half_twice(batch)), coefficients),
        ]
        return try_trace(by_transform(Training.of(self.workload), batch), *example, others=others, slow=slow)

    # pull and push ----------------------------------------------------------------------------------

    def training(self, buffers: Mapping[str, Tensor]) -> Training:
        """The losses of a step as functions of theta and these buffers."""
        return Training.of(self.workload, buffers)

    def linear(self, curvature: str = "hessian") -> LinearStep:
        """The step linearised in theta, buffers and the weights, for any number of adjoints at once.

        Errors: a model that has no second derivative, or whose derivatives are not those of its values.
        """
        if curvature not in self._linear:
            if curvature == "hessian":
                self.check_pull(self.start())
            kernels = None if self.joint else self._kernels_for(curvature)
            self.notes["derivatives"] = how(kernels)
            self._linear[curvature] = LinearStep(
                self, curvature, None if kernels and kernels.why else kernels
            )
        return self._linear[curvature]

    def check_pull(self, state: State) -> None:
        """Refuse a model whose pull is not the derivative of its gradient, on a few examples of a step."""
        if not self.pulls:
            refuse_hidden_ties(self.workload.trainer)
        if state.step not in self.pulls:
            check_pull(*self.few(state))
            self.pulls.add(state.step)

    def is_derivative(self, state: State) -> bool:
        """Whether the gradient of the losses is the derivative of their values."""
        known, t = self._derivative, state.step
        return known[t] if t in known else known.setdefault(t, is_derivative(*self.few(state)))

    def few(self, state: State) -> tuple[Training, Tensor, Batch, Tensor]:
        """Losses, theta, a few examples of a step, and their coefficients."""
        view, batch, slots = next(self.pieces(state))
        mean = self.coefficients(state.step)[slots]
        few = torch.arange(min(_FEW, len(mean)), device=mean.device)
        return view, state.theta, select(batch, few), mean[few]

    def _kernels_for(self, curvature: str) -> Kernels:
        batch, mean, theta = self.batch(0), self.coefficients(0), self.workload.theta0
        key = (curvature, mean.shape)
        if key not in self._kernels:
            self._kernels[key] = Kernels(
                self.training({}), curvature, self.prefers_loop, self._gradient(theta, batch, mean), theta,
                batch, mean, self.batch(self.plan.steps - 1),
            )  # fmt: skip
        return self._kernels[key]

    def pieces(self, state: State) -> Iterator[Piece]:
        """What the step's gradient is a sum over: here the whole batch, without padding."""
        batch, slots = self.unpadded(state.step)
        yield Piece(self.training(state.buffers), batch, slots)

    def parts(self, state: State, curvature: str) -> list[Part]:
        """The pieces, each pulled back by itself."""
        mean = self.coefficients(state.step)
        return [Part.of(p.losses, curvature, state.theta, p.batch, mean, p.slots) for p in self.pieces(state)]

    def push(self, state: State, tangent: State, weights: Tensor) -> State:
        """The tangent of the next state from those of state (buffers by name) and weights [slot]."""
        return pushed_forward(self, state, tangent, weights)
