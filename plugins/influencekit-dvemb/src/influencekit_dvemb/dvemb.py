"""The estimator `dvemb`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from influencekit import Claim, DivergedError, Estimator, InputError, Query, Trajectory, Window
from influencekit.extend import Contributions, scores_from_contributions
from influencekit_dvemb.recursion import cuts, segments
from influencekit_dvemb.sources import Replayed

__all__ = ["DVEmb"]


@dataclass(frozen=True)
class DVEmb(Estimator):
    """Data value embedding: every occurrence's lasting effect on the parameters, projected, layer by layer.

    e_t(z) = (lr_t / b) [prod_{k > t} (I - lr_k H_k)] g(theta_t, z),    H_k = (1/b) sum_i g_i g_i^T
    score  = sum over occurrences in the window of <grad q, e_t(z)>

    Plain SGD only, as in the paper. H_k is a block of outer products for each layer: with one layer, and
    dim=None, this is `dit:curvature=fisher`. `dim`: features of a layer's projected gradient (A (x) B, random
    with `seed`), None for no projection. `segments`: how many parts of the run are computed side by side
    (None: of about 128 occurrences each); it changes nothing but rounding.

    Shapes [query, window, train]. Sign: removal minus full. Cost: a forward and a backward pass a step, then
    matrix products of size (occurrences of a segment x features), whatever the number of queries. Errors:
    other optimizers, trained layers that are neither Linear nor Conv2d. Source: Wang et al., ICLR 2025.
    """

    dim: int | None = 1024
    segments: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("dim", "segments"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"dvemb: {name} must be at least 1, or none; got {value}")

    @property
    def claims(self) -> frozenset[Claim]:
        """A sum over occurrences, over any window; not the derivative, as H is not the Hessian."""
        return frozenset({Claim.LINEAR, Claim.LOCAL, Claim.WINDOWED, Claim.ADDITIVE})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        """Sums of what occurrences contribute."""
        states = sorted({t for w in windows for t in w.evaluations(trajectory.steps)})
        parts = self._contributions(trajectory, query, states, min(w.absent()[0] for w in windows))
        return scores_from_contributions(trajectory, query, windows, [((t, 1),) for t in states], parts)

    def contributions(
        self, trajectory: Trajectory, query: Query, states: Sequence[int]
    ) -> Iterator[Contributions]:
        """<adjoint at the segment's end, e> of every occurrence, at each of `states`."""
        return self._contributions(trajectory, query, states, 0)

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        """The curvature and the number of features."""
        features = Replayed(trajectory, self.dim, self.seed).projection.features
        return {"curvature": "outer products, by layer", "features": features}

    def _contributions(
        self, trajectory: Trajectory, query: Query, states: Sequence[int], begin: int
    ) -> Iterator[Contributions]:
        source = Replayed(trajectory, self.dim, self.seed)
        layout, sizes = trajectory.workload.layout, source.projection.sizes
        order = sorted(range(len(states)), key=lambda k: -states[k])
        n_query = len(query.labels(trajectory.workload))
        of = [k for k in order for _ in range(n_query)]
        spans = cuts(begin, max(states), source.width, self.segments, states)
        a = torch.zeros(0, source.projection.features).to(source.coefficient)
        for segment in segments(source, spans):
            if segment.steps.stop in states:  # columns join where they are evaluated
                t = segment.steps.stop
                gradient = query.gradient(trajectory.workload_at(t), trajectory.state(t).theta).detach()
                a = torch.cat([a, source.projection.of_flat(layout, gradient)])
            parts = list(a.split(sizes, -1))
            values = a.new_zeros(len(a), segment.embeddings[0].shape[0])
            for k, (G, E) in enumerate(zip(segment.gradients, segment.embeddings, strict=True)):
                own = parts[k] @ E.T  # [column, occurrence]
                values = values + own
                parts[k] = parts[k] - own @ G
            a = torch.cat(parts, -1)
            if not a.isfinite().all():
                raise DivergedError(
                    "the embeddings of this run grew beyond floating point, as they do where training is "
                    "unstable; lower the learning rate, or record in float64"
                )
            long = segment.steps.stop - segment.steps.start
            full = a.new_zeros(long, len(of), source.width)
            full[:, : len(a)] = values.view(len(a), long, -1).transpose(0, 1)
            yield Contributions(segment.steps, of, list(range(n_query)) * len(states), full)
