"""Queries: numbers of the model whose change is asked for. Reached by name through the registry."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from influencekit._tensors import real_tensor
from influencekit._training.accuracy import logits_of
from influencekit._training.batch import Batch, mapped, require_test, tensors_of
from influencekit._training.by_part import PartsThere
from influencekit._training.checks.separability import one_example, own_losses
from influencekit._training.gradients import by_input, example_gradients, gradient_of_sum, rows_of_jacobian
from influencekit._training.kernels.operators import plain_operators
from influencekit._training.loss_by_part import of_parts
from influencekit._training.pieces import pieces
from influencekit._training.workload import Workload
from influencekit.errors import InputError
from influencekit.interfaces import Query

__all__ = [
    "FeatureImportance", "FixedVector", "GradientAlignment", "Parameter", "Prediction",
    "TestLoss", "TestLosses", "TestParts",
]  # fmt: skip


@dataclass(frozen=True)
class TestLoss(Query):
    """Mean loss over the test set, without the L2 penalty. A positive effect: the example helped.

    Shapes: labels ["test-loss"], values [1]. Cost: one pass over the test set. Errors: `InputError` for a run
    that was opened without a test set.

    Example:

        >>> import influencekit as ik
        >>> work = ik.make("workload", "mnist-1v7-lr:n_train=24")
        >>> ik.make("query", "test-loss").evaluate(work, work.theta0).shape
        torch.Size([1])
    """

    __test__ = False  # not a pytest class
    better = "lower"

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        return ["test-loss"]

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        return workload.losses(theta, workload.test).mean(0, keepdim=True)

    def gradient(self, workload: Workload, theta: Tensor) -> Tensor:
        """[1, param]; of a large test set piece after piece, so that no pass is run twice."""
        if type(self).evaluate is TestLoss.evaluate and len(parts := pieces(workload, workload.test)) > 1:
            return gradient_of_sum(workload, theta, parts) / workload.n_test
        return super().gradient(workload, theta)


@dataclass(frozen=True)
class TestLosses(Query):
    """Loss of every single test example, one query each, without the L2 penalty.

    Labels: `test_ids`, or positions in the test set. Shapes: values [test]. A positive effect: the example
    helped. Cost: one pass over the test set, and one gradient of each example. Errors: `InputError` for a run
    that was opened without a test set.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> ik.estimate(run, "test-losses").influence.sizes["query"] == run.workload.n_test
        True
    """

    __test__ = False
    better = "lower"

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        return list(workload.test_ids or range(workload.n_test))

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        return workload.losses(theta, workload.test)

    def gradient(self, workload: Workload, theta: Tensor) -> Tensor:
        """[query, param]; each from its own example alone, which costs one pass over the test set."""
        if workload.test is None or not own_losses(partial(workload.losses, theta), workload.test):
            return super().gradient(workload, theta)
        return example_gradients(workload, theta, workload.test)


@dataclass(frozen=True)
class TestParts(Query):
    """What every part of a test example, such as a token, adds to its loss: one query each.

        weights[i, p] losses[i, p],   whose sum over p is the loss of example i

    `example` is its position in the test set; None = all examples. Labels: "ID[p]", with `test_ids` or
    positions; only parts that are there. Shapes: values [part]. A positive effect: the example helped with
    this part. Cost: a pass over these examples, and one gradient of each part. Errors: `InputError` for an
    example that is not there, and for a loss that does not return `ik.Parts`.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.testing import parted_workload
        >>> ik.make("query", "test-parts:example=1").labels(parted_workload())
        ['3[0]', '3[1]', '3[2]']
    """

    __test__ = False
    better = "lower"
    example: int | None = None

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        ids = list(workload.test_ids or range(workload.n_test))
        first = self.example or 0
        return [f"{ids[first + k]}[{p}]" for k, p in self._there(workload).nonzero().tolist()]

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        batch, there = self._batch(workload), self._there(workload)
        width = there.shape[1]
        with plain_operators():
            parts = workload.calls.parts(workload.outputs(theta, batch), batch)
        terms = of_parts(parts.weights * parts.losses, parts.part, width)
        return terms.reshape(-1).index_select(0, there.flatten().nonzero()[:, 0])

    def _batch(self, workload: Workload) -> Batch:
        if self.example is None:
            require_test(workload.test)
            return workload.test
        return one_example("test-parts", workload, self.example)

    def _there(self, workload: Workload) -> Tensor:
        known = _THERE.setdefault(workload, {})
        if self.example not in known:
            known[self.example] = PartsThere.of(workload, [self._batch(workload)]).there
        return known[self.example]


_THERE: WeakKeyDictionary[Workload, dict[int | None, Tensor]] = WeakKeyDictionary()  # by example


@dataclass(frozen=True)
class Prediction(Query):
    """One output of the model for one test example: a logit, or whatever the model returns.

    Of outputs that are a dict or an object, their `logits`. `example` is its position in the test set,
    `output` the class for models with several outputs. Shapes: values [1]. A positive effect: the output is
    larger without the example; neither way is better. Cost: one forward pass of one example. Errors:
    `InputError` for an example or an output that is not there, and for a model that looks at its whole batch
    in evaluation mode, too.

    Example:

        >>> import influencekit as ik
        >>> work = ik.make("workload", "mnist-1v7-lr:n_train=24")
        >>> ik.make("query", "prediction:example=3").labels(work)
        ['prediction[3,0]']
    """

    example: int = 0
    output: int = 0

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        width = self._logits(workload, workload.theta0).numel()
        if not 0 <= self.output < width:
            raise InputError(
                f"prediction: output {self.output} is not one of the model's {width} outputs for an example"
            )
        return [f"prediction[{self.example},{self.output}]"]

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        return self._logits(workload, theta).reshape(-1)[self.output : self.output + 1]

    def _logits(self, workload: Workload, theta: Tensor) -> Tensor:
        here = one_example("prediction", workload, self.example, lambda *at: logits_of(workload.outputs(*at)))
        logits = logits_of(outputs := workload.outputs(theta, here))
        if logits is None:
            raise InputError(
                f"prediction: the model returns a {type(outputs).__name__} without logits; expected a "
                "tensor, or a tensor named logits in it"
            )
        return logits


@dataclass(frozen=True)
class FeatureImportance(Query):
    """Derivative of one test example's loss by one of its input features: d loss / d x_k.

    The effect says how the model's reliance on that feature would change (Theorem 6 of the DIT paper, arXiv
    2502.10793; its gradient in theta is the mixed second derivative). `feature` counts into the flattened
    first floating-point input. Shapes: values [1]; neither way is better. Cost: one forward and backward pass
    of one example. Errors: `InputError` for an example or feature that is not there, a model without
    floating-point input, or one that looks at its whole batch in evaluation mode, too.

    Example:

        >>> import influencekit as ik
        >>> work = ik.make("workload", "mnist-1v7-lr:n_train=24")
        >>> ik.make("query", "feature-importance:example=3:feature=400").evaluate(work, work.theta0).shape
        torch.Size([1])
    """

    example: int = 0
    feature: int = 0

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        size = self._input(one_example("feature-importance", workload, self.example)).numel()
        if not 0 <= self.feature < size:
            raise InputError(
                f"feature-importance: feature {self.feature} is not one of the input's {size} features"
            )
        return [f"d loss[{self.example}] / d x[{self.feature}]"]

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        example = one_example("feature-importance", workload, self.example)
        image = self._input(example)

        def loss(changed: Tensor) -> Tensor:
            return workload.losses(theta, mapped(example, lambda x: changed if x is image else x)).sum()

        found = by_input(loss, image, theta.requires_grad)
        return found.reshape(-1)[self.feature : self.feature + 1]

    def _input(self, example: Batch) -> Tensor:
        for tensor in tensors_of(example):
            if tensor.is_floating_point():
                return tensor
        raise InputError("feature-importance: the model has no floating-point input to differentiate by")


@dataclass(frozen=True)
class Parameter(Query):
    """One trainable parameter itself. First-order estimators give its change without any error of the query.

    `index` counts into the tensor called `name`, one number a dimension (as text:
    `parameter:name=1.weight:index=0+3`); without a name it is the position in the flat vector theta. Shapes:
    values [1]. A positive effect: the parameter is larger without the example; neither way is better. Cost:
    none. Errors: `InputError` for a name or position that is not there.

    Example:

        >>> import influencekit as ik
        >>> work = ik.make("workload", "mnist-1v7-lr:n_train=24")
        >>> query = ik.make("query", "parameter:name=1.weight:index=0+3")
        >>> query.labels(work), bool(query.evaluate(work, work.theta0) == work.theta0[3])
        (['1.weight[0,3]'], True)
    """

    name: str | None = None
    index: tuple[int, ...] = (0,)

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        self._position(workload)
        return [f"{self.name or 'theta'}[{','.join(map(str, self.index))}]"]

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        position = self._position(workload)
        return theta[position : position + 1]

    def _position(self, workload: Workload) -> int:
        if self.name is not None:
            return workload.layout.find(self.name, self.index)
        if len(self.index) != 1 or not 0 <= self.index[0] < workload.n_params:
            raise InputError(
                f"parameter: without a name, index is one position in 0 to {workload.n_params - 1}; "
                f"got {list(self.index)}"
            )
        return self.index[0]


@dataclass(frozen=True, eq=False)
class FixedVector(Query):
    """Projections <v, theta> on given directions: `vector` is [param] or [query, param]. Python only.

    Shapes: values [query]. A positive effect: theta is further along v without the example; neither way is
    better. Cost: one product a query. Errors: `InputError` for a vector of another length than theta.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> from influencekit.queries import FixedVector
        >>> way = run.final.theta - run.workload.theta0
        >>> ik.estimate(run, FixedVector(way)).influence.shape
        (1, 1, 24)
    """

    vector: Tensor

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        vector = real_tensor("vector", self.vector)
        if vector.dim() not in (1, 2) or vector.shape[-1] != workload.n_params or not len(vector):
            raise InputError(
                f"vector: expected shape [{workload.n_params}] or [query, {workload.n_params}], "
                f"got {list(vector.shape)}"
            )
        if not bool(vector.isfinite().all()):
            raise InputError("vector: it holds NaN or infinity")
        return [f"vector[{i}]" for i in range(len(torch.atleast_2d(vector)))]

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        return torch.atleast_2d(real_tensor("vector", self.vector)).to(theta) @ theta


@dataclass(frozen=True)
class GradientAlignment(Query):
    """Movement along the unit gradient of the mean test loss, <u_t, theta>, u_t fixed by the recorded run.

    u_t points where the test loss grows. A positive effect: without the example the parameters would lie
    further in that direction, so the example helped. Shapes: values [1]. Cost: one gradient of the test loss.
    Errors: `InputError` for a run that was opened without a test set.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> ik.estimate(run, "alignment").influence.shape
        (1, 1, 24)
    """

    better = "lower"

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        return ["alignment"]

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        return self.at(workload, theta)(theta)

    def at(self, workload: Workload, theta: Tensor) -> Callable[[Tensor], Tensor]:

        def mean_loss(x: Tensor) -> Tensor:
            return workload.losses(x, workload.test).mean()

        try:
            slope = rows_of_jacobian(lambda x: mean_loss(x)[None], theta)[0]
        except RuntimeError:  # inside a transform of torch.func, which has a gradient of its own
            slope = torch.func.grad(mean_loss)(theta)
        unit = slope / slope.norm().clamp(min=torch.finfo(slope.dtype).tiny)
        return lambda moved: (unit @ moved)[None]
