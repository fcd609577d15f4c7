"""One training step, F(state, weights) -> state, and its four readings: iterate, replicate, pull, push.

    L_t(theta, w) = (1/b) sum_{i in S_t} w_i [ loss(z_i; theta) + (l2/2) |theta|^2 ],   b = |S_t|
    (a tape may add a penalty, in a slot of its own that is no example's: index -1, weight always 1)
    F_t(state, w) = optimizer(state, grad L_t(theta, w)), and the buffers as the forward pass leaves them

A step is a sum of parts, which a `PartSource` gives: the batch of a workload, or a tape's micro-batches.
Nothing here knows an estimator, a disk or a device.
"""

from collections.abc import Callable
from copy import copy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import jvp

from influencekit._exclusive import exclusive
from influencekit._training.batch import Batch, tensors_of
from influencekit._training.checks.model import refuse_hidden_ties
from influencekit._training.checks.taylor import check_pull, is_derivative
from influencekit._training.in_memory import InMemory
from influencekit._training.kernels.same_trace import same_trace
from influencekit._training.kernels.tracing import has_convolution
from influencekit._training.linear import LinearStep
from influencekit._training.loss_settings import settings_of
from influencekit._training.optimizer import Optimizer, Slots
from influencekit._training.over_ranks import LinearOverRanks
from influencekit._training.parts import Gradient, Kernel, Part, PartSource, by_autograd, summed
from influencekit._training.push import pushed
from influencekit._training.ranks import Ranks
from influencekit._training.state import State
from influencekit._training.traced import Traced
from influencekit._training.workload import Workload
from influencekit.errors import InputError

__all__ = ["Step"]


