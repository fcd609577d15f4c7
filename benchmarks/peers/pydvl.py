"""pyDVL.

Its influence is <(H + damping)^-1 grad q, grad_j> of mean losses, same sign; divided by n it is the
change by removal. The test set goes in as one example, so that one system is solved and not 256 (EK-FAC,
which is linear in the query, takes them one by one, and cross entropy alone: the model gets a second
logit, 0). The penalty is no part of its loss, so its coefficient joins the damping.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.utils.data import DataLoader

from benchmarks.peers.case import Case
from benchmarks.peers.method import Method


def _loss(z: Tensor, y: Tensor) -> Tensor:
    return bce(z.flatten(), y.flatten())


def _cg(best: bool, case: Case) -> Tensor:
    from pydvl.influence.torch import CgInfluence

    damping = case.damping + case.l2 if best else None
    solver = CgInfluence(case.model(), _loss, regularization=damping)
    fitted = solver.fit(DataLoader(case.train(), batch_size=case.n))
    return fitted.influences(*case.test(as_one=True).tensors, case.x, case.y) / case.n


class TwoLogits(nn.Module):
    """z -> (0, z): the same probabilities."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        z = self.model(x)
        return torch.stack([torch.zeros_like(z), z], 1)


def _ekfac(best: bool, case: Case) -> Tensor:
    from pydvl.influence.torch import EkfacInfluence

    damping = case.damping + case.l2 if best else 0.0
    solver = EkfacInfluence(TwoLogits(case.model()), update_diagonal=True, hessian_regularization=damping)
    labels = case.y.long()
    data = torch.utils.data.TensorDataset(case.x, labels)
    fitted = solver.fit(DataLoader(data, batch_size=case.n))
    return fitted.influences(case.test_x, case.test_y.long(), case.x, labels).mean(0) / case.n


_IMPORTS = ("pydvl.influence.torch",)
METHODS = [
    Method("pyDVL CG", _IMPORTS, partial(_cg, False), "its defaults: no damping", once=True),
    Method("pyDVL CG, damped", _IMPORTS, partial(_cg, True), "damping 1/(sum of lr)"),
    Method("pyDVL EK-FAC", _IMPORTS, partial(_ekfac, False), "no damping", once=True),
    Method("pyDVL EK-FAC, damped", _IMPORTS, partial(_ekfac, True), "damping 1/(sum of lr)"),
]
