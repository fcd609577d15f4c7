from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite
from typing import Literal

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, minres
from torch import Tensor
from torch.func import vmap

from influencekit._arguments import real_number, whole_number
from influencekit._training.curvature import REVERSE, gradient, leaf
from influencekit._training.functional import called
from influencekit._training.kernels.tracing import agree
from influencekit._training.losses import Training
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InfluenceKitError, InputError
from influencekit.interfaces import Claim, Estimator, Query
from influencekit.windows import Window

__all__ = ["InfluenceFunction", "training_time"]

_DOUBT = 0.1  # a known solution that comes back further off than this: the digits do not suffice


def training_time(trajectory: Trajectory, name: str) -> Tensor:
    """How long each parameter was trained [param]: the sum of lr (1 - dampening) / (1 - momentum) over the
    steps.

    The learning rates are those of the parameter's own group. For gradient flow this is the time; for Adam,
    whose steps are not lr times a gradient, it is the sum of its learning rates, for want of a better. `name`
    is that of the estimator whose default damping is 1 / time. Errors: `InputError`, with this name, for a
    run whose rates are all 0, or whose momentum is 1 or more.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.extend import training_time
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> time = training_time(run, "my-estimator")
        >>> time.shape, bool((time == time[0]).all())
        (torch.Size([785]), True)
    """
    workload, layout = trajectory.workload, trajectory.workload.layout
    plan, step = trajectory.plan, trajectory.step
    bounds = [0, *(first for first, _ in plan.settings), plan.steps]  # between which the gains stay
    rates, groups = _rates(trajectory), [0.0] * plan.lr.shape[1]
    for start, stop in pairwise(bounds):
        gains = step.optimizer_at(start).members()
        summed = rates[start:stop].sum(0).tolist()
        groups = [g + rate * rule.gain for g, rate, rule in zip(groups, summed, gains, strict=True)]
    owners = workload.optimizer.owners(layout)
    times = [groups[k] for k in owners]
    if not any(times) or not all(isfinite(t) for t in times):
        raise InputError(
            f"{name}: the default damping is 1 / (sum of lr (1 - dampening) / (1 - momentum)), and that "
            f"sum is {max(times):g} for this run; give one, such as {name}:damping=0.1"
        )
    each = [workload.theta0.new_full((size,), t) for size, t in zip(layout.sizes, times, strict=True)]
    return torch.cat(each)


def _rates(trajectory: Trajectory) -> Tensor:
    """The learning rates [step, group], each times its share in the model that is asked: in an average a step
    counts in all states after it."""
    lr = trajectory.plan.lr
    if trajectory.ending is None:
        return lr
    counts = lr.new_zeros(len(lr) + 1)
    for t, weight in trajectory.ending.weights.items():
        counts[t] = weight
    return counts.flip(0).cumsum(0).flip(0)[1:, None] * lr


