"""What relabelling and removing suspects does to the loss of trusted examples: trained again."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from influencekit._effects.labels import Labels
from influencekit._effects.retrain import Strategy
from influencekit._training.batch import NewEntries, tensors_of
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.changed_data import rerun_with
from influencekit._verbs.curate.retraining import losses_at_end
from influencekit.evaluation.retraining import set_effects
from influencekit.progress import track
from influencekit.queries import TestLosses
from influencekit.windows import Window

__all__ = ["Exact", "effects_of", "new_labels"]


class Exact(NamedTuple):
    """Changes of the losses of trusted examples, [trusted, set]: without each set, and with its new labels;
    None where there are none."""

    removed: np.ndarray
    relabelled: np.ndarray | None


def new_labels(run: Trajectory, labels: Labels, positions: np.ndarray, values: Tensor) -> NewEntries:
    """The examples at these positions with other labels, `values` [k]."""
    assert labels.place is not None
    rows = torch.from_numpy(positions).to(run.workload.device)
    target = tensors_of(run.workload.examples(rows))[labels.place]
    return NewEntries(rows, {labels.place: values.to(target).reshape(target.shape)})


def effects_of(
    run: Trajectory, labels: Labels, sets: list[np.ndarray], values: Tensor | None, strategy: Strategy
) -> Exact:
    """Train without each of `sets` (positions), and with the labels `values` [train] on them; the test set of
    `run` is what is asked. Cost: two training runs a set, those without it together where that is faster."""
    masks = np.stack([np.isin(np.arange(run.workload.n_train), each) for each in sets])
    removed = set_effects(run, TestLosses(), masks, [Window(0, run.steps)], strategy)[:, 0]
    if values is None:
        return Exact(removed, None)
    before = losses_at_end(run)
    found = []
    for each in track(sets, "relabelled", len(sets)):
        other = rerun_with(run, new_labels(run, labels, each, values[torch.from_numpy(each)]))
        found.append(losses_at_end(other) - before)
    return Exact(removed, np.stack(found, 1))
