"""TRAK, on the gradients and projections of traker."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from influencekit import Claim, Estimator, InputError, Query, Trajectory, Window, Workload
from influencekit.extend import tensors_of, training_time, with_tensors
from influencekit_baselines.classes import check_classifier, logits_and_labels, margin, over_positions
from influencekit_baselines.gradients import chunks
from influencekit_baselines.libraries import need
from influencekit_baselines.steps import epoch_ends

__all__ = ["TRAK"]

_INSTALL = 'pip install "influencekit-baselines[trak]"'


@dataclass(frozen=True)
class TRAK(Estimator):
    """TRAK: one Newton step of a logistic regression on (projected) gradients of each example's margin.

        Q_j = -(P grad q)^T (Phi^T Phi + n damping I)^-1 phi_j (1 - p_j),  phi_j = P grad log(p_j / (1 - p_j))

    with p the probability of an example's own class at the end of training. `dim` is the dimension projected
    to by traker's Gaussian projector, P^T P = I on average; None takes the gradients as they are. `damping`
    defaults to 1 / (sum of the learning rates of the run) + l2, as for `if`; traker's own default, 0, inverts
    a singular matrix wherever there are fewer examples than dimensions. `checkpoints`: the last so many
    epochs' ends, averaged as the authors average models. Where a model classifies every position of a
    sequence, the margin and p are means over the positions that have a label.

    Gradients and projection are traker's (TRAKer itself computes in float32, drops the scale of its scores
    and keeps its features in files); the small system is solved here, in the run's own dtype.

    Whole run only. Shapes [query, 1, train]; removal minus full. Cost: each example's gradient, and a solve
    in min(n, dim) unknowns. Errors: traker is not installed, a model that does not classify, a singular
    system. Source: Park et al., ICML 2023.
    """

    dim: int | None = None
    damping: float | None = None
    checkpoints: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.damping is not None and not self.damping >= 0:
            raise InputError(f"trak: damping must be at least 0, got {self.damping}")
        if self.checkpoints < 1 or (self.dim is not None and self.dim < 1):
            raise InputError(
                f"trak: dim and checkpoints must be at least 1, got {self.dim}, {self.checkpoints}"
            )

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset({Claim.LINEAR})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        check_classifier(trajectory.workload, "trak", sequences=True)
        ends = epoch_ends(trajectory)
        if self.checkpoints > len(ends):
            raise InputError(f"trak: checkpoints={self.checkpoints}, and the run has {len(ends)} epochs")
        total = doubt = torch.zeros((), dtype=trajectory.workload.dtype, device=trajectory.workload.device)
        for k, t in enumerate(ends[-self.checkpoints :]):
            state = trajectory.state(t + 1)
            workload = trajectory.workload.with_buffers(state.buffers)
            gradients = query.gradient(workload, state.theta).detach()
            phi, missed = self._features(workload, state.theta)
            if self.dim is not None:
                projector = self._projector(workload, self.dim)
                phi, gradients = (projector.project(x, k) / self.dim**0.5 for x in (phi, gradients))
            total, doubt = total + self._solved(trajectory, gradients, phi), doubt + missed
        return (total * doubt / -(self.checkpoints**2))[:, None]

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        dim = trajectory.workload.n_params if self.dim is None else self.dim
        return {"damping": self._damping(trajectory), "dimension": dim, "library": "traker"}

    def _damping(self, trajectory: Trajectory) -> float:
        if self.damping is not None:
            return self.damping
        return 1 / training_time(trajectory, "trak").mean().item() + trajectory.workload.l2

    def _features(self, workload: Workload, theta: Tensor) -> tuple[Tensor, Tensor]:
        """(gradients of the margins [train, param], 1 - p [train]), by traker."""
        output = need("trak", "trak.modelout_functions", _INSTALL).AbstractModelOutput
        computer = need("trak", "trak.gradient_computers", _INSTALL).FunctionalGradientComputer
        layout = workload.layout

        class Margin(output):  # type: ignore[misc, valid-type]
            def __init__(self) -> None:
                pass

            def get_output(self, model: Any, weights: Any, buffers: Any, *one: Tensor) -> Tensor:
                given = torch.cat([weights[name].flatten() for name in layout.names])
                values, y = margins(given, [x[None] for x in one])
                return over_positions(values, y)[0]

            def get_out_to_loss_grad(self, model: Any, weights: Any, buffers: Any, batch: Any) -> Tensor:
                values, y = margins(theta, batch)
                return over_positions(values.neg().sigmoid(), y)

        def margins(theta: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
            batch = with_tensors(form, parts)
            outputs, target = workload.outputs(theta, batch), workload.target(batch)
            z, y = logits_and_labels(outputs, target, "trak", sequences=True)
            return margin(z, y), y

        form = workload.examples(torch.zeros(1, dtype=torch.long, device=theta.device))
        model = deepcopy(workload.evaluator)
        model.load_state_dict({k: v.detach() for k, v in layout.split(theta).items()}, strict=False)
        found = computer(model, Margin(), len(theta), theta.dtype, theta.device, [*layout.names])
        phi, missed = [], []
        for rows in chunks(workload, theta):
            batch = tensors_of(workload.examples(rows))
            gradients = found.compute_per_sample_grad(batch)
            phi.append(torch.cat([gradients[name].detach().flatten(1) for name in layout.names], 1))
            with torch.no_grad():
                missed.append(found.compute_loss_grad(batch))
        return torch.cat(phi), torch.cat(missed)

    def _projector(self, workload: Workload, dim: int) -> Any:
        library = need("trak", "trak.projectors", _INSTALL)
        kind = library.ProjectionType.normal
        theta = workload.theta0
        return library.BasicProjector(len(theta), dim, self.seed, kind, theta.device, dtype=theta.dtype)

    def _solved(self, trajectory: Trajectory, gradients: Tensor, phi: Tensor) -> Tensor:
        """gradients (Phi^T Phi + n damping I)^-1 Phi^T [query, train], in the smaller of both dimensions."""
        (n, dim), ridge = phi.shape, len(phi) * self._damping(trajectory)
        gram = phi @ phi.T if n < dim else phi.T @ phi
        gram.diagonal().add_(ridge)
        right = (phi @ gradients.T) if n < dim else gradients.T
        solution, failed = torch.linalg.solve_ex(gram, right)
        if failed or not solution.isfinite().all():
            raise InputError(f"trak: Phi^T Phi + {ridge:.3g} I is singular; give a larger damping")
        return solution.T if n < dim else (phi @ solution).T