@dataclass(frozen=True)
class InfluenceFunction(Estimator):
    """Influence functions (Koh and Liang, 2017), the baseline: a Newton step at the final parameters.

    effect_j ~ (1/n) <grad q, (H + damping I)^{-1} g_j>,   H = curvature of the mean training loss

    with the L2 penalty in both H and g_j, and a tape's `penalty=` in H, by its Hessian. `curvature` is the
    Gauss-Newton matrix by default, which equals the Hessian for linear models and stays positive for networks
    that have not converged, where the true Hessian ("hessian", as in the original paper) makes the inverse
    erratic. `damping` defaults to 1 / (the time of training), the sum of lr (1 - dampening) / (1 - momentum)
    over the run (`training_time`; every parameter group has its own): SGD that stops after so much time is a
    ridge regression of about that strength. For Adam it is 1 / (sum of the learning rates), which has no such
    reason: give your own. Up to `exact_limit` parameters the system is solved exactly, beyond by conjugate
    gradients, and by MINRES where H + damping I turns out indefinite; an error says so when neither
    converges, or when the matrix is singular.

    Knows no time: whole run, global removal only. Shapes [query, 1, train]; removal minus full. Cost: `param`
    curvature products, or one an iteration and query.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> ik.estimate(run, "test-loss", "if:damping=0.1").influence.shape
        (1, 1, 24)
    """

    curvature: Literal["gauss-newton", "hessian", "fisher"] = "gauss-newton"
    damping: float | None = None
    solver: Literal["auto", "exact", "cg"] = "auto"
    exact_limit: int = 1024
    iterations: int = 1000
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.damping is not None:
            real_number("if: damping", self.damping, 0)
        whole_number("if: exact_limit", self.exact_limit, 0)
        whole_number("if: iterations", self.iterations, 1)
        real_number("if: tolerance", self.tolerance, above=0)

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset({Claim.LINEAR, Claim.AVERAGED})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        last = trajectory.steps
        workload, theta = trajectory.workload_at(last), trajectory.evaluated(last).theta
        n = workload.n_train
        curvature, view = REVERSE[self.curvature], Training.evaluated(workload)
        # (H + 1/time)^-1 = root (root H root + 1)^-1 root, also where a group's rate and time are 0
        root = theta.new_ones(()) if self.damping is not None else training_time(trajectory, "if").sqrt()
        damping = 1.0 if self.damping is None else self.damping
        rows = torch.arange(n, device=workload.device).split(1024)  # pieces that fit in memory
        pulls = [curvature(view, theta, workload.examples(r), theta.new_full((len(r),), 1 / n)) for r in rows]

        of_penalty = _penalty_product(trajectory, workload, theta)

        def product(vectors: Tensor) -> Tensor:
            """(root H root + damping I) v of every row v, H the curvature of the mean loss plus penalty."""
            curved = [
                torch.stack([*(pull(root * v)[0] for pull in pulls), *of_penalty(root * v)]).sum(0)
                for v in vectors
            ]
            return damping * vectors + root * torch.stack(curved)

        def products(v: Tensor) -> Tensor:
            """<v, g_j> of every training example."""
            return torch.cat([pull(v)[1] for pull in pulls])

        gradients = root * query.gradient(workload, theta).detach()
        with torch.no_grad():
            if self._solver(workload) == "exact":
                identity = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
                matrix = self._columns(product, identity)
                solution = _solved((matrix + matrix.T) / 2, gradients)
            else:
                solution = _conjugate_gradients(product, gradients, self.tolerance, self.iterations)
            scores = torch.stack([products(v) / n for v in root * solution])[:, None]
        if not scores.isfinite().all():
            raise _singular()
        return scores

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        return {
            "curvature": self.curvature,
            "damping": self._damping(trajectory),
            "solver": self._solver(trajectory.workload),
        }

    def _damping(self, trajectory: Trajectory) -> float | str:
        if self.damping is not None:
            return self.damping
        found = [1 / t if t else inf for t in training_time(trajectory, "if").unique().tolist()]
        return found[0] if len(found) == 1 else f"{min(found):.4g} to {max(found):.4g}, by parameter group"

    def _columns(self, product: Callable[[Tensor], Tensor], identity: Tensor) -> Tensor:
        """`product` of all rows, together where torch can and the last one is what it is by itself."""
        last = product(identity[-1:])
        try:
            found = vmap(lambda v: product(v[None])[0], chunk_size=128)(identity)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return product(identity)
        return found if agree(found[-1:], last) else product(identity)

    def _solver(self, workload: Workload) -> str:
        if self.solver != "auto":
            return self.solver
        return "exact" if workload.n_params <= self.exact_limit else "cg"


