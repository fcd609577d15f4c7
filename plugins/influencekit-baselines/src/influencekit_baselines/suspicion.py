"""Scores of examples by themselves: how hard, how steep, how often forgotten. None of them knows the query.

All are counted towards harm, as everywhere: the most suspicious example has the lowest score, or the highest
if the query says that higher is better. They rank; they are no effects, and say so in their notes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from influencekit import Claim, Estimator, InputError, Query, Trajectory, Window, Workload
from influencekit.extend import Batch, for_every_query
from influencekit_baselines.classes import check_classifier, logits_and_labels, misses
from influencekit_baselines.gradients import chunks, squared_norms
from influencekit_baselines.steps import epoch_ends, rates

__all__ = ["EL2N", "Forgetting", "GradNorm", "SelfInfluence"]

_UNUSED = "not used: the same scores for every query; harmful = suspicious"


def _misses(workload: Workload, theta: Tensor, batch: Batch, who: str) -> tuple[Tensor, Tensor]:
    return misses(*logits_and_labels(workload.outputs(theta, batch), workload.target(batch), who))


@dataclass(frozen=True)
class GradNorm(Estimator):
    """Norm of each example's gradient at the end of training, negated: steep = suspicious.

        Q_j = -|g_j(theta_T)|

    Whole run only. Shapes [query, 1, train]. Cost: the gradient of each example. Source (the norm as a score,
    there early in training): Paul et al., "Deep Learning on a Data Diet", NeurIPS 2021.
    """

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset({Claim.AVERAGED})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        workload, end = trajectory.workload_at(trajectory.steps), trajectory.evaluated(trajectory.steps)
        return for_every_query(query, trajectory, -squared_norms(workload, end.theta).sqrt())

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        return {"query": _UNUSED}


@dataclass(frozen=True)
class SelfInfluence(Estimator):
    """Self-influence by TracIn, negated: how much training on an example moved its own loss.

        Q_j = -sum over epochs of lr_t |g_j(theta_{t+1})|^2        (t the last step of the epoch)

    An example that only its own gradient explains (a wrong label, an outlier) is far below 0. lr is that of
    a parameter's group, as for tracin. Whole run only. Shapes [query, 1, train]. Cost: the gradient of each
    example, an epoch. Source: Pruthi et al., NeurIPS 2020.
    """

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset()

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        total = trajectory.workload.theta0.new_zeros(trajectory.workload.n_train)
        for t in epoch_ends(trajectory):
            state = trajectory.state(t + 1)
            workload = trajectory.workload.with_buffers(state.buffers)
            total += squared_norms(workload, state.theta, rates(workload, trajectory.plan.lrs(t)))
        return for_every_query(query, trajectory, -total)

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        return {"query": _UNUSED, "checkpoints": len(epoch_ends(trajectory))}


@dataclass(frozen=True)
class EL2N(Estimator):
    """EL2N early in training, negated: distance of the probabilities from the label.

        Q_j = -|p_j - y_j|        p the class probabilities, y one-hot, after `epochs` epochs

    `epochs` defaults to a tenth of the run (the authors take 10 to 20 of 200), at least one. They average
    over ten runs; here one run speaks. Whole run only. Shapes [query, 1, train]. Cost: one forward pass.
    Errors: a model that does not classify. Source: Paul et al., "Deep Learning on a Data Diet", NeurIPS
    2021.
    """

    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise InputError(f"el2n: epochs must be at least 1, got {self.epochs}")

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset()

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        check_classifier(trajectory.workload, "el2n")
        t = epoch_ends(trajectory)[self._epochs(trajectory) - 1] + 1
        workload, theta = trajectory.workload_at(t), trajectory.state(t).theta
        with torch.no_grad():
            pieces = [workload.examples(rows) for rows in chunks(workload, theta)]
            row = torch.cat([_misses(workload, theta, batch, "el2n")[0] for batch in pieces])
        return for_every_query(query, trajectory, -row)

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        return {"query": _UNUSED, "epochs": self._epochs(trajectory)}

    def _epochs(self, trajectory: Trajectory) -> int:
        all_of_them = len(epoch_ends(trajectory))
        chosen = max(1, round(all_of_them / 10)) if self.epochs is None else self.epochs
        if chosen > all_of_them:
            raise InputError(f"el2n: the run has {all_of_them} epochs, and epochs={chosen} asks for more")
        return chosen


@dataclass(frozen=True)
class Forgetting(Estimator):
    """Forgetting events, negated: how often an example was classified rightly and, seen again, wrongly.

        Q_j = -#{consecutive occurrences of j in batches: right at the first, wrong at the second}

    Read before the update of the step that holds it, as training sees it. An example that was never right
    when seen counts as one more than any count there can be; one that no batch holds counts 0. Whole run
    only. Shapes [query, 1, train]. Cost: one forward pass of the batch a step. Errors: a model that does
    not classify. Source: Toneva et al., "An Empirical Study of Example Forgetting", ICLR 2019.
    """

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset({Claim.LOCAL})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        check_classifier(trajectory.workload, "forgetting")
        workload, plan, device = trajectory.workload, trajectory.plan, trajectory.workload.device
        events = torch.zeros(workload.n_train, dtype=torch.int64, device=device)
        later = torch.ones(workload.n_train, dtype=torch.bool, device=device)  # right at the next occurrence
        learnt, seen = torch.zeros_like(later), torch.zeros_like(events)
        with torch.no_grad():
            for block in trajectory.blocks(0, plan.steps):  # the last steps first
                for state in reversed(block):
                    rows = plan.batch(state.step).to(device)
                    here = workload.with_buffers(state.buffers)
                    right = _misses(here, state.theta, here.examples(rows), "forgetting")[1]
                    events[rows] += right & ~later[rows]
                    later[rows], seen[rows] = right, seen[rows] + 1
                    learnt[rows] |= right
        most = seen.max() // 2 + 1  # right and wrong in turn, and one more
        row = torch.where(seen == 0, 0, torch.where(learnt, events, most))
        return for_every_query(query, trajectory, 0 - row.to(workload.dtype))  # no -0

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        return {"query": _UNUSED}
