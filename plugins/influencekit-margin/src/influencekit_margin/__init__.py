"""A query for influencekit: the classification margin of one test point."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from influencekit import InputError, Query, Workload
from influencekit.extend import logits_of, select

__all__ = ["Margin"]


@dataclass(frozen=True)
class Margin(Query):
    """Margin of one test point: its logit signed by its label, or its class's logit minus the best other.

    One logit z with label y in {0, 1}: m = (2y - 1) z. Several logits z with class y: z_y - max_{c != y} z_c.
    Above zero, the point is classified rightly, and higher is better. Positive effect (removal minus full):
    without the example the margin would be larger, so the example is harmful. `point` counts the test
    examples from 0. Shape [1]; cost: one forward pass of one example. Errors: `InputError` for a point the
    test set does not have, or a model that does not classify.
    """

    better = "higher"
    point: int = 0

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        """The margin's test example, by the user's own id: `margin[id]`."""
        i = self._position(workload)
        ids = range(workload.n_test) if workload.test_ids is None else workload.test_ids
        return [f"margin[{ids[i]}]"]

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        """[param] -> [1]."""
        at = torch.tensor([self._position(workload)], device=workload.device)
        batch = select(workload.test, at)
        z, y = logits_of(workload.outputs(theta, batch)), workload.target(batch)
        if z is None or not isinstance(y, Tensor):
            raise InputError("margin expects a classifier: a model with one tensor of logits")
        z = z.reshape(-1)
        if len(z) > 1 and y.numel() == 1 and not y.is_floating_point():
            true = int(y)
            others = torch.cat([z[:true], z[true + 1 :]])
            return (z[true] - others.amax())[None]
        if len(z) == 1 and y.numel() == 1 and float(y) in (0, 1):
            return z * (2 * y.reshape(-1).to(z.dtype) - 1)
        raise InputError(
            "margin expects a classifier: one logit and a label 0 or 1, or several logits and a class; "
            f"test point {self.point} has {len(z)} outputs and a {y.dtype} label of shape {list(y.shape[1:])}"
        )

    def _position(self, workload: Workload) -> int:
        if not 0 <= self.point < workload.n_test:
            raise InputError(f"margin expects a test point from 0 to {workload.n_test - 1}, got {self.point}")
        return self.point
