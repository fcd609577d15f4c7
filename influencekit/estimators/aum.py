"""The margin of each training example, averaged over training."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from influencekit._effects.labels import epoch_ends, for_every_query, margins_by_epoch, require_classes
from influencekit._trajectory.trajectory import Trajectory
from influencekit.interfaces import Claim, Estimator, Query
from influencekit.windows import Window

__all__ = ["AUM"]


@dataclass(frozen=True)
class AUM(Estimator):
    """Area under the margin: how clearly the model held the label for right, averaged over epochs.

        Q_j = mean over epochs of  [ z_y - max over k != y of z_k ](theta_t)      t the end of the epoch

    z are the logits of example j and y its label. Of one output and two labels the margin is that output,
    less what lies between the labels, with the sign of its own label. A wrong label is learnt late, so its
    margin is low for long, also where the model knows it by heart in the end.

    The same for every query: it ranks examples by themselves, is no effect of removal, and knows nothing of
    test data. Whole run only. Shapes: [query, 1, train]. Sign: low = suspicious, as harmful examples have low
    scores of a loss; turned round for a query of which higher is better. Cost: a forward pass of all examples
    an epoch, and a replay where states are not stored. Errors: labels that are no classes, as in a
    regression. Source: Pleiss et al., "Identifying Mislabeled Data using the Area Under the Margin
    Ranking", NeurIPS 2020 (there the margins are those of the training batches).

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> ik.estimate(run, "test-loss", "aum").influence.shape
        (1, 1, 24)
    """

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset()

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        labels = require_classes(trajectory.workload, "aum")
        return for_every_query(query, trajectory, margins_by_epoch(trajectory, labels).mean(0))

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        said = "not used: the same scores for every query; harmful = suspicious"
        return {"query": said, "epochs": len(epoch_ends(trajectory))}
