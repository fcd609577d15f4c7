"""How fast are scores from stored embeddings, against computing projected gradients again?

The question is the same for both: new queries come, each the gradient of another test loss at the final
parameters; score every training example. `stored`: one product of the query's projected gradient with the
embeddings in their zarr store, opened once, read from disk each time (every occurrence is scored).
`recomputed`: what a method does that stores no gradients (LoGra-like): the projected gradients of all
training examples at the final parameters, by the same hooks and the same projection, then the product. One
thread, in turn; the throughput counts pairs of a training example and a query. The query's own gradient,
which both need, is left out.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from influencekit_dvemb import embed, scores
from influencekit_dvemb.embeddings import projection_of
from influencekit_dvemb.sources import Replayed

import influencekit as ik
from benchmarks.shared.results import each
from benchmarks.shared.timing import side_by_side, timed
from influencekit._training.batch import select

TAKES = "3 min"
CASES = {"mnist-1v7-dnn": 12736, "mnist-1v7-cnn": 4096}  # training examples
QUICK = {"cases": ["mnist-1v7-dnn"], "rounds": 1, "queries": 4}


def measure(name: str, dim: int, queries: int, rounds: int, folder: Path) -> dict:
    """Pairs a second of both ways, for one query and for several at once."""
    workload = ik.make("workload", name, setting="trained", n_train=CASES[name], epochs=1)
    # one epoch, so that every example has one embedding, as in training on a stream
    run = ik.record(workload, "every-k:k=1000000")
    store, once = timed(lambda: embed(run, folder / f"{name}.zarr", dim=dim))
    projection, layout = projection_of(store)

    def loss(theta: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        return workload.losses(theta, select(workload.test, row[None])).sum()

    # one after the other: all at once would take gigabytes
    q = torch.stack([torch.func.grad(loss)(run.final.theta, row) for row in torch.arange(queries)])
    source = Replayed(run, dim, 0)
    rows = torch.arange(workload.n_train).view(-1, workload.batch_size)

    def recomputed(q: torch.Tensor) -> torch.Tensor:
        a = projection.of_flat(layout, q)
        return torch.cat([source.at(run.final.theta, batch) @ a.T for batch in rows])

    out: dict = {"embedding_seconds": once, "features": projection.features, "train": workload.n_train}
    for count in (1, queries):
        jobs = {"stored": partial(scores, store, q[:count]), "recomputed": partial(recomputed, q[:count])}
        times = side_by_side(jobs, rounds)
        spent = {job: times.median(job) for job in jobs}
        out[str(count)] = {
            "seconds": spent,
            "pairs_a_second": {k: workload.n_train * count / s for k, s in spent.items()},
            "ratio": spent["recomputed"] / spent["stored"],
        }
    return out | {"accuracy": run.attrs["accuracy"], "parameters": workload.n_params}


@click.option("--dim", default=256)
@click.option("--queries", default=64)
@click.option("--rounds", default=7)
def answer(dim: int, queries: int, rounds: int, cases: list[str]) -> dict:
    with TemporaryDirectory() as folder:
        found = each(cases, lambda name: measure(name, dim, queries, rounds, Path(folder)))
    return {"threads": 1, "dim": dim, "queries": queries, "workloads": found}
