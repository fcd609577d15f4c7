"""Nothing a method is given may change: a before and after of everything within its reach."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from influencekit._training.batch import tensors_of
from influencekit._training.workload import Workload
from influencekit._trajectory.store import read
from influencekit._trajectory.trajectory import Trajectory

__all__ = ["untouched"]


@contextmanager
def untouched(law: str, subject: Trajectory | Workload) -> Iterator[None]:
    """Raise AssertionError if the block changes the model, the data, the store or torch's global state."""
    before = _facts(subject)
    yield
    after = _facts(subject)
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        raise AssertionError(f"{law}: changed {', '.join(changed)}")


def _facts(subject: Trajectory | Workload) -> dict[str, Any]:
    workload = subject.workload if isinstance(subject, Trajectory) else subject
    model, every = workload.model, torch.arange(workload.n_train, device=workload.device)
    facts = {
        "the model's parameters": _digest(*model.parameters()),
        "the model's buffers": _digest(*model.buffers()),
        "the model's gradients": [p.grad is None for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "train/eval mode": [m.training for m in model.modules()],
        "the initial parameters": _digest(workload.theta0),
        "the training data": _digest(*tensors_of(workload.examples(every))),
        "the test data": _digest(*tensors_of(workload.test)),
        "the plan": _digest(workload.plan.indices, workload.plan.lr, workload.plan.epoch),
        "torch's random state": _digest(torch.get_rng_state()),
        "numpy's random state": repr(np.random.get_state()),  # noqa: NPY002
        "Python's random state": random.getstate(),
        "the default dtype": torch.get_default_dtype(),
        "gradient mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "the number of threads": torch.get_num_threads(),
    }
    if isinstance(subject, Trajectory):
        group = subject.group
        facts["the store"] = {name: _sum(read(group, name)) for name in sorted(group.array_keys())}
        facts["the store's attrs"] = repr(dict(group.attrs))
    return facts


def _digest(*tensors: torch.Tensor) -> list[str]:
    return [_sum(x.detach().cpu().numpy()) for x in tensors]


def _sum(values: np.ndarray) -> str:
    raw = values.tobytes() if values.dtype.kind in "biuf" else repr(values.tolist()).encode()
    return hashlib.sha256(raw).hexdigest()
