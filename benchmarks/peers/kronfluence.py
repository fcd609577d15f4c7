"""kronfluence.

Its pairwise score is <grad q, (H + damping)^-1 grad_j> with sums over the batch: divided by both counts
it is the change by removal, same sign. The query is given as one (aggregate_query_gradients). The penalty
is no part of its loss, so its coefficient joins the damping.
"""

from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from benchmarks.peers.case import Case
from benchmarks.peers.method import Method


def _task() -> Any:
    import torch
    from kronfluence.task import Task

    class Classify(Task):
        def compute_train_loss(self, batch: Any, model: Any, sample: bool = False) -> Tensor:
            z = model(batch[0])
            y = torch.bernoulli(z.detach().sigmoid()) if sample else batch[1]
            return bce(z, y, reduction="sum")

        def compute_measurement(self, batch: Any, model: Any) -> Tensor:
            return self.compute_train_loss(batch, model)

    return Classify()


def _scores(best: bool, case: Case) -> Tensor:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments

    task = _task()
    analyzer = Analyzer(
        "peers", prepare_model(case.model(), task), task, cpu=True, disable_tqdm=True, log_level=40,
        output_dir=str(case.folder),
    )  # fmt: skip
    analyzer.fit_all_factors(
        "f", case.train(), per_device_batch_size=256, factor_args=FactorArguments(strategy="ekfac"),
        overwrite_output_dir=True,
    )  # fmt: skip
    options = {"damping_factor": case.damping + case.l2} if best else {}
    analyzer.compute_pairwise_scores(
        "s", "f", case.test(), case.train(), per_device_query_batch_size=256, per_device_train_batch_size=256,
        score_args=ScoreArguments(aggregate_query_gradients=True, **options), overwrite_output_dir=True,
    )  # fmt: skip
    return analyzer.load_pairwise_scores("s")["all_modules"][0] / len(case.test_x) / case.n


_IMPORTS = ("kronfluence", "kronfluence.analyzer")
METHODS = [
    Method("kronfluence EK-FAC", _IMPORTS, partial(_scores, False), "its defaults", once=True),
    Method("kronfluence EK-FAC, damped", _IMPORTS, partial(_scores, True), "damping 1/(sum of lr)"),
]
