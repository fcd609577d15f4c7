"""traker (TRAK).

Its scores [train, test] are what adding an example does to each test example's margin, up to a scale. By the
chain rule the mean test loss falls by the mean of (1 - p) times that; its removal brings it back, so the sign
stays. Features are divided by the root of the number of parameters, and a projection multiplies their squares
by its dimension: the ridge n/(sum of lr) is scaled accordingly.
"""

from collections.abc import Sequence
from functools import partial
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.case import Case
from benchmarks.peers.method import Method


def _task() -> Any:
    from trak.modelout_functions import AbstractModelOutput

    class OneLogit(AbstractModelOutput):
        def __init__(self) -> None:
            pass

        @staticmethod
        def get_output(model: Any, weights: Any, buffers: Any, x: Tensor, y: Tensor) -> Tensor:
            return torch.func.functional_call(model, (weights, buffers), (x[None],))[0] * (2 * y - 1)

        def get_out_to_loss_grad(
            self, model: Any, weights: Any, buffers: Any, batch: Sequence[Tensor]
        ) -> Tensor:
            z = torch.func.functional_call(model, (weights, buffers), (batch[0],))
            return (-z * (2 * batch[1] - 1)).sigmoid().detach()[:, None]

    return OneLogit()


def _scores(best: bool, case: Case) -> Tensor:
    from trak import TRAKer
    from trak.projectors import NoOpProjector

    model = case.model().eval()
    size = case.states.shape[1]
    options: dict[str, Any] = {}
    if best:
        dim = size if size < 10_000 else 2048
        options["lambda_reg"] = case.n * (case.damping + case.l2) / size * (1 if dim == size else dim)
        if dim == size:
            options["projector"] = NoOpProjector(size, 0, device="cpu")
    made = TRAKer(
        model, _task(), case.n, save_dir=mkdtemp(dir=case.folder), device="cpu", use_half_precision=False,
        logging_level=50, **options,
    )  # fmt: skip
    made.load_checkpoint(model.state_dict(), model_id=0)
    made.featurize((case.x, case.y), num_samples=case.n)
    made.finalize_features()
    made.start_scoring_checkpoint("test", model.state_dict(), 0, len(case.test_x))
    made.score((case.test_x, case.test_y), num_samples=len(case.test_x))
    margins = torch.as_tensor(made.finalize_scores("test"))
    z = model(case.test_x).detach()
    return margins @ (-z * (2 * case.test_y - 1)).sigmoid() / len(z)


_SETTINGS = "full gradients (CNN: 2048), damping 1/(sum of lr)"
_IMPORTS = ("trak", "trak.projectors")
METHODS = [
    Method("traker TRAK", _IMPORTS, partial(_scores, False), "its defaults, float32", once=True),
    Method("traker TRAK, damped", _IMPORTS, partial(_scores, True), _SETTINGS),
]
