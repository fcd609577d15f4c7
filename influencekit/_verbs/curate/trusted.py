"""Trusted data: a batch of examples that the run was not trained on, of which some choose and others judge.

Some choose which training examples are harmful, the others say what leaving them out does. Whoever chooses
the best of many and reports it on the same examples deceives himself.
"""

from collections.abc import Iterable
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from influencekit._effects.labels import labels_of
from influencekit._tape.checks.model import refuse_random_evaluation
from influencekit._tape.index_entry import WithoutEntry
from influencekit._tape.open_taped import whole_set
from influencekit._training.batch import Batch, select, tensors_of
from influencekit._training.checks.examples import refuse_other_shapes
from influencekit._training.checks.workload import check_set
from influencekit._training.workload import Workload
from influencekit._trajectory.contents import digest_each
from influencekit._trajectory.fingerprint import named
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.results import class_names
from influencekit.errors import InputError

__all__ = ["LEAST", "Trusted", "refuse_unfit", "split", "tested_on", "trusted_of"]

LEAST = 20  # trusted examples
_TOO_MANY = 0.1  # of them trained on as well: no accident of the data
_PIECE = 256  # training examples that are fetched at once
_TRAINED, _EQUAL, _IGNORED = "also trained on", "equal to another one", "ignored by the loss"


class Trusted(NamedTuple):
    """Trusted examples in a batch, no two of them equal; their names; how many were left out, by the reason
    `gone`; and the classes of training examples that `none` of them has, by name."""

    batch: Batch
    ids: list[Any]
    gone: dict[str, int]
    none: list[str]

    @property
    def cautions(self) -> list[str]:
        """What was left out, and what they cannot judge, in words."""
        said = []
        for why, count in self.gone.items():
            one, was = ("example is", "was") if count == 1 else ("examples are", "were")
            said.append(f"{count} trusted {one} {why}, and {was} left out")
        if self.none:
            names = ", ".join(self.none[:5]) + (", ..." if len(self.none) > 5 else "")
            one, it = ("label", "it") if len(self.none) == 1 else ("labels", "them")
            said.append(
                f"no trusted example has the {one} {names}, so nothing judges whether training examples of "
                f"{it} are needed"
            )
        return said


def trusted_of(trajectory: Trajectory, trusted: Any = None) -> Trusted:
    """The trusted examples as one batch, checked; None = the run's own test set.

    Errors: none at all; fewer than 20; other entries than training examples have; labels of classes that no
    training example has; NaN or infinity where no training example has it; more than a tenth of them trained
    on as well. Fewer of these are left out. So are all but the first of equal ones: a copy would judge what
    its twin chose, and count twice. And those whose target the loss ignores, which judge nothing.
    """
    workload = trajectory.workload
    if trusted is None and workload.test is None:
        raise InputError(
            "curate needs trusted data: examples with right labels that the run was not trained on, of which "
            "some choose and others judge; pass trusted=(x, y) or a data set (--trusted FILE.py:NAME), or "
            "open the run with a test set, which is then split"
        )
    theirs = named(workload.examples(torch.arange(1, device=workload.device)))
    batch = workload.test if trusted is None else _batch(workload, trusted, theirs)
    count = len(tensors_of(batch)[0])
    ids = list((workload.test_ids if trusted is None else None) or range(count))
    _check_count(count)
    mine = named(batch)
    _check_entries(mine, theirs)
    digests = digest_each(mine)
    seen = _compare(workload, batch, ids)
    known, none = _labelled(workload, batch)
    copies = [k for k, each in enumerate(digests) if known[k] and each in seen]
    if len(copies) > _TOO_MANY * count:
        raise InputError(
            f"trusted: {len(copies)} of {count} examples are also trained on (equal contents, first "
            f"'{ids[copies[0]]}'); they cannot judge what training on them did: give examples that the run "
            "has not seen"
        )
    first = {each: k for k, each in reversed([*enumerate(digests)]) if known[k]}
    rest = np.array(sorted(k for each, k in first.items() if each not in seen), dtype=np.int64)
    ignored = int((~known).sum())
    twins = count - len(rest) - len(copies) - ignored
    why = {_TRAINED: len(copies), _EQUAL: twins, _IGNORED: ignored}
    gone = {each: number for each, number in why.items() if number}
    _check_count(
        len(rest), f" once {' and '.join(f'{n} that are {each}' for each, n in gone.items())} are left out"
    )
    some = select(batch, torch.from_numpy(rest).to(workload.device))
    return Trusted(some, [ids[k] for k in rest], gone, none)


def refuse_unfit(workload: Workload, trusted: Any) -> None:
    """Refuse trusted examples, now the test set of `workload`, on which the model or the loss fails, is
    random, or compares each with the targets of all. `trusted`: as the user gave them."""
    name = "test" if trusted is None else "trusted"
    refuse_random_evaluation(workload, name)
    refuse_other_shapes(workload, name)


