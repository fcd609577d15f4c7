"""The cost model of docs/dev/scale.md: from sizes and machines to seconds and bytes."""

from dataclasses import asdict, dataclass
from math import log2
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What was measured at one n. `found` has `seconds` and `bytes` by name."""

    n: int
    steps: int
    batch: int
    found: dict[str, Any]

    @property
    def visits(self) -> int:
        """Examples that steps have seen: T b."""
        return self.steps * self.batch

    @property
    def index_bytes(self) -> float:
        """What positions need: log2 n bits for each visit and each id."""
        return (self.visits + self.n) * log2(self.n) / 8


def predicted(costs: dict[int, Cost]) -> dict[int, dict[str, dict[str, float]]]:
    """{n: {seconds or bytes: {name: value}}} of every n but the two smallest, which give the constants.

    Seconds and bytes are c0 + c1 T, which do not fall, but bytes of positions, which are c (T b + n) log2 n.
    """
    first, second, *rest = sorted(costs.values(), key=lambda cost: cost.n)
    found: dict[int, dict[str, dict[str, float]]] = {}
    for cost in rest:
        lines: dict[str, dict[str, float]] = {"seconds": {}, "bytes": {}}
        for kind, values in lines.items():
            for name in first.found[kind]:
                low, high = first.found[kind][name], second.found[kind][name]
                slope = max(0.0, high - low) / (second.steps - first.steps)
                values[name] = low + slope * (cost.steps - first.steps)
                if name == "indices":
                    values[name] = high / second.index_bytes * cost.index_bytes
        found[cost.n] = lines
    return found


@dataclass(frozen=True)
class Machine:
    """A node. flops: that a training step reaches, per second; network, disk: bytes a second; latency: s."""

    flops: float
    network: float
    disk: float
    latency: float
    memory: float


# One node = 8 accelerators of 400 TFLOP/s in bf16 at 40 %, 8 links of 50 GB/s at 80 %, a local disk; or a
# processor of 32 cores. What they reach is assumed, not measured.
GPU = Machine(flops=8 * 400e12 * 0.4, network=8 * 50e9 * 0.8, disk=5e9, latency=20e-6, memory=8 * 140e9)
CPU = Machine(flops=1e12, network=3e9, disk=1e9, latency=50e-6, memory=256e9)
MACHINES = {"GPU node": asdict(GPU), "CPU node": asdict(CPU)}


@dataclass(frozen=True)
class Run:
    """A run on paper. flops: of one example, forward and backward; slots: the optimizer's vectors."""

    n: float
    epochs: float
    batch: float
    trained: float
    flops: float
    slots: int
    node: Machine
    nodes: int = 64
    columns: int = 1
    evaluations: int = 1
    every: int = 1000
    sweep: float = 2.5  # times the arithmetic of training, which `benchmarks sweep` and `minilm` measured
    subsets: int = 24


COSTS = {
    "logistic regression, 1e9 rows, 64 CPU nodes": Run(1e9, 1, 1e6, 21, 6 * 21, 0, CPU),
    "22M parameters, 1e9 texts of 32 tokens, 64 GPU nodes": Run(1e9, 1, 65536, 22e6, 6 * 22e6 * 32, 2, GPU),
    "adapters of 184k in 270M, 1e9 texts of 48 tokens, 64 GPU nodes":
        Run(1e9, 1, 65536, 184_320, 6 * 270e6 * 48, 2, GPU),
    "22M parameters, 1e6 texts of 32 tokens, 1 GPU node":
        Run(1e6, 3, 1024, 22e6, 6 * 22e6 * 32, 2, GPU, nodes=1, every=50),
}  # fmt: skip


def simulated(run: Run) -> dict[str, float]:
    """Seconds and bytes of a run; all nodes do the same, and transfers do not overlap with arithmetic."""
    steps = run.n * run.epochs / run.batch
    visits = run.n * run.epochs
    state = 4 * run.trained * (1 + run.slots)
    arithmetic = visits * run.flops / (run.nodes * run.node.flops)
    # a ring: every rank sends and receives 2 (R - 1) / R of the vector; a sweep one for every column
    ring = 0.0 if run.nodes == 1 else (
        2 * (run.nodes - 1) / run.nodes * 4 * run.trained / run.node.network
        + 2 * (run.nodes - 1) * run.node.latency
    )  # fmt: skip
    train = arithmetic + steps * ring
    sweep = run.sweep * arithmetic + arithmetic + steps * (run.columns + 1) * ring  # with a replay
    contributions = 4 * run.columns * run.evaluations * visits
    return {
        "steps": steps,
        "state_bytes": state,
        "stored_states_bytes": (steps / run.every + 2) * state,
        "all_states_bytes": (steps + 1) * state,
        "plan_bytes": 24 * visits,
        "positions_and_losses_bytes": 12 * visits,
        "contributions_bytes": contributions,
        "contributions_bytes_each_node": contributions / run.nodes,
        "scores_bytes": 4 * run.columns * run.n,
        "train_seconds": train,
        "train_transfer_fraction": steps * ring / train,
        "sweep_seconds": sweep,
        "sweep_transfer_fraction": steps * (run.columns + 1) * ring / sweep,
        "write_contributions_seconds": contributions / run.nodes / run.node.disk,
        "lds_seconds": run.subsets * train,
        "loo_of_all_years": run.n * train / (365.25 * 86400),
    }
