"""What the labels of training examples are, and what a model holds of each example and its label."""

from collections.abc import Iterator
from typing import Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from influencekit._training.accuracy import logits_of, read_as
from influencekit._training.batch import Batch, select, tensors_of
from influencekit._training.state import State
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InputError
from influencekit.interfaces import Query

__all__ = [
    "Judged", "Labels", "epoch_ends", "for_every_query", "judge", "judge_all", "labels_of", "margins",
    "margins_by_epoch", "pieces_of", "require_classes",
]  # fmt: skip

_ROWS = 256  # examples that are looked at together
_KINDS, _EACH = (
    64,
    4,
)  # different targets, and examples of each, by which the loss says whether they are classes

Kind = Literal["classes", "two", "numbers", "other"]


class Labels(NamedTuple):
    """The targets of the training examples, by what they are.

    `kind`: "classes", one whole number an example, with a logit for each class; "two", one of two numbers,
    with one output; "numbers", one number an example, with one output; "other", anything else, of which
    only losses are known. Labels are classes where the loss takes them for classes, as for accuracy.
    `values` [train]: the targets, of other kinds None. `numbers` [class]: the target of each class, in the
    order of `Judged.evidence`. `place`: the target among the tensors of a batch; None where the loss takes it
    from elsewhere. `ignored` [train]: targets of which a classification takes no notice, as -100. `middle`:
    of "two" the output between them.
    """

    kind: Kind
    place: int | None = None
    values: Tensor | None = None
    numbers: Tensor | None = None
    ignored: Tensor | None = None
    middle: float = 0.0

    @property
    def classify(self) -> bool:
        """Whether labels are classes."""
        return self.numbers is not None

    @property
    def own(self) -> Tensor:
        """The class of each training example, as its place in `numbers` [train]; 0 of what is ignored."""
        assert self.values is not None and self.numbers is not None
        return torch.searchsorted(self.numbers, self.values).where(self.known, 0)

    @property
    def known(self) -> Tensor:
        """Which training examples have a label [train]."""
        assert self.values is not None
        return torch.ones_like(self.values, dtype=torch.bool) if self.ignored is None else ~self.ignored

    def margins(self, evidence: Tensor) -> Tensor:
        """Margins [train] of evidence [train, class]; NaN where there is no label."""
        return margins(evidence, self.own).masked_fill(~self.known.to(evidence.device), torch.nan)


class Judged(NamedTuple):
    """What a model holds of examples: their `losses` [n], and `evidence` [n, class] for each label: the
    logits, up to a constant, whatever the loss weighs; of "numbers" the prediction [n, 1], of other kinds
    None."""

    losses: Tensor
    evidence: Tensor | None


_KNOWN: WeakKeyDictionary[Workload, Labels] = WeakKeyDictionary()


def labels_of(workload: Workload) -> Labels:
    """The labels of the training examples. Cost: every example is fetched, and a few are evaluated, once for
    each run that is opened."""
    if workload not in _KNOWN:
        _KNOWN[workload] = _labels_of(workload)
    return _KNOWN[workload]


def _labels_of(workload: Workload) -> Labels:
    few = workload.examples(torch.arange(min(8, workload.n_train), device=workload.device))
    target = workload.calls.target(few)
    places = [k for k, x in enumerate(tensors_of(few)) if x is target]
    if not places or isinstance(few, Tensor):
        return Labels("other", None)
    with torch.no_grad():
        z = logits_of(workload.outputs(workload.theta0, few))
    place, n = places[0], len(tensors_of(few)[0])
    if target.is_complex() or target.numel() != n or z is None:
        return Labels("other", place)
    whole = [workload.calls.target(batch).detach().reshape(-1) for _, batch in pieces_of(workload)]
    values = torch.cat(whole)
    values = values.long() if values.dtype == torch.bool else values  # which torch does not look up
    if values.is_floating_point() and bool(values.isnan().any()):
        return Labels("other", place)
    read = _read(workload, values)
    if read == "classes":
        numbers = torch.arange(z.shape[1], device=values.device)
        return Labels("classes", place, values, numbers, _outside(values, numbers))
    if read:
        signed = bool((values == -1).any()) and not bool((values == 0).any())
        numbers = torch.tensor([-1 if signed else 0, 1]).to(values)
        middle = 0.0 if read == "above 0" else 0.5
        return Labels("two", place, values, numbers, _outside(values, numbers), middle)
    return Labels("numbers", place, values) if z.numel() == n else Labels("other", place)