def split(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of `count` examples in two halves at random, ascending: those that choose, and those that
    judge, which are one more where the number is odd."""
    order = np.random.default_rng(seed % 2**64).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def tested_on(trajectory: Trajectory, batch: Batch) -> Trajectory:
    """The same run with another test set, which queries read; its data are watched as before."""
    workload = copy(trajectory.workload)
    object.__setattr__(workload, "test", batch)
    object.__setattr__(workload, "test_ids", None)
    vars(other := copy(trajectory)).update(workload=workload, reruns={})
    return other


def _check_entries(mine: Iterable[str], theirs: Iterable[str]) -> None:
    if {*mine} != {*theirs}:
        raise InputError(
            f"trusted: expected the entries of a training example, {', '.join(theirs)}; got {', '.join(mine)}"
        )


def _batch(workload: Workload, trusted: Any, theirs: Iterable[str]) -> Batch:
    collate: Any = getattr(workload.call, "collate", default_collate)
    key = collate.key if isinstance(collate, WithoutEntry) else None
    plain = collate.collate if isinstance(collate, WithoutEntry) else collate
    batch = whole_set(trusted, plain, key, workload.device, "trusted")
    if isinstance(batch, dict):
        _check_entries([*map(str, batch)], theirs)
    check_set("trusted", batch, workload.target_key)
    return batch


def _check_count(count: int, when: str = "") -> None:
    if count < LEAST:
        raise InputError(
            f"trusted: expected at least {LEAST} examples, got {count}{when}; some of them choose and "
            "others judge, and of fewer neither says anything"
        )


def _compare(workload: Workload, batch: Batch, ids: list[Any]) -> set[bytes]:
    """Digests of all training examples. Errors: trusted examples with classes, with NaN or infinity, that no
    training example has. Cost: every training example is fetched once."""
    seen, classes, finite = set[bytes](), list[Tensor | None](), dict[str, bool]()
    for rows in torch.arange(workload.n_train, device=workload.device).split(_PIECE):
        some = workload.examples(rows)
        entries = named(some)
        seen.update(digest_each(entries))
        finite = {name: finite.get(name, True) and bool(x.isfinite().all()) for name, x in entries.items()}
        classes.append(_classes(workload, some))
    _check_finite(batch, ids, finite)
    mine = _classes(workload, batch)
    if mine is not None and all(each is not None for each in classes):
        _check_classes(mine, torch.cat([each for each in classes if each is not None]))
    return seen


def _labelled(workload: Workload, batch: Batch) -> tuple[np.ndarray, list[str]]:
    """Which trusted examples have a target that the loss does not ignore, [trusted], and the names of the
    classes that training examples have and none of these; of targets that are no classes all, and no name."""
    labels, count = labels_of(workload), len(tensors_of(batch)[0])
    target = workload.calls.target(batch)
    if labels.numbers is None or labels.values is None or target.numel() != count:
        return np.ones(count, dtype=bool), []
    target = target.detach().reshape(-1).to(labels.numbers)
    known = torch.isin(target, labels.numbers) | (labels.kind != "classes")
    missing = ~torch.isin(labels.numbers, target) & torch.isin(
        labels.numbers, labels.values.to(labels.numbers)
    )
    return known.cpu().numpy(), class_names(labels.numbers[missing].tolist(), workload.info)


def _check_finite(batch: Batch, ids: list[Any], finite: dict[str, bool]) -> None:
    """Errors: NaN or infinity in an entry that is `finite` in all training examples."""
    for name, x in named(batch).items():
        odd = (~x.isfinite()).reshape(len(x), -1).any(1).nonzero().ravel().tolist()
        if odd and finite[name]:
            raise InputError(
                f"trusted: {len(odd)} of {len(x)} examples hold NaN or infinity in entry {name} (first "
                f"'{ids[odd[0]]}'), and no training example does; leave them out, or fill them in"
            )


def _classes(workload: Workload, batch: Batch) -> Tensor | None:
    """The classes of examples, if their targets are one whole number each."""
    target = workload.calls.target(batch)
    if not isinstance(target, Tensor) or target.numel() != len(tensors_of(batch)[0]) or target.is_complex():
        return None
    values = target.detach().reshape(-1).cpu()
    return values if not values.is_floating_point() or bool((values == values.round()).all()) else None


def _check_classes(mine: Tensor, theirs: Tensor) -> None:
    known = theirs.unique()
    if theirs.is_floating_point() and len(known) > 2:
        return  # whole numbers as a regression may have them
    odd = ~torch.isin(mine.double(), known.double())
    if odd.any():
        words = ", ".join(f"{float(x):g}" for x in mine[odd].unique()[:5])
        raise InputError(
            f"trusted: {int(odd.sum())} of {len(mine)} examples have labels that no training example has "
            f"({words}); the run cannot have learnt these classes: leave them out, or number the classes as "
            "in training"
        )
