"""Scoring throughput: stored embeddings against computing projected gradients again, on the same model.

    python benchmarks/dvemb_throughput.py            # writes results/dvemb_throughput.json

The question is the same for both: new queries come, each the gradient of another test loss at the final
parameters; score every training example. `stored`: one product of the query's projected gradient with the
embeddings in their zarr store, opened once, read from disk each time (every occurrence is scored).
`recomputed`: what a method does that stores no gradients (LoGra-like): the projected gradients of all
training examples at the final parameters, by the same hooks and the same projection, then the product. One
thread, in turn; the throughput counts pairs of a training example and a query. The query's own gradient,
which both need, is left out.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from influencekit_dvemb import embed, scores
from influencekit_dvemb.embeddings import projection_of
from influencekit_dvemb.sources import Replayed
from machine import machine

import influencekit as ik
from influencekit.training.batch import select

RESULTS = Path(__file__).parent / "results"
WORKLOADS = {  # options; one epoch, so that every example has one embedding, as in training on a stream
    "mnist-1v7-dnn": {"n_train": 12736, "epochs": 1},
    "mnist-1v7-cnn": {"n_train": 4096, "epochs": 1},
}


def timed(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each job, all done once in every round."""
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            began = time.perf_counter()
            job()
            spent[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in spent.items()}


def measured(name: str, options: dict, dim: int, queries: int, rounds: int, folder: Path) -> dict:
    """Pairs a second of both ways, for one query and for several at once."""
    workload = ik.make("workload", name, setting="trained", **options)
    run = ik.record(workload, "every-k:k=1000000")
    began = time.perf_counter()
    store = embed(run, folder / f"{name}.zarr", dim=dim)
    once = time.perf_counter() - began
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
        found = timed(
            {
                "stored": lambda n=count: scores(store, q[:n]),
                "recomputed": lambda n=count: recomputed(q[:n]),
            },
            rounds,
        )
        out[str(count)] = {
            "seconds": found,
            "pairs_a_second": {k: workload.n_train * count / s for k, s in found.items()},
            "ratio": found["recomputed"] / found["stored"],
        }
    return out | {"accuracy": run.attrs["accuracy"], "parameters": workload.n_params}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        found = {
            name: measured(name, options, args.dim, args.queries, args.rounds, Path(folder))
            for name, options in WORKLOADS.items()
        }
    report = {
        "command": "python benchmarks/dvemb_throughput.py " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "threads": 1,
        "dim": args.dim,
        "queries": args.queries,
        "workloads": found,
    }
    print(json.dumps(report, indent=1))
    (RESULTS / "dvemb_throughput.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
