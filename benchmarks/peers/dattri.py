"""dattri.

Influence functions: <(H + damping)^-1 grad q, grad_j> of the mean loss, same sign; divided by n it is the
change by removal. TracIn and DVEmb: same sign. TRAK is given the margin as loss and the test loss as
target: what adding does to that, so its sign is turned. The penalty is in the loss that it is given. The
test set goes in as one example where dattri takes a function of the parameters; where it hooks layers,
one by one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.utils.data import DataLoader

from benchmarks.peers.case import Case
from benchmarks.peers.method import Method

Loss = Callable[[dict[str, Tensor], tuple[Tensor, ...]], Tensor]


def _loss(case: Case, model: nn.Module, penalised: bool = True) -> Loss:
    l2 = case.l2 if penalised else 0.0

    def loss(params: dict[str, Tensor], data: tuple[Tensor, ...]) -> Tensor:
        z = torch.func.functional_call(model, params, (data[0],))
        return bce(z, data[1].flatten()) + 0.5 * l2 * sum(p.square().sum() for p in params.values())

    return loss


def _task(case: Case, checkpoints: Any = None, loss: Any = None, target: Any = None) -> Any:
    from dattri.task import AttributionTask

    model = case.model().eval()
    made = partial(AttributionTask, model=model, checkpoints=checkpoints or model.state_dict())
    loss = loss(case, model) if loss else _loss(case, model)
    target = target(case, model) if target else _loss(case, model, penalised=False)
    return made(loss_func=loss, target_func=target)


def _whole(case: Case) -> DataLoader:
    return DataLoader(case.test(as_one=True), batch_size=1)


def _train(case: Case) -> DataLoader:
    return DataLoader(case.train(), batch_size=case.n)


def _cg(best: bool, case: Case) -> Tensor:
    from dattri.algorithm.influence_function import IFAttributorCG

    options = {"regularization": case.damping} if best else {}
    made = IFAttributorCG(_task(case), **options)
    made.cache(_train(case))
    return made.attribute(_train(case), _whole(case))[:, 0] / case.n


def _ekfac(best: bool, case: Case) -> Tensor:
    from dattri.algorithm.influence_function import IFAttributorEKFAC

    made = IFAttributorEKFAC(_task(case), damping=case.damping + case.l2 if best else 0.0)
    made.cache(_train(case))
    return made.attribute(_train(case), _whole(case))[:, 0] / case.n


def _tracin(case: Case) -> Tensor:
    from dattri.algorithm.tracin import TracInAttributor

    checkpoints = [case.model(t).state_dict() for t in case.ends]
    rates = torch.tensor([case.lr[t - 1] for t in case.ends])
    made = TracInAttributor(_task(case, checkpoints), weight_list=rates, normalized_grad=False)
    return made.attribute(_train(case), _whole(case))[:, 0]


def _margin(case: Case, model: nn.Module) -> Loss:
    def margin(params: dict[str, Tensor], data: tuple[Tensor, ...]) -> Tensor:
        z = torch.func.functional_call(model, params, (data[0],))
        return (z * (2 * data[1].flatten() - 1)).sum()

    return margin


def _trak(best: bool, case: Case) -> Tensor:
    from dattri.algorithm.trak import TRAKAttributor

    model = case.model().eval()
    target = partial(_loss, penalised=False)
    task = _task(case, loss=_margin, target=target)

    def probability(params: Any, data: tuple[Tensor, ...]) -> Tensor:
        return _margin(case, model)(params, data).sigmoid()

    # its projections keep lengths on average; gradients are divided by the root of the number of parameters
    ridge = case.n * (case.damping + case.l2) / case.states.shape[1]
    options: dict[str, Any] = {"regularization": ridge} if best else {}
    made = TRAKAttributor(task, probability, **options)
    made.cache(_train(case))
    return -made.attribute(_whole(case))[:, 0]


def _dvemb(kind: str, case: Case) -> Tensor:
    """Gradients of every step are collected at the states that the run was in."""
    from dattri.algorithm.dvemb import DVEmbAttributor
    from dattri.task import AttributionTask

    model = case.model(0)

    def hooked(model: nn.Module, data: tuple[Tensor, ...], device: Any) -> Tensor:
        return bce(model(data[0]), data[1])

    full = kind == "none"
    task = AttributionTask(_loss(case, model) if full else hooked, model, model.state_dict())
    made = DVEmbAttributor(task, proj_dim=None if full else 1024, factorization_type=kind)
    for t, row in enumerate(case.order):
        torch.nn.utils.vector_to_parameters(case.states[t].clone(), made.model.parameters())
        made.cache_gradients(case.epoch[t], (case.x[row], case.y[row]), row, case.lr[t])
    torch.nn.utils.vector_to_parameters(case.states[-1].clone(), made.model.parameters())
    made.cache()
    tests = _whole(case) if full else DataLoader(case.test(), batch_size=len(case.test_x))
    return made.attribute(tests).mean(1)


_IMPORTS = ("dattri.algorithm", "dattri.algorithm.influence_function")


def _method(name: str, score: Callable[[Case], Tensor], settings: str, **other: bool) -> Method:
    return Method(f"dattri {name}", _IMPORTS, score, settings, **other)


METHODS = [
    _method("CG", partial(_cg, False), "its defaults: no damping, 10 iterations", once=True),
    _method("CG, damped", partial(_cg, True), "damping 1/(sum of lr), 10 iterations"),
    _method("EK-FAC", partial(_ekfac, False), "no damping; linear layers", once=True),
    _method("EK-FAC, damped", partial(_ekfac, True), "damping 1/(sum of lr); linear layers"),
    _method("TracIn", _tracin, "checkpoint an epoch, its 512 dimensions", trajectory=True),
    _method("TRAK", partial(_trak, False), "its defaults, 512 dimensions", once=True),
    _method("TRAK, damped", partial(_trak, True), "512 dimensions, damping 1/(sum of lr)"),
    _method("DVEmb", partial(_dvemb, "none"), "full gradients", trajectory=True),
    _method("DVEmb, element-wise", partial(_dvemb, "elementwise"), "1024 dimensions", trajectory=True),
]
