"""Examples that the model or the loss refuses, found before training, wherever in the data they stand."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from influencekit._training.batch import Batch, select, tensors_of
from influencekit._training.checks.separability import own_losses
from influencekit._training.workload import Workload
from influencekit.errors import InfluenceKitError, InputError

__all__ = ["check_examples", "refuse_other_shapes", "refusing_indices"]

_INDICES = ("out of bounds", "out of range", "Class values must be", "device-side assert")  # torch's words


@contextmanager
def refusing_indices(what: str = "the batch") -> Iterator[None]:
    """Turn torch's errors about labels and positions that do not exist into one line of ours."""
    try:
        yield
    except (IndexError, RuntimeError) as error:
        line = _line(error)
        if not any(word in line for word in _INDICES):
            raise
        raise InputError(
            f"{what} holds a label or a position that does not exist ({line}); labels run from 0 to the "
            "number of classes less 1, tokens to the size of the embedding less 1: mend them, or pass "
            "ignore_index= to the loss"
        ) from error


@contextmanager
def saying_what_fails(what: str, advice: str) -> Iterator[None]:
    """Turn an error of the user's model or loss into one line of ours; the error itself is its cause."""
    try:
        with refusing_indices(what):
            yield
    except InfluenceKitError:
        raise
    except Exception as error:
        raise InputError(
            f"{what} cannot be used: the model or the loss fails ({type(error).__name__}: {_line(error)}); "
            f"{advice}"
        ) from error


def check_examples(workload: Workload) -> None:
    """Refuse training and test examples on which the model or the loss fails, by name.

    Tried are the first two of each set, and those with the smallest and largest integers, which stand for
    labels and positions outside of what there is. Cost: a forward pass on a few examples of each set.
    """
    for part, batch, given in (
        ("train", workload.train, workload.train_ids),
        ("test", workload.test, workload.test_ids),
    ):
        if batch is None:
            continue
        rows = _extremes(batch)
        try:
            _try(workload, part, batch, rows)
        except InputError:
            for k in rows:  # which of them it is
                name = k if given is None else given[k]
                _try(workload, f"{part}, example {name},", batch, [k, k])
            raise
    refuse_other_shapes(workload)


def refuse_other_shapes(workload: Workload, name: str = "test") -> None:
    """Refuse test examples whose targets have other dimensions than in training, where the loss, which
    spreads them out, then compares each example with the targets of all: [n] beside outputs [n, 1]. `name`:
    what the user calls the set. Cost: a few forward passes of at most four examples."""
    if workload.test is None:
        return
    one = workload.examples(torch.arange(1, device=workload.device))
    few = select(workload.test, torch.arange(min(4, workload.n_test), device=workload.device))
    theirs, mine = (workload.calls.target(batch) for batch in (one, few))
    if not (isinstance(theirs, torch.Tensor) and isinstance(mine, torch.Tensor)) or mine.ndim == theirs.ndim:
        return
    if not own_losses(partial(workload.losses, workload.theta0), few):
        shapes = [f"[{', '.join(['n', *map(str, x.shape[1:])])}]" for x in (mine, theirs)]
        raise InputError(
            f"{name}: targets have the shape {shapes[0]}, and in training {shapes[1]}; the loss then "
            "compares each example with the targets of all: give them the shape that they have in training"
        )


def _extremes(batch: Batch) -> list[int]:
    """Positions of the first two examples and of those with extreme integers."""
    tensors = tensors_of(batch)
    rows = [0, min(1, len(tensors[0]) - 1)]
    for x in tensors:
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool or not x.numel():
            continue
        flat = x.reshape(len(x), -1)
        low, high = flat.amin(1), flat.amax(1)
        rows += [int(high.argmax()), int(low.argmin())]
        between = (flat < 0) & (flat != low.min())  # behind -100, which is often meant, another may hide
        if bool(between.any()):
            rows.append(int(between.any(1).nonzero()[0]))
    return rows


def _try(workload: Workload, what: str, batch: Batch, rows: list[int]) -> None:
    few = select(batch, torch.tensor(rows, device=workload.device))
    if workload.device.type != "cpu":  # where an index outside of its range ends the process
        parts = dict.fromkeys(("train_ids", "test_ids", "validation", "order"))
        try:
            workload = replace(workload, train=few, test=few, **parts).to("cpu")  # type: ignore[arg-type]
        except Exception:  # not everything of the user's can be moved
            return
        few = workload.train
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        with saying_what_fails(what, "give examples in the form that they take"):
            workload.losses(workload.theta0, few)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:120]
