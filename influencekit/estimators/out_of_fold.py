"""What models hold of an example's label that were trained without the example."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from influencekit._arguments import check_seed, whole_number
from influencekit._effects.labels import for_every_query, labels_of
from influencekit._effects.out_of_fold import fold_models
from influencekit._effects.retrain import Strategy
from influencekit._trajectory.trajectory import Trajectory
from influencekit.interfaces import Claim, Estimator, Query
from influencekit.windows import Window

__all__ = ["OutOfFold"]


@dataclass(frozen=True)
class OutOfFold(Estimator):
    """Out-of-fold margin: how clearly models that were not trained on an example agree with its label.

        Q_j = z_y - max over k != y of z_k,   z the logits of j in the run without the fold that j is in

    The training examples are cut into `folds` random parts (drawn with `seed`), and the recorded run is
    trained again without each part, on the same batches. With `repeats`, that many times with other parts; z
    are then mean log-probabilities. folds=2:repeats=8 asks 16 models that saw half of the data. Where labels
    are no classes, Q is minus the loss, which ranks as the size of the standardised residual does where the
    loss is a squared one.
    Of one output and two labels the margin is that output, with the sign of its own label, as for `aum`.

    The same for every query: it ranks examples by themselves, is no effect of removal, and knows nothing of
    test data. Whole run only. Shapes: [query, 1, train]. Sign: low = suspicious, as harmful examples have low
    scores of a loss; turned round for a query of which higher is better. Cost: folds * repeats training runs,
    divided by what batching gains. Errors: fewer than 2 folds, or more than examples; a run that becomes NaN
    or infinite. Source: Brodley and Friedl, "Identifying Mislabeled Training Data", JAIR 1999.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> ik.estimate(run, "test-loss", "out-of-fold:folds=3").influence.shape
        (1, 1, 24)
    """

    folds: int = 4
    repeats: int = 1
    seed: int = 0
    strategy: Strategy = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("out-of-fold: folds", self.folds, 2)
        whole_number("out-of-fold: repeats", self.repeats, 1)
        check_seed("out-of-fold: seed", self.seed)

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset({Claim.AVERAGED})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        labels = labels_of(trajectory.workload)
        found = fold_models(trajectory, labels, self.folds, self.repeats, self.seed, self.strategy).train
        if found.evidence is None or not labels.classify:
            return for_every_query(query, trajectory, 0 - found.losses)
        return for_every_query(query, trajectory, labels.margins(found.evidence))

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        said = "not used: the same scores for every query; harmful = suspicious"
        return {"query": said, "retrained": self.folds * self.repeats}
