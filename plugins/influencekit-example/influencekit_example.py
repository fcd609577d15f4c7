from dataclasses import dataclass

import torch

import influencekit as ik
from influencekit.extend import State


@dataclass(frozen=True)
class WeightNorm(ik.Query):
    """Squared length of the parameters: which examples make the weights grow?"""

    def labels(self, workload):
        return ["weight norm"]

    def evaluate(self, workload, theta):
        return (theta @ theta)[None]


@dataclass(frozen=True)
class Forward(ik.Estimator):
    """First-order effects, forward in time: cost grows with the examples, not with the queries."""

    claims = frozenset({ik.Claim.FIRST_ORDER, ik.Claim.LINEAR, ik.Claim.LOCAL, ik.Claim.WINDOWED})

    def scores(self, trajectory, query, windows):
        return torch.stack([self.effect(trajectory, query, window) for window in windows], 1)

    def effect(self, trajectory, query, window):
        step, workload = trajectory.step, trajectory.workload
        (start, stop), signs = window.absent(), window.evaluations(trajectory.steps)
        moved = workload.theta0.new_zeros(workload.n_train, workload.n_params)
        slots = {name: moved for name in workload.optimizer.slots}
        examples = torch.arange(len(moved), device=moved.device)[:, None]
        total = 0.0
        for t in range(start, max(signs)):
            state, here = trajectory.state(t), step.rows(t) == examples
            weights = -1.0 * here.to(moved) * (t < stop)

            def push(moved, slots, weights, state=state):
                return step.push(state, State(moved, slots, state.step), weights)[:2]

            moved, slots = torch.vmap(push, randomness="same")(moved, slots, weights)
            if t + 1 in signs:
                total += signs[t + 1] * query.gradient(workload, trajectory.state(t + 1).theta) @ moved.T
        return total