def _penalty_product(
    trajectory: Trajectory, workload: Workload, theta: Tensor
) -> Callable[[Tensor], list[Tensor]]:
    """v -> [H v], H the Hessian of a tape's penalty; v -> [] without one.

    In the units of the mean training loss: all coefficients of the penalty, over all those of examples.
    Errors: a penalty of outputs or of the batch.
    """
    call, every = workload.calls, slice(0, trajectory.plan.steps)
    if getattr(call, "penalty", None) is None:
        return lambda v: []
    if call.penalty_takes:  # type: ignore[attr-defined]
        raise InputError(
            "if: the penalty= of this run depends on outputs or batches, so it has no value at the final "
            "parameters alone; use dit or loo"
        )
    own = trajectory.step.of_examples(every).sum()
    scale = (trajectory.step.coefficients(every).sum() - own) / own
    with torch.enable_grad():
        z = leaf(theta)
        value = called(workload.evaluator, workload.layout.split(z), {}, call.penalty)[0]  # type: ignore[attr-defined]
        g = gradient(scale * value.sum(), z, create_graph=True)

    def product(v: Tensor) -> list[Tensor]:
        if not g.requires_grad:
            return []
        return [torch.autograd.grad(g, z, v, retain_graph=True, materialize_grads=True)[0]]

    return product


def _solved(matrix: Tensor, rhs: Tensor) -> Tensor:
    """The solution of matrix x = rhs for every row of rhs [query, param]. Errors: a singular matrix, also one
    that is so but for rounding: an eigenvalue is 0 to the last digits of the largest, or a known solution,
    solved for beside the others, does not come back."""
    sizes = torch.linalg.eigvalsh(matrix).abs()
    if not sizes.min() > 4 * torch.finfo(matrix.dtype).eps * sizes.max():
        raise _singular()
    generator = torch.Generator().manual_seed(0)
    known = torch.randn(1, len(matrix), generator=generator, dtype=torch.float64).to(matrix)
    try:
        solution = torch.linalg.solve(matrix, torch.cat([rhs, known @ matrix]).T).T
    except torch.linalg.LinAlgError as error:
        raise _singular() from error
    if not (solution[-1] - known[0]).norm() <= _DOUBT * known.norm():
        raise _singular()
    return solution[:-1]


def _singular() -> InfluenceKitError:
    return InfluenceKitError(
        "if: H + damping I is singular to working precision; give a larger damping, such as if:damping=0.01"
    )


def _conjugate_gradients(
    product: Callable[[Tensor], Tensor], rhs: Tensor, tolerance: float, iterations: int
) -> Tensor:
    """Solve A x = rhs for every row of rhs [query, param] at once; by MINRES once A proves indefinite."""
    x = torch.zeros_like(rhs)
    residual, direction = rhs.clone(), rhs.clone()
    squared = (residual * residual).sum(1)
    goal = tolerance**2 * squared
    for _ in range(iterations):
        active = squared > goal
        if not active.any():
            return x
        image = product(direction)
        curvature = (direction * image).sum(1)
        if (curvature[active] <= 0).any():
            return torch.stack([_minres(product, row, tolerance, iterations) for row in rhs])
        step = torch.where(active, squared / curvature, 0.0)[:, None]
        x = x + step * direction
        residual = residual - step * image
        before, squared = squared, (residual * residual).sum(1)
        direction = residual + torch.where(active, squared / before, 0.0)[:, None] * direction
    raise _unsolved("conjugate gradients", iterations, (squared / goal).max().sqrt().item() * tolerance)


def _minres(product: Callable[[Tensor], Tensor], rhs: Tensor, tolerance: float, iterations: int) -> Tensor:
    def apply(v: np.ndarray) -> np.ndarray:
        return product(torch.as_tensor(v).to(rhs).reshape(1, -1))[0].double().cpu().numpy()

    n = len(rhs)
    x, _ = minres(
        LinearOperator((n, n), matvec=apply, dtype=np.float64),
        rhs.double().cpu().numpy(),
        rtol=tolerance / 10,  # scipy measures it against |A| |x|, we against |rhs|
        maxiter=iterations,
    )
    solution = torch.as_tensor(x).to(rhs)
    left = ((product(solution[None])[0] - rhs).norm() / rhs.norm()).item()
    if left > 100 * tolerance:
        raise _unsolved("MINRES", iterations, left)
    return solution


def _unsolved(method: str, iterations: int, left: float) -> InfluenceKitError:
    return InfluenceKitError(
        f"if: {method} did not converge in {iterations} iterations (relative residual {left:.1e}); give a "
        "larger damping, such as if:damping=1, or more iterations"
    )
