"""Wrong labels that are planted in the user's own data, so that one knows which scores would find them."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from influencekit._effects.labels import Labels
from influencekit._training.batch import Batch, NewEntries, tensors_of
from influencekit._training.workload import Workload
from influencekit.errors import InputError

__all__ = ["Plant", "confused"]

_LEAST = 20  # examples that are planted at a time, in data of at least ten times as many
_CONFUSED = 0.5  # of the flips go where the model errs, the others anywhere


class Plant(NamedTuple):
    """How wrong labels are made: `towards` [class, class], the probability of each other class for a label;
    None for targets that are no classes, which become those of another example.

    Documents, whose targets are their own tokens, get their tokens in random order.
    """

    labels: Labels
    towards: np.ndarray | None

    @property
    def words(self) -> str:
        """What is planted."""
        if self.towards is not None:
            return "labels of another class"
        return "targets of other examples, or of documents their own tokens in random order"

    def undone(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """The probability [planted] that a wrong label of class `before`, which is flipped to `after`, is
        right now: wrong ones come about as flips do."""
        if self.towards is None:
            return np.zeros(len(before))
        own = self.labels.own[self.labels.known].cpu().numpy()
        came = np.bincount(own, minlength=len(self.towards))[:, None] * self.towards  # [right, given]
        return np.asarray(came[after, before] / np.maximum(came.sum(0), 1e-300)[before])

    def classes(self, changed: NewEntries) -> tuple[np.ndarray, np.ndarray]:
        """The class of each planted label before and after; 0 where targets are no classes."""
        if self.towards is None:
            return 2 * (np.zeros(len(changed.positions), dtype=np.int64),)
        numbers, place = self.labels.numbers, self.labels.place
        assert numbers is not None and place is not None
        after = torch.searchsorted(numbers, changed.values[place].reshape(-1).to(numbers))
        return self.labels.own[changed.positions].cpu().numpy(), after.cpu().numpy()

    def planted(
        self, workload: Workload, used: np.ndarray, fraction: float, generator: np.random.Generator
    ) -> tuple[NewEntries, np.ndarray]:
        """Wrong labels for this fraction of the examples `used`, at least 20 of them or a tenth: what
        changes, and whose it is, a mask [train]. Errors: no target of its own that could be wrong."""
        count = max(round(fraction * len(used)), min(_LEAST, len(used) // 10), 1)
        chosen = np.sort(generator.choice(used, count, replace=False))
        rows = torch.from_numpy(chosen).to(workload.device)
        mask = np.zeros(workload.n_train, dtype=bool)
        mask[chosen] = True
        pool = torch.from_numpy(np.sort(generator.permutation(used))).to(workload.device)
        return NewEntries(rows, self._values(workload, rows, pool, generator)), mask

    def of_batch(self, batch: Batch, generator: np.random.Generator) -> Batch:
        """The same examples, all with wrong targets; of targets that are no classes."""
        n = len(tensors_of(batch)[0])
        values = _wrong(self.labels, batch, batch, generator)
        return NewEntries(torch.arange(n), values).within(batch, torch.arange(n))

    def _values(
        self, workload: Workload, rows: Tensor, pool: Tensor, generator: np.random.Generator
    ) -> dict[int, Tensor]:
        batch, labels = workload.examples(rows), self.labels
        if self.towards is None:
            some = pool[torch.from_numpy(generator.choice(len(pool), min(len(pool), 512), replace=False))]
            return _wrong(labels, batch, workload.examples(some), generator)
        assert labels.numbers is not None and labels.place is not None
        own = labels.own[rows].cpu().numpy()
        new = [generator.choice(self.towards.shape[1], p=self.towards[y]) for y in own]
        target = tensors_of(batch)[labels.place]
        numbers = labels.numbers[torch.tensor(new, device=labels.numbers.device)]
        return {labels.place: numbers.to(target).reshape(target.shape)}


def confused(labels: Labels, evidence: Tensor | None) -> np.ndarray | None:
    """Where flips go [class, class]: half of them to any other class that occurs, half of them where models
    that were not trained on an example put their probability. Errors: one class alone."""
    if not labels.classify:
        return None
    assert evidence is not None and labels.numbers is not None
    known = labels.known
    own, evidence = labels.own[known].cpu().numpy(), evidence[known.to(evidence.device)]
    counts = np.bincount(own, minlength=len(labels.numbers))
    if (counts > 0).sum() < 2:
        raise InputError("suspects: all training examples have the same label, so none can be flipped")
    probability = softmax(evidence.double().cpu().numpy(), axis=1)
    found = np.zeros((len(counts), len(counts)))
    for y in np.flatnonzero(counts):
        others = (counts > 0) & (np.arange(len(counts)) != y)
        confusion = np.where(others, probability[own == y].mean(0), 0.0)
        total = confusion.sum()
        uniform = others / others.sum()
        found[y] = uniform if total == 0 else (1 - _CONFUSED) * uniform + _CONFUSED * confusion / total
    return found / np.maximum(found.sum(1, keepdims=True), 1e-300)


def _wrong(labels: Labels, batch: Batch, pool: Batch, generator: np.random.Generator) -> dict[int, Tensor]:
    """Wrong targets of the examples of a batch, by entry: those of other examples, or documents shuffled."""
    entries = tensors_of(batch)
    if tokens := _documents(labels, batch):
        return _shuffled({k: entries[k] for k in tokens}, generator)
    if labels.place is None:
        raise InputError(
            "suspects: the loss takes its targets from the inputs themselves, so there is no label that "
            "could be wrong; give targets an entry of their own"
        )
    theirs, own = tensors_of(pool)[labels.place], entries[labels.place]
    if theirs.shape[1:] != own.shape[1:]:
        raise InputError("suspects: targets differ in shape from example to example; pad them to one width")
    new = own.clone()
    for row in range(len(own)):
        for k in generator.permutation(len(theirs)):
            if not torch.equal(theirs[k], own[row]):
                new[row] = theirs[k]
                break
        else:
            raise InputError("suspects: all training examples have the same target, so none can be wrong")
    return {labels.place: new}


def _documents(labels: Labels, batch: Batch) -> list[int]:
    """The entries of documents that are their own targets: tokens, targets and masks; none for other data."""
    entries = tensors_of(batch)
    whole = [
        k for k, x in enumerate(entries) if x.dim() == 2 and x.shape[1] > 1 and not x.is_floating_point()
    ]
    if labels.place is None:
        return whole
    if labels.place not in whole:
        return []
    target = entries[labels.place]
    alike = [k for k in whole if entries[k].shape == target.shape]
    there = target >= 0
    twins = [k for k in alike if k != labels.place and torch.equal(entries[k][there], target[there])]
    return alike if twins else []


def _shuffled(entries: dict[int, Tensor], generator: np.random.Generator) -> dict[int, Tensor]:
    """Tokens in random order, in all entries alike; padding and masked places stay where they are."""
    found = {k: x.clone() for k, x in entries.items()}
    masks = [x for x in entries.values() if bool(((x == 0) | (x == 1)).all())]
    for row in range(len(next(iter(entries.values())))):
        there = torch.stack([x[row] >= 0 for x in entries.values()] + [x[row] == 1 for x in masks]).all(0)
        places = there.nonzero()[:, 0]
        order = places[torch.from_numpy(generator.permutation(len(places))).to(places.device)]
        for k, x in entries.items():
            found[k][row, places] = x[row, order]
    return found