def _read(workload: Workload, values: Tensor) -> str:
    """How the loss reads a few examples of each target; of many different ones, of some."""
    kinds, index = values.unique(return_inverse=True)
    some = torch.linspace(0, len(kinds) - 1, min(len(kinds), _KINDS)).round().long().tolist()
    rows = torch.cat([(index == k).nonzero()[:_EACH, 0] for k in some]).to(workload.device)
    batch = workload.examples(rows)
    with torch.no_grad():
        outputs = workload.outputs(workload.theta0, batch)
    target = workload.calls.target(batch).detach()
    return read_as(outputs, target, lambda given: workload.loss_of(given, batch))


def _outside(values: Tensor, numbers: Tensor) -> Tensor | None:
    found = ~torch.isin(values, numbers.to(values))
    return found if bool(found.any()) else None


def require_classes(workload: Workload, who: str) -> Labels:
    """The labels, if they are classes. Errors: they are none."""
    found = labels_of(workload)
    if not found.classify:
        what = "a regression has none" if found.kind == "numbers" else "these targets are none"
        raise InputError(
            f"{who} needs labels that are classes, one an example ({what}): take final-loss or out-of-fold, "
            "which need only the loss"
        )
    return found


def pieces_of(workload: Workload) -> Iterator[tuple[Tensor, Batch]]:
    """All training examples in pieces: (positions, batch)."""
    for rows in torch.arange(workload.n_train, device=workload.device).split(_ROWS):
        yield rows, workload.examples(rows)


def judge(workload: Workload, theta: Tensor, batch: Batch, labels: Labels) -> Judged:
    """What the model at theta [param] holds of a batch, in evaluation mode. Cost: a forward pass."""
    with torch.no_grad():
        outputs = workload.outputs(theta, batch)
        losses = workload.loss_of(outputs, batch)
        z = logits_of(outputs)
        if labels.kind == "other" or z is None:
            return Judged(losses, None)
        if labels.kind == "classes":
            return Judged(losses, z.log_softmax(1))
        if labels.kind == "numbers":
            return Judged(losses, z.reshape(-1, 1))
        above = z.reshape(-1) - labels.middle
        return Judged(losses, torch.stack([torch.zeros_like(above), above], 1))


def judge_all(workload: Workload, theta: Tensor, labels: Labels, batch: Batch | None = None) -> Judged:
    """The same of all training examples, or of a large batch."""
    if batch is None:
        each = [judge(workload, theta, piece, labels) for _, piece in pieces_of(workload)]
    else:
        rows = torch.arange(len(tensors_of(batch)[0]), device=theta.device).split(_ROWS)
        each = [judge(workload, theta, select(batch, some), labels) for some in rows]
    known = [one.evidence for one in each if one.evidence is not None]
    return Judged(torch.cat([one.losses for one in each]), torch.cat(known) if known else None)


def margins(evidence: Tensor, index: Tensor) -> Tensor:
    """The evidence [n, class] of each example's own class `index` [n], minus the largest of the others: of
    logits z their z_y - max z_k, below 0 where the label is not what the model says."""
    own = index.to(evidence.device)[:, None]
    others = evidence.scatter(1, own, -torch.inf).amax(1)
    return evidence.gather(1, own)[:, 0] - others


def margins_by_epoch(trajectory: Trajectory, labels: Labels) -> Tensor:
    """The margin of every example after each epoch: [epoch, train]. Cost: a forward pass of all examples an
    epoch, and a replay of the run where states are not stored."""
    states = [t + 1 for t in epoch_ends(trajectory)]
    found: dict[int, Tensor] = {}

    def look(state: State) -> None:
        there = trajectory.workload.with_buffers(state.buffers)
        evidence = judge_all(there, state.theta, labels).evidence
        assert evidence is not None
        found[state.step] = labels.margins(evidence)

    if set(states) <= {*trajectory.stored_states}:
        for t in states:
            look(trajectory.state(t))
    else:
        for block in trajectory.blocks(min(states), max(states) + 1):
            for state in block:
                if state.step in states:
                    look(state)
    return torch.stack([found[t] for t in states])


def epoch_ends(trajectory: Trajectory) -> list[int]:
    """The last step of every epoch, ascending."""
    epoch = trajectory.plan.epoch.tolist()
    return [t for t in range(len(epoch)) if t + 1 == len(epoch) or epoch[t + 1] != epoch[t]]


def for_every_query(query: Query, trajectory: Trajectory, row: Tensor) -> Tensor:
    """Scores of examples by themselves, [train], low = suspicious, as an estimator gives them: [query, 1,
    train], the suspicious ones harmful to every query.

    Example:

        >>> import influencekit as ik
        >>> import torch
        >>> from influencekit.extend import for_every_query
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> for_every_query(ik.make("query", "test-loss"), run, torch.zeros(24)).shape
        torch.Size([1, 1, 24])
    """
    row = 0 - row if query.better == "higher" else row
    return row.detach().expand(len(query.labels(trajectory.workload)), 1, -1).clone()
