"""A training problem as plain frozen data, and the plan that one run of it follows."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from influencekit._arguments import short
from influencekit._exclusive import exclusive
from influencekit._training.accuracy import Accuracy, accuracy_of
from influencekit._training.batch import (
    Batch,
    Examples,
    batch_in_float64,
    mapped,
    require_test,
    select,
    tensors_of,
)
from influencekit._training.buffers import buffers_in_float64
from influencekit._training.call import Call, Calls, Loss
from influencekit._training.checks.model import check_model, copy_model
from influencekit._training.checks.workload import check_set, check_settings
from influencekit._training.functional import called, in_evaluation
from influencekit._training.ids import checked_ids
from influencekit._training.kernels.operators import plain_operators
from influencekit._training.layout import Layout
from influencekit._training.optimizer import Optimizer
from influencekit._training.pieces import in_pieces, pieces
from influencekit._training.plan import Plan, drawn, factors_of, ordered
from influencekit._training.schedules import Constant, Schedule
from influencekit.errors import InputError

__all__ = ["Workload", "evaluated_with"]

Within = Callable[[Iterable[Tensor]], AbstractContextManager[Any]]

# what queries are evaluated with just now, whatever the workload says, and in which context
_EVALUATED: ContextVar[tuple[Mapping[str, Tensor], Within] | None] = ContextVar("evaluated", default=None)


@contextmanager
def evaluated_with(buffers: Mapping[str, Tensor], within: Within = nullcontext) -> Iterator[None]:
    """Inside, outputs in evaluation mode are those with these buffers: a retrained model's own.

    `within`: a context around each call of the model.
    """
    token = _EVALUATED.set((buffers, within) if buffers else None)
    try:
        yield
    finally:
        _EVALUATED.reset(token)


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """Model, per-example loss, data, optimizer and order: everything a training run depends on.

    The model's parameters as passed are the initial ones and its train/eval mode is the mode it trains
    in; it is copied, never modified. A batch is a tensor (the model's input and its own target), a tuple
    (inputs..., target) or a dict whose `target_key` entry is the target and whose other entries are the
    model's keyword arguments; the first dimension counts examples. A loss with a parameter `batch`, as in
    `loss(outputs, target, batch)`, gets the batch, too.

    A step minimises L = (1/b) sum_i w_i [loss_i(theta) + (l2/2) |theta|^2] over the batch, all w_i = 1 in
    ordinary training: the mean of per-example losses, the penalty being part of each example's loss.

    `order` ([step, slot] positions, -1 = no example) replaces the shuffled batches drawn from `seed`. Its
    steps are `epochs` epochs of one length; with epochs = 1 a new one begins whenever the slots since the
    last could have held every example.

    `train_ids`, `test_ids`: your own names of the examples, text or numbers, in a list, tuple or array.

    A run that a tape recorded is a workload, too: its `order` is the recorded `Plan`, `train` are `Examples`,
    fetched again, `call` is how the loop called model and loss, and `model` is as it was at state 0.

    Example:

        >>> import torch
        >>> import influencekit as ik
        >>> x, y = torch.randn(20, 3), torch.randn(20)
        >>> def loss(outputs, target):
        ...     return (outputs[:, 0] - target) ** 2
        >>> work = ik.Workload(
        ...     model=torch.nn.Linear(3, 1), loss=loss, train=(x, y), test=(x, y), optimizer=ik.SGD(lr=0.1),
        ...     batch_size=5,
        ... )
        >>> work.n_train, work.plan.steps, work.theta0.shape
        (20, 4, torch.Size([4]))
    """

    model: nn.Module
    loss: Loss
    train: Batch
    test: Batch
    optimizer: Optimizer
    epochs: int = 1
    batch_size: int = 64
    schedule: Schedule = Constant()
    l2: float = 0.0
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False
    order: Tensor | Plan | None = None
    validation: Batch | None = None
    train_ids: Sequence[Hashable] | None = None
    test_ids: Sequence[Hashable] | None = None
    target_key: str = "labels"
    name: str = "custom"
    info: Mapping[str, Any] = field(default_factory=dict)
    call: Calls | None = None

    @exclusive()
    def __post_init__(self) -> None:
        if isinstance(self.order, Plan):
            return  # a recorded run: it was checked when it was recorded
        if not isinstance(self.model, nn.Module):
            raise InputError(f"model: expected a torch.nn.Module, got {short(self.model)}")
        check_model(self.model)
        object.__setattr__(self, "model", copy_model(self.model))
        check_settings(self)
        if self.validation is not None:
            check_set("validation", self.validation, self.target_key)
        for name in ("train", "test"):
            count = check_set(name, getattr(self, name), self.target_key)
            if (ids := getattr(self, f"{name}_ids")) is not None:
                object.__setattr__(self, f"{name}_ids", checked_ids(ids, count, f"{name}_ids"))

    # sizes and places -------------------------------------------------------------------------------

    @property
    def n_train(self) -> int:
        """The number of training examples."""
        return len(tensors_of(self.train)[0] if self._fetched is None else self._fetched)

    @property
    def n_test(self) -> int:
        """The number of test examples. Errors: `InputError` where there is no test set."""
        return len(tensors_of(self.test)[0])

    @cached_property
    def layout(self) -> Layout:
        """Which named tensor stands where in theta [param]."""
        whole = Layout.of(self.model)
        if isinstance(self.order, Plan) or not self.decays or self.l2:
            return whole
        unused = self._unused(whole)
        return whole.without(unused) if len(unused) < len(whole.names) else whole

    @property
    def decays(self) -> bool:
        """Whether the optimizer decays weights."""
        return any(getattr(rule, "weight_decay", 0.0) for rule in self.optimizer.members())

    @exclusive()
    def _unused(self, layout: Layout) -> list[str]:
        """Parameters that no loss reaches: torch does not even decay them."""
        own = dict(self.model.named_parameters())
        leaves = {name: own[name].detach().clone().requires_grad_() for name in layout.names}
        batch = select(
            self.train, torch.arange(min(self.n_train, self.batch_size), device=own[layout.names[0]].device)
        )
        try:
            with torch.enable_grad(), torch.random.fork_rng(devices=[]):
                losses = self.loss_of(self.trained(leaves, {}, batch)[0], batch).sum()
                found = torch.autograd.grad(losses, list(leaves.values()), allow_unused=True)
        except Exception:  # the user's own model or loss; the door says what is wrong with it
            return []
        return [name for name, g in zip(layout.names, found, strict=True) if g is None]

    @property
    def n_params(self) -> int:
        """The number of trainable parameters, the length of theta."""
        return self.layout.size

    @cached_property
    def theta0(self) -> Tensor:
        """The initial parameters, [param]."""
        return self.layout.join(dict(self.model.named_parameters()))

    @property
    def dtype(self) -> torch.dtype:
        """That of the parameters, and of scores."""
        return self.theta0.dtype

    @property
    def device(self) -> torch.device:
        """That of parameters and data: make new tensors there."""
        return self.theta0.device

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "Workload":
        """The same problem on another device, or with every floating-point tensor in another dtype."""

        def move(x: Tensor) -> Tensor:
            return x.to(device=device, dtype=dtype if x.is_floating_point() else None)

        return replace(
            self,
            model=copy_model(self.model).to(device=device, dtype=dtype),
            train=mapped(self.train, move),
            test=mapped(self.test, move),
            validation=None if self.validation is None else mapped(self.validation, move),
        )

    def examples(self, rows: Tensor) -> Batch:
        """The training examples at these positions (any shape, which takes the place of the leading one).

        Of a taped run they are fetched anew, one after the other.
        """
        if self._fetched is not None:
            return self._fetched.at(rows)
        if rows.dim() != 1:
            return select(self.train, rows)
        return mapped(self.train, lambda x: x.index_select(0, rows))  # faster than x[rows]

    @property
    def fetches(self) -> bool:
        """Whether training examples are fetched anew whenever they are asked for, as those of a taped run."""
        return self._fetched is not None

    @cached_property
    def _fetched(self) -> Examples | None:
        return self.train if hasattr(self.train, "at") else None  # type: ignore[return-value]

    # the model as a function of theta ---------------------------------------------------------------

    @cached_property
    def evaluator(self) -> nn.Module:
        """The model in evaluation mode, sharing every tensor with `model`: queries ask it."""
        return in_evaluation(copy_model(self.model, [*self.model.parameters(), *self.model.buffers()]))

    def outputs(self, theta: Tensor, batch: Batch) -> Any:
        """The model's outputs in evaluation mode at theta [param]; pure, differentiable, vmap-able.

        Shape: what the model gives, such as [n, class]; [n] of one logit for the bundled two-class problems.
        """
        tensors_of(batch)  # which says what to do where there is no test set
        given = _EVALUATED.get()
        buffers, within = (self.buffers, nullcontext) if given is None else given
        run = partial(self.run, batch=batch)
        return called(self.evaluator, self.layout.split(theta), buffers, run, within, forget=True)[0]

    def trained(
        self,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        batch: Batch,
        within: Within = nullcontext,
    ) -> tuple[Any, dict[str, Tensor]]:
        """Outputs in the mode that the run trains in, and the buffers after it; see `functional.called`."""
        return called(self.model, parameters, buffers, partial(self.run, batch=batch), within)

    def run(self, model: nn.Module, batch: Batch) -> Any:
        """`model` called with the inputs of a batch."""
        return self.calls.outputs(model, batch)

    @property
    def calls(self) -> Calls:
        """How a batch becomes outputs and losses."""
        return Call(self.loss, self.target_key) if self.call is None else self.call

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The buffers that queries are evaluated with, where they are not the model's own."""
        return self.__dict__.get("_buffers", {})

    def with_buffers(self, buffers: Mapping[str, Tensor]) -> Self:
        """The same problem, its queries evaluated with these of the model's buffers."""
        if not buffers:
            return self
        other = copy(self)
        object.__setattr__(other, "_buffers", dict(buffers))
        return other

    def in_double(self) -> Self:
        """The same model and loss in float64, whatever the data are."""
        other = copy(self)
        other.__dict__.pop("evaluator", None)
        object.__setattr__(other, "model", copy_model(self.model, double=True))
        if isinstance(self.loss, nn.Module):
            object.__setattr__(other, "loss", deepcopy(self.loss).double())
        return other

    def all_double(self) -> Self:
        """The same with its test set, and the buffers that queries are evaluated with, in float64, too."""
        other = self.in_double().with_buffers(buffers_in_float64(self.buffers))
        if self.test is not None:
            object.__setattr__(other, "test", batch_in_float64(self.test))
        return other

    @exclusive()
    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        """Per-example losses [n] at theta in evaluation mode, without the penalty; many in pieces."""
        return in_pieces(self, lambda *at: self.loss_of(self.outputs(*at), at[1]), theta, batch)

    def loss_of(self, outputs: Any, batch: Batch) -> Tensor:
        """Per-example losses [n] of given outputs, their parts added up; other shapes are refused."""
        with plain_operators():
            return self.calls.losses(outputs, batch, len(tensors_of(batch)[0]))

    def target(self, batch: Batch) -> Any:
        """What the loss compares the outputs with. Errors: `InputError` for no batch (no test set), or for a
        loss that takes its targets from the batch itself."""
        require_test(batch)
        target = self.calls.target(batch)
        if target is None:
            raise InputError(
                f"this needs one target an example, and the batch has no entry {self.target_key!r}: the loss "
                "takes its targets from the batch itself; name the one that is meant with target_key=..."
            )
        return target

    def accuracy(self, theta: Tensor, batch: Batch | None = None) -> float:
        """Fraction of what the loss scores that is classified rightly (test set by default), or NaN."""
        return self.judge(theta, batch).value

    @exclusive()
    def judge(self, theta: Tensor, batch: Batch | None = None) -> Accuracy:
        """`accuracy`, and a note that says why where it is NaN."""
        batch = self.test if batch is None else batch
        with torch.no_grad():
            parts = ((self.outputs(theta, p), self.calls.target(p), p) for p in pieces(self, batch))
            return accuracy_of(parts, self.loss)

    # the plan ---------------------------------------------------------------------------------------

    @cached_property
    def plan(self) -> Plan:
        """Batches, learning rates and epochs of the run, decided by `seed` (or by `order`)."""
        if isinstance(self.order, Plan):
            return self.order
        n, b = self.n_train, self.batch_size
        if self.order is not None:
            indices, epoch = ordered(self.order, n, self.epochs)
        else:
            generator = torch.Generator().manual_seed(self.seed) if self.shuffle else None
            indices, epoch = drawn(n, b, self.epochs, generator, self.drop_last)
        rates = torch.tensor([rule.lr for rule in self.optimizer.members()], dtype=torch.float64)
        lr = factors_of(self.schedule, len(indices))[:, None] * rates
        if not bool((lr.abs() <= torch.finfo(self.dtype).max).all()):
            raise InputError(
                f"the learning rate reaches {float(lr.abs().max()):g}, more than {self.dtype} holds; lower it"
            )
        return Plan(indices, lr, epoch)