class Step:
    """The training step of one run.

    Attributes: `workload`, `plan`; `source`, which gives the parts of a step; `traced`, what was traced of
    them; `notes`, what the results should say of how derivatives were taken.

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

    def __init__(
        self, workload: Workload, like: "Step | None" = None, source: PartSource | None = None
    ) -> None:
        self.workload = workload
        self.source: PartSource = InMemory(workload) if source is None else source
        self.plan = self.source.plan
        self.loss_settings = settings_of(workload.loss)  # before any call, which may count itself
        valid = (self.plan.indices >= 0).to(workload.dtype).to(workload.device)
        self._rows = self.plan.indices.clamp(min=0).to(workload.device)
        mean = self.plan.coefficient
        self._mean = valid / valid.sum(1, keepdim=True) if mean is None else mean.to(valid)
        self._valid = valid
        self._of_examples = self._mean * valid
        self._start: State | None = None
        self._penalised = bool(((self._mean != 0) & (valid == 0)).any())
        self._linear: dict[str, LinearStep | LinearOverRanks] = {}
        self.ranks: Ranks | None = None
        self._over: dict[Any, Step] = {}  # by group
        self._derivative: dict[int, bool] = {}  # by step, as are those whose pull was looked at
        self.pulls: set[int] = set()
        self.notes: dict[str, str] = {}
        self.queries: dict[Any, Callable[[Tensor], Tensor]] = {}  # traced gradients, by (workload, query)
        self._like = like
        self._changed: tuple[int, Optimizer] = 0, workload.optimizer
        self._prepare: Callable[[Step, State], State] | None = None

    def varied(
        self, weight: Tensor | None = None, start: State | None = None,
        prepare: "Callable[[Step, State], State] | None" = None, examples: Tensor | None = None,
    ) -> "Step":  # fmt: skip
        """The step of another run on the same batches: from the state `start`, with every example of step t
        at weight[t] of `weight` [step], and example j at examples[j] of `examples` [train] times that;
        `prepare(step, state)` is the state that a step begins from, and every state of the run is prepared.
        What was traced serves both."""
        self.traced, self.padded  # noqa: B018 (cached: not traced again in every copy)
        other = copy(self)
        other._linear, other._derivative, other.pulls, other.notes = {}, {}, set(), dict(self.notes)
        other._over = {}
        other._start = self._start if start is None else start
        other._prepare = prepare
        if weight is not None:
            each = weight.to(self._mean)[:, None]
            other._mean = torch.where(self._valid > 0, each * self._mean, self._mean)
        if examples is not None:
            each = examples.to(self._mean)[self._rows]
            other._mean = torch.where(self._valid > 0, each * other._mean, other._mean)
        return other

    def on(self, workload: Workload, source: PartSource) -> "Step":
        """The step of another run of the same plan, on data in which some examples are others. What was
        traced serves both."""
        other = self.varied()
        other.workload, other.source, other.queries = workload, source, {}
        return other

    def over(self, ranks: Ranks) -> "Step":
        """The same step, of which `linear` is computed by several ranks together, as far as its parts can be
        divided."""
        if ranks.group not in self._over:  # with what was traced for the last call
            other = self._over[ranks.group] = self.varied()
            other.ranks = ranks
        return self._over[ranks.group]

    # what a step reads ------------------------------------------------------------------------------

    def start(self) -> State:
        """The state before step 0."""
        return self._prepared(self.source.start() if self._start is None else self._start.copied())

    def _prepared(self, state: State) -> State:
        if self._prepare is None or state.step >= self.plan.steps:
            return state
        return self._prepare(self, state)

    def coefficients(self, t: int | slice, weights: Tensor | None = None) -> Tensor:
        """w_i / b of every slot of step t, all w_i = 1 unless `weights` [..., train] say otherwise.

        The weight of a slot that is no example's (a penalty) is 1 whatever they say.
        """
        mean = self._mean[t]
        if weights is None:
            return mean
        given = weights[..., self._rows[t]]
        return mean * (torch.where(self._valid[t] > 0, given, 1.0) if self._penalised else given)

    def of_examples(self, t: int | slice) -> Tensor:
        """The coefficients 1/b of the examples of step t, [slot]: 0 in slots that are no example's."""
        return self._of_examples[t]

    def rows(self, t: int | slice) -> Tensor:
        """Positions in the training set of every slot of step t (0 where it is no example's)."""
        return self._rows[t]

    @property
    def joint(self) -> bool:
        """Whether a step must see its own batch and nothing else."""
        return self.source.joint

    @property
    def caution(self) -> str:
        """What results must say of the run; nothing as a rule."""
        return self.source.caution

    def optimizer_at(self, t: int) -> Optimizer:
        """The optimizer of step t, whose hyper-parameters may change during a run."""
        if not (number := self.plan.changes(t)):
            return self.workload.optimizer
        if self._changed[0] != number:
            changed = self.workload.optimizer.with_settings(self.plan.settings[number - 1][1])
            self._changed = number, changed
        return self._changed[1]

    # how it is computed -----------------------------------------------------------------------------

    @cached_property
    def traced(self) -> Traced:
        """The kernels that were traced, this step's own or those of `like`."""
        like, self._like = self._like, None
        if like is not None and not like.joint and same_trace(like.workload, self.workload):
            part, mean = self._example(0)
            inputs = (self.workload.theta0, *tensors_of(part.batch), mean)
            with torch.no_grad():
                here = part.losses.losses(inputs[0], part.batch)
                there = like._one(*like._example(0))(*inputs)[1]
            if torch.allclose(here, there, rtol=1e-5, atol=1e-7, equal_nan=True):
                return like.traced
        return Traced(self.source.traceable, self._others, 100.0 if self.source.rounds else 1.0)

    def _example(self, t: int) -> tuple[Part, Tensor]:
        start = State(self.workload.theta0, {}, t)
        return next(self.source.parts(start, padded=True)), self._mean[t]

    def _one(self, part: Part, mean: Tensor) -> Kernel:
        return self.traced.one(part, self.workload.theta0, mean)

    def _others(self) -> list[tuple[Batch, Tensor]]:
        """Batches that traces are checked on: the first and the last, where all are of one shape."""
        if self.source.eager:
            return []
        pairs = [self._example(t) for t in (0, self.plan.steps - 1)]
        return [(part.batch, mean) for part, mean in pairs]

    @cached_property
    def padded(self) -> bool:
        """Whether parts are padded to one shape: where one trace serves all, so that no value decides
        anything."""
        if self.source.eager:
            return False
        kernel = self._one(*self._example(0))
        if why := getattr(kernel, "why", ""):
            self.notes["gradient"] = f"not traced: {why}"
        return isinstance(kernel, fx.GraphModule)

    @cached_property
    def prefers_loop(self) -> bool:
        """Whether models are trained one after the other: where each has buffers of its own, or cannot be
        batched, and for convolutions on a CPU, which vmap lowers to grouped ones, slower per model."""
        if self.source.alone:
            return True
        convolves = any("Conv" in type(m).__name__ for m in self.workload.model.modules())
        if self.padded and not convolves:
            convolves = has_convolution(self._one(*self._example(0)))  # type: ignore[arg-type]
        return (convolves and self.workload.device.type == "cpu") or not self.batches

    @cached_property
    def batches(self) -> bool:
        """Whether models can be trained together: two of them give what each gives by itself."""
        if self.joint:
            return False
        t, theta = self.plan.steps - 1, self.workload.theta0
        thetas = torch.stack([theta, 1.01 * theta])
        try:
            with torch.no_grad(), self.source.protected():
                part = next(self.source.parts(State(theta, {}, t), self.padded)).as_run()
                mean = self._mean[t][part.slots]
                weights = torch.stack([mean, 0.5 * mean])
                many = self.traced.batched(part, thetas, weights)
                return self.traced.believed(many, part, thetas, weights)
        except (RuntimeError, InputError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return False

    def capacity(self, memory: int, examples: int | None = None) -> int:
        """How many models (or adjoint columns) fit `memory` bytes at once, on batches of `examples`; >= 1.

        An upper bound on what one takes: its vectors, and all intermediate results of a gradient.
        """
        theta, kept = self.workload.theta0, 64 * self.workload.theta0.nbytes
        if self.padded:
            kept = self._one(*self._example(0)).meta["bytes"]  # type: ignore[attr-defined]
        vectors = (3 + len(self.workload.optimizer.slots)) * theta.nbytes
        fraction = 1.0 if examples is None or not self.padded else examples / self.plan.indices.shape[1]
        return max(1, int(memory / (vectors + fraction * kept)))

    # iterate and replicate --------------------------------------------------------------------------

    def advance(self, state: State) -> tuple[State, Tensor]:
        """The next state, and the losses [slot] of the batch before the update (0 where a slot is no
        example's).

        Deterministic: on the CPU the same state gives the same bits, which is what makes replay exact.
        """
        new, losses = self.advance_with(state, self.coefficients(state.step))
        return self._prepared(new), losses * self._valid[state.step]

    def advance_with(self, state: State, coefficients: Tensor) -> tuple[State, Tensor]:
        """One step with slot coefficients w_i / b; theta [param] with [slot], or [model, param] with
        [model, slot]: hundreds of counterfactual models at once, sharing the batch."""
        g, losses, buffers = self._summed(state, coefficients)
        theta, slots = self._update(state.step, state.theta, state.slots, g)
        return State(theta, slots, state.step + 1, buffers), losses

    def gradient(self, state: State, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of L_t shaped like theta, and the losses [..., slot] without the penalty."""
        return self._summed(state, coefficients)[:2]

    @exclusive()
    def _summed(self, state: State, coefficients: Tensor) -> Gradient:
        theta, many = state.theta, coefficients.dim() == 2
        with torch.no_grad():
            if not many and not self.padded:
                found = self.source.gradient(state, coefficients)
            else:
                one = state._replace(theta=theta[0]) if many else state
                parts = (part.as_run() for part in self.source.parts(one, self.padded))
                found = summed(parts, theta, coefficients, self.traced.many if many else self.traced.one)
            if self.workload.l2:
                penalty = self.workload.l2 * coefficients.sum(-1, keepdim=True)
                found = found._replace(value=torch.addcmul(found.value, theta, penalty))
        return found

    @exclusive()
    def derived(self, state: State) -> tuple[Tensor, Tensor]:
        """Gradient and losses [slot] of one model as derivatives see them: by plain operators, untraced."""
        return summed(self.source.parts(state), state.theta, self._mean[state.step], by_autograd)[:2]

    def _update(self, t: int, theta: Tensor, slots: Slots, g: Tensor) -> tuple[Tensor, Slots]:
        return self.optimizer_at(t).step(
            self.workload.layout, theta, slots, g, self.plan.updates + t, self.plan.lrs(t)
        )

    # pull and push ----------------------------------------------------------------------------------

    @exclusive()
    def linear(self, curvature: str = "hessian") -> LinearStep | LinearOverRanks:
        """The step linearised in theta, buffers and the weights, for any number of adjoints at once.

        Errors: a model that has no second derivative, or whose derivatives are not those of its values.
        """
        if curvature not in self._linear:
            if curvature == "hessian" and not self.source.checked:
                self.check_pull(self.start())
            if self.ranks is None or self.source.undivided:
                self._linear[curvature] = LinearStep(self, curvature)
            else:
                self._linear[curvature] = LinearOverRanks(self, curvature, self.ranks)
        return self._linear[curvature]

    def check_pull(self, state: State) -> None:
        """Refuse a model whose pull is not the derivative of its gradient, on a few examples of a step."""
        if not self.pulls:
            refuse_hidden_ties(self.workload.model)
        if state.step not in self.pulls:
            with self.source.protected():
                check_pull(*self._few(state))
            self.pulls.add(state.step)

    def is_derivative(self, state: State) -> bool:
        """Whether the gradient of the losses is the derivative of their values."""
        if state.step not in self._derivative:
            with self.source.protected():
                self._derivative[state.step] = is_derivative(*self._few(state))
        return self._derivative[state.step]

    def _few(self, state: State) -> tuple[Part, Tensor, Tensor]:
        part = self.source.few(state)
        return part, state.theta, self._mean[state.step][part.slots]

    @exclusive()
    def push(self, state: State, tangent: State, weights: Tensor) -> State:
        """The tangent of the next state from those of state (buffers by name) and weights [slot], of
        which those of slots without an example count for nothing."""
        t, mean = state.step, self.coefficients(state.step)
        weights = weights * self._valid[t]
        g, dg, buffers = pushed(self.source.parts(state), state, tangent, mean, weights, self.workload.l2)
        primal = (state.theta, state.slots, g)
        along = (tangent.theta, tangent.slots, dg)
        _, (theta, slots) = jvp(lambda *args: self._update(t, *args), primal, along)  # type: ignore[misc]
        return State(theta, slots, t + 1, buffers)
