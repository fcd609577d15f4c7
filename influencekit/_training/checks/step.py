"""What is asked of a workload before it is trained: is its loss what every method here takes it for?"""

from copy import copy

import torch
from torch import Tensor, nn

from influencekit._training.batch import select
from influencekit._training.checks.examples import saying_what_fails
from influencekit._training.checks.model import check_side_doors, copy_model, frozen
from influencekit._training.checks.separability import fixed_statistics, own_losses
from influencekit._training.in_memory import InMemory
from influencekit._training.kernels.tracing import agree
from influencekit._training.step import Step
from influencekit._training.workload import Workload
from influencekit.errors import InputError

__all__ = ["check_step", "refuse_kept_weights"]


@torch.random.fork_rng(devices=[])
def check_step(step: Step) -> None:
    """Refuse a training loss that is random, not a sum over examples, or reaches parameters by a side
    door."""
    workload, source = step.workload, step.source
    assert isinstance(source, InMemory), "a tape is checked while it records"
    batch, losses = source.batch(0)[0], source.losses_at_start
    with saying_what_fails("the first batch", "give batches in the form that the model and the loss take"):
        losses(batch)
    check_side_doors(
        workload.model, lambda m: workload.loss_of(workload.run(m, batch), batch), workload.layout.names
    )
    with torch.no_grad():
        together, again = losses(batch), losses(batch)
        if not together.isfinite().all():
            return  # training will say why, at this very step
        if not agree(together, again):
            raise InputError(
                f"the training loss is random{_culprits(step, 'Dropout')}; a run must be repeatable: call "
                "model.eval() on those layers, or set their probability to 0"
            )
        if not own_losses(losses, batch):
            with fixed_statistics():
                normalised = own_losses(losses, batch)
            if not normalised:
                raise InputError(
                    "the loss of an example depends on the other examples of its batch; influence of single "
                    "examples is not defined then: use layer or group norm, and no loss between examples"
                )
    _check_gradient(step, source)
    refuse_kept_weights(workload)


def refuse_kept_weights(workload: Workload) -> None:
    """Refuse a model that keeps, in evaluation mode, what it computed of weights: queries would not follow
    those that they are asked of. Against a copy that has these weights as its own. Cost: three forward passes
    of a few test examples, and a copy of the model."""
    if workload.test is None:
        return
    few, theta = torch.arange(min(4, workload.n_test), device=workload.device), workload.theta0
    some, moved = select(workload.test, few), theta * 1.01 + 1e-3
    twin = copy(workload)
    twin.__dict__.pop("evaluator", None)
    object.__setattr__(twin, "model", _copy_at(workload, moved))
    with torch.no_grad():
        workload.losses(theta, some)  # of which it may keep something
        found, wanted = workload.losses(moved, some), twin.losses(moved, some)
    if not agree(found, wanted, 10.0):
        raise InputError(
            "in evaluation mode the model keeps what it computed of its weights (fused or cached weights), "
            "so queries would be of other weights than those that training changes; let it compute them in "
            "every forward pass"
        )


def _copy_at(workload: Workload, theta: Tensor) -> nn.Module:
    """A copy of the model whose own parameters are these; what is not trained is shared."""
    model = copy_model(workload.model, frozen(workload.model, workload.layout.names))
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in workload.layout.split(theta).items():
            own[name].copy_(value)
    return model


def _check_gradient(step: Step, source: InMemory) -> None:
    """The gradient is that of the model itself: `backward` on a copy whose own parameters are changed."""
    workload, names = step.workload, step.workload.layout.names
    theta = workload.theta0 * 1.01
    batch, slots = source.batch(0)
    mean = step.coefficients(0)[slots]
    mine, losses = step.gradient(step.start()._replace(theta=theta), step.coefficients(0))
    twin = _copy_at(workload, theta)
    own = dict(twin.named_parameters())
    with torch.enable_grad():
        direct = workload.loss_of(workload.run(twin, batch), batch)
        (mean * direct).sum().backward()  # and not autograd.grad, which reentrant checkpointing refuses
    found = [torch.zeros_like(own[n]) if (x := own[n].grad) is None else x for n in names]
    g = workload.layout.join(dict(zip(names, found, strict=True)))
    if workload.l2:
        g = g + theta * (workload.l2 * mean.sum())
    if g.isfinite().all() and not agree((mine, losses[slots]), (g, direct.detach()), 10.0):
        raise InputError(
            "the gradient by the parameters alone is not that of the model's own backward: a hook changes "
            "it, checkpoint(use_reentrant=True) cuts it off from inputs that need no gradient, or the model "
            "reaches parameters not as attributes of its modules; leave the hooks out, use "
            "checkpoint(use_reentrant=False), and reach parameters as attributes"
        )


def _culprits(step: Step, kind: str) -> str:
    found = [n for n, m in step.workload.model.named_modules() if kind in type(m).__name__ and m.training]
    return f" (layers {', '.join(found)})" if found else ""
