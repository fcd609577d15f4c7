"""The laws on runs that a tape recorded: what is taken gives what the same run gives by `record`.

A taped run has no training tensors: examples are fetched, batches are tuples or dicts, outputs may be a dict,
a step may have several micro-batches, a model may draw random numbers.
Whoever cannot do with one raises `InputError`, one line, and has kept the law.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from influencekit._tape import Tape
from influencekit._tape.replica import NOT_TENSORS
from influencekit._training.batch import select
from influencekit._training.optimizers import SGD, AdamW
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.contributions import contributions, sum_over_windows
from influencekit._verbs.estimate import estimate
from influencekit._verbs.record import record
from influencekit.errors import InputError
from influencekit.evaluation.run import evaluate
from influencekit.interfaces import Claim, Estimator, Evaluation, Query, Recorder
from influencekit.registry import make
from influencekit.testing.oracle import tiny_workload, torch_optimizer
from influencekit.testing.setting import ASK, TOLERANCE, agree, queries, windows_of
from influencekit.testing.untouched import untouched

__all__ = ["TAPED_LAWS", "taped"]

_BY_CLAIM = {Claim.EXACT: "loo", Claim.FIRST_ORDER: "dit"}


class _Named(nn.Module):
    """A model whose output is a dict, as those of transformers are."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.body(x)}


