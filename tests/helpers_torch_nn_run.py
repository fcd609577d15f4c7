"""A row of the table of torch.nn by influencekit: what comes of it, and whether that is right."""

import re
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from helpers_torch_nn import MOMENTUM, NOISE, Row, right
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from influencekit._trajectory.trajectory import Trajectory

ESTIMATORS = ("dit", "loo")
DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Outcome(NamedTuple):
    """`status`: right, refused, wrong or raw error; `error`: relative to the largest right score, or None."""

    name: str
    dtype: str
    by: str
    estimator: str
    status: str
    error: float | None = None
    message: str = ""


def recorded(row: Row, dtype: torch.dtype) -> Trajectory:
    """The row's run by `ik.record`."""
    batches = row.order()
    order = torch.full((len(batches), max(map(len, batches))), -1)
    for t, batch in enumerate(batches):
        order[t, : len(batch)] = torch.tensor(batch)
    workload = ik.Workload(
        model=row.built(dtype, row.modes["record"]), loss=row.loss, train=row.examples(dtype),
        test=row.examples(dtype, test=True), optimizer=ik.SGD(lr=row.lr, momentum=MOMENTUM), order=order,
    )  # fmt: skip
    return ik.record(workload)


def taped(row: Row, dtype: torch.dtype) -> Trajectory:
    """The row's run as a loop of one's own, with a tape."""
    model, data = row.built(dtype, row.modes["tape"]), TensorDataset(*row.examples(dtype))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], row.lr, MOMENTUM)
    loader = DataLoader(data, batch_sampler=row.order(), generator=torch.Generator().manual_seed(5))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(NOISE)
        with ik.Tape(None, model, optimizer, loss=row.loss, data=data, recorder="every-k:k=2") as tape:
            for _, (*inputs, target) in tape.batches(loader):
                optimizer.zero_grad()
                row.loss(model(*inputs), target).mean().backward()
                optimizer.step()
    return tape.trajectory(test=row.examples(dtype, test=True))


RUNS: dict[str, Callable[[Row, torch.dtype], Trajectory]] = {"record": recorded, "tape": taped}


def outcomes(row: Row, dtype: str, by: str) -> list[Outcome]:
    """What comes of a row, for both estimators."""
    about = (row.name, dtype, by)
    try:
        run = RUNS[by](row, DTYPES[dtype])
    except Exception as error:
        return [Outcome(*about, name, *refusal(error)) for name in ESTIMATORS]
    found, wanted = [], right(row, by, DTYPES[dtype])
    for name in ESTIMATORS:
        try:
            scores = torch.from_numpy(ik.estimate(run, "test-loss", name).influence.values).double()
        except Exception as error:
            found.append(Outcome(*about, name, *refusal(error)))
            continue
        difference = (scores.flatten() - wanted[name]).abs().max() / wanted[name].abs().max()
        good = bool(difference <= row.tolerance[DTYPES[dtype] is torch.float64])
        found.append(Outcome(*about, name, "right" if good else "wrong", float(difference)))
    return found


def refusal(error: Exception) -> tuple[str, None, str]:
    """An error of ours in one line is a refusal."""
    words = str(error).strip()
    if isinstance(error, ik.InfluenceKitError) and words and "\n" not in words:
        return "refused", None, words
    return "raw error", None, f"{type(error).__name__}: {words.partition(chr(10))[0]}"


def expected(row: Row, dtype: str, by: str, estimator: str) -> str | None:
    """What the refusal of this variant must say, or None where the scores must be right."""
    keys = (f"{by} {dtype} {estimator}", f"{by} {estimator}", f"{by} {dtype}", by, estimator, "all")
    return next((row.refused[k] for k in keys if k in row.refused), None)


def as_expected(row: Row, outcome: Outcome) -> bool:
    said = expected(row, *outcome[1:4])
    if said is None:
        return outcome.status == "right"
    return outcome.status == "refused" and re.search(said, outcome.message) is not None


if __name__ == "__main__":
    from helpers_torch_nn_table import TABLE

    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        for dtype in DTYPES:
            for by in RUNS:
                for outcome in outcomes(TABLE[name], dtype, by):
                    print(*outcome, flush=True)
