from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, minres
from torch import Tensor

from influencekit.curvature import REVERSE
from influencekit.errors import InfluenceKitError, InputError
from influencekit.interfaces import Claim, Estimator, Query
from influencekit.training import Training
from influencekit.trajectory import Trajectory
from influencekit.windows import Window
from influencekit.workload import Workload

__all__ = ["InfluenceFunction"]


@dataclass(frozen=True)
class InfluenceFunction(Estimator):
    """Influence functions (Koh and Liang, 2017), the baseline: a Newton step at the final parameters.

    effect_j ~ (1/n) <grad q, (H + damping I)^{-1} g_j>,   H = curvature of the mean training loss

    with the L2 penalty in both H and g_j. `curvature` is the Gauss-Newton matrix by default, which equals the
    Hessian for linear models and stays positive for networks that have not converged, where the true Hessian
    ("hessian", as in the original paper) makes the inverse erratic. `damping` defaults to 1 / (sum of the
    learning rates of the run): SGD that stops after so much time is a ridge regression of about that
    strength. Up to `exact_limit` parameters the system is solved exactly, beyond by conjugate gradients, and
    by MINRES where H + damping I turns out indefinite; an error says so when neither converges.

    Knows no time: whole run, global removal only. Shapes [query, 1, train]; removal minus full. Cost: `param`
    curvature products, or one an iteration and query.
    """

    curvature: Literal["gauss-newton", "hessian", "fisher"] = "gauss-newton"
    damping: float | None = None
    solver: Literal["auto", "exact", "cg"] = "auto"
    exact_limit: int = 1024
    iterations: int = 1000
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if self.damping is not None and not self.damping >= 0:
            raise InputError(f"if: damping must be at least 0, got {self.damping}")

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset({Claim.LINEAR})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        workload, theta = trajectory.workload_at(trajectory.steps), trajectory.final.theta
        n = workload.n_train
        damping, curvature, view = self._damping(trajectory), REVERSE[self.curvature], Training.evaluated(workload)
        rows = torch.arange(n, device=workload.device).split(1024)  # pieces that fit in memory
        pulls = [curvature(view, theta, workload.examples(r), theta.new_full((len(r),), 1 / n)) for r in rows]

        def product(vectors: Tensor) -> Tensor:
            """(H + damping I) v of every row v, H the curvature of the mean training loss plus penalty."""
            return torch.stack([damping * v + torch.stack([pull(v)[0] for pull in pulls]).sum(0) for v in vectors])

        def products(v: Tensor) -> Tensor:
            """<v, g_j> of every training example."""
            return torch.cat([pull(v)[1] for pull in pulls])

        gradients = query.gradient(workload, theta).detach()
        with torch.no_grad():
            if self._solver(workload) == "exact":
                identity = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
                matrix = product(identity)
                solution = torch.linalg.solve((matrix + matrix.T) / 2, gradients.T).T
            else:
                solution = _conjugate_gradients(product, gradients, self.tolerance, self.iterations)
            scores = torch.stack([products(v) / n for v in solution])[:, None]
        if not scores.isfinite().all():
            raise InfluenceKitError(
                f"if: H + {damping:.3g} I is singular to working precision; give a larger damping"
            )
        return scores

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        return {
            "curvature": self.curvature,
            "damping": self._damping(trajectory),
            "solver": self._solver(trajectory.workload),
        }

    def _damping(self, trajectory: Trajectory) -> float:
        return 1 / trajectory.plan.lr[:, 0].sum().item() if self.damping is None else self.damping

    def _solver(self, workload: Workload) -> str:
        if self.solver != "auto":
            return self.solver
        return "exact" if workload.n_params <= self.exact_limit else "cg"


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