class _Dropping(nn.Module):
    """A model with dropout on its inputs."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.body(nn.functional.dropout(x, 0.2, self.training))


def _of_logits(outputs: Any, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs["logits"], target, reduction="none")


@cache
def _workload(form: str) -> Workload:
    if form == "dropout":
        found = tiny_workload(AdamW(lr=0.05, eps=0.01), l2=0.0)
        return replace(found, model=_Dropping(found.model))
    if form == "tuples":
        return tiny_workload(AdamW(lr=0.05, eps=0.01, weight_decay=0.1, clip_norm=0.15), l2=0.0)
    found = tiny_workload(SGD(lr=0.3), classes=3, batches="dict", l2=0.0)
    train: Any = found.train
    turned = {k: train[k] for k in ("labels", "x")}  # the target first: order says nothing of a dict
    order = found.plan.indices.clone()
    order[2, 1] = order[2, 0]  # an example twice in a batch
    return replace(found, model=_Named(found.model), loss=_of_logits, train=turned, order=order)


@cache
def taped(form: str, recorder: Recorder | str = "full") -> Trajectory:
    """A run of 6 steps that a tape recorded in float64, from a loop in plain PyTorch.

    form: "dicts" (three classes, batches and outputs are dicts, an example stands twice in the batch of step
    2, SGD), "tuples" (one logit, AdamW, clipped) or "dropout" (one logit, AdamW, in steps of two
    micro-batches). Every second batch is short, the example at position 4 is in none. Recorded once a
    process.

    Example:

        >>> from influencekit.testing import taped
        >>> sorted(taped("dicts").workload.test)
        ['labels', 'x']
    """
    workload, parts = _workload(form), 2 if form == "dropout" else 1
    model, plan = deepcopy(workload.model), workload.plan
    optimizer, clip = torch_optimizer(workload, model), workload.optimizer.clip_norm
    data: Any = [select(workload.train, torch.tensor(i)) for i in range(workload.n_train)]
    batches = [plan.batch(t).tolist() for t in range(plan.steps)] * parts
    tape = Tape(
        None, model, optimizer, loss=workload.loss, data=data, recorder=recorder, check=1.0, clip_norm=clip,
        ids=list(workload.train_ids or ()), name="tiny", accumulate=parts,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), tape:
        torch.manual_seed(0)
        for start in range(0, len(batches), 2):
            loader: Any = DataLoader(data, batch_sampler=batches[start : start + 2])
            for k, (_, batch) in enumerate(tape.batches(loader), start):
                outputs = model(batch["x"] if form == "dicts" else batch[0])
                target = batch["labels"] if form == "dicts" else batch[1]
                (workload.loss(outputs, target).mean() / parts).backward()
                if (k + 1) % parts:
                    continue
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.param_groups[0]["lr"] = plan.lrs(k // parts)[0]
                optimizer.step()
                optimizer.zero_grad()
    return tape.trajectory(test=workload.test, test_ids=workload.test_ids)


@cache
def _recorded(form: str) -> Trajectory:
    return record(_workload(form))


def _runs() -> Iterator[tuple[str, Trajectory, Trajectory | None]]:
    """(name, a taped run, the same run by `record`, which knows no micro-batches and no dropout)."""
    for form in ("dicts", "tuples", "dropout"):
        yield f"a taped run with {form}", taped(form), None if form == "dropout" else _recorded(form)


def _check_refusal(law: str, name: str, error: Exception) -> None:
    """Raise AssertionError for an error that is no refusal in one line."""
    lines = str(error).splitlines() or [""]
    if isinstance(error, AssertionError):
        raise error
    if not isinstance(error, InputError):
        raise AssertionError(
            f"{law}: {name}: {type(error).__name__}: {lines[0]}; {ASK}, or raise InputError"
        ) from error
    if (count := len(str(error.args[0]).splitlines() if error.args else lines)) > 1:  # as it was written
        raise AssertionError(f"{law}: {name}: refused in {count} lines, expected one") from error
    if NOT_TENSORS in lines[0]:  # the product's own refusal, which the author can do without
        raise AssertionError(f"{law}: {name}: {lines[0]}") from error


def scored_on_taped_runs(estimator: Estimator) -> None:
    """Scores and contributions are, to 1e-10, those of the same run by `record`; or one line says why not.

    Where `record` has no such run: what `loo` and `dit` give, if EXACT or FIRST_ORDER is claimed.
    """
    law = "scored on taped runs"
    for name, run, same in _runs():
        windows = windows_of(estimator, run.steps)
        try:
            with untouched(law, run):
                found = estimator.scores(run, queries(), windows)
                estimate(run, queries(), estimator, windows)
        except Exception as error:
            _check_refusal(law, name, error)
            continue
        claimed = [name for claim, name in _BY_CLAIM.items() if claim in estimator.claims]
        if same is not None:
            agree(law, found, estimator.scores(same, queries(), windows), TOLERANCE, name)
        elif claimed:
            truth = make("estimator", claimed[0]).scores(run, queries(), windows)
            agree(law, found, truth, TOLERANCE, f"{name}, beside {claimed[0]}")
        if Claim.ADDITIVE in estimator.claims:
            parts = contributions(run, queries(), estimator, range(1, run.steps + 1))
            added = torch.from_numpy(sum_over_windows(parts, windows).influence.values)
            agree(law, added, found, TOLERANCE, f"{name}, contributions")


def queried_on_taped_runs(query: Query) -> None:
    """Labels, values and gradient are those of the same run by `record`; or one line says why not."""
    law = "queried on taped runs"
    for name, run, same in _runs():
        other, theta = run if same is None else same, run.final.theta
        try:
            with untouched(law, run.workload):
                labels = list(query.labels(run.workload))
                values, gradient = query.evaluate(run.workload, theta), query.gradient(run.workload, theta)
        except Exception as error:
            _check_refusal(law, name, error)
            continue
        if labels != list(query.labels(other.workload)):
            raise AssertionError(f"{law}: {name}: labels {labels}, expected {query.labels(other.workload)}")
        agree(law, values, query.evaluate(other.workload, theta), TOLERANCE, name)
        agree(law, gradient, query.gradient(other.workload, theta), TOLERANCE, f"{name}, gradient")


def taped_with_it(recorder: Recorder) -> None:
    """A tape with this recorder replays every step; a lossless one gives every state back, bit for bit."""
    law = "taped with it"
    try:
        run = taped("dicts", recorder)
    except Exception as error:
        _check_refusal(law, "a tape", error)
        return
    for t in range(run.steps + 1) if recorder.lossless else (0, run.steps):
        if not torch.equal(run.state(t).theta, taped("dicts").state(t).theta):
            raise AssertionError(f"{law}: state {t} differs from that of a tape that stores every state")


def evaluated_on_taped_runs(evaluation: Evaluation) -> None:
    """A result for a taped run; or one line why not."""
    law = "evaluated on taped runs"
    for name, run, _ in _runs():
        try:
            evaluate(run, {"": evaluation}, "test-loss", ["dit", "if", "loo"])
        except Exception as error:
            _check_refusal(law, name, error)


TAPED_LAWS: dict[type, Callable[[Any], None]] = {
    Estimator: scored_on_taped_runs,
    Query: queried_on_taped_runs,
    Recorder: taped_with_it,
    Evaluation: evaluated_on_taped_runs,
}
