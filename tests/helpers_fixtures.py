"""The models, data and loops behind the stores in `tests/fixtures/0.1.0`, built again from public names.

Every number here comes from whole numbers by one division, so data and first parameters are the same bits on
every machine. The functions named like a folder (`full_sgd` for `full-sgd`) are what `--code` takes.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

ROOT = Path(__file__).parent / "fixtures" / "0.1.0"
F64 = torch.float64
N, TEST, FEATURES, SIZE, EPOCHS = 10, 4, 3, 4, 3  # three steps an epoch, the last one of two examples
STEPS = EPOCHS * 3

# by `record()`, to the end of the window; cut off; by `influencekit record`; by a tape
RECORDED = ("full-sgd", "every-k-momentum", "revolve-adam", "rounded-sgd", "groups-window", "batch-norm")
CUT = ("interrupted", "stopped")
COMMAND = ("command-mnist", "command-kmnist")
TAPED = ("taped", "taped-interrupted")
RECORDERS = {
    "full-sgd": "full", "every-k-momentum": "every-k:k=4", "revolve-adam": "revolve:states=3",
    "rounded-sgd": "rounded:bits=7:k=2", "groups-window": "every-k:k=3", "batch-norm": "every-k:k=4",
    "interrupted": "every-k:k=2", "stopped": "every-k:k=2",
}  # fmt: skip
WINDOW = (2, 8)  # the steps that groups-window keeps
# what can be asked of a run that does not reach from the first step to the last
ASKED = {"groups-window": "step:2-8", "interrupted": "step:0-5", "stopped": "step:0-6"}
COMMANDS = {
    "command-mnist": "mnist-1v7-lr:epochs=2:n_train=16:batch_size=8",
    "command-kmnist": "kmnist-lr:epochs=2:n_train=16:batch_size=8",
}
# what is compared, and what retrained models are kept of
EVALUATED = [COMMANDS["command-mnist"], "--estimators", "dit,loo", "--evaluate", "lds:m=4"]


def numbers(*shape: int, start: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Values between -1 and 1 that look random: a multiplicative sequence modulo a prime, divided by it."""
    size = torch.Size(shape).numel()
    rows = torch.arange(1, size + 1, dtype=torch.int64) + 1000 * start
    return (rows * rows * 7919 % 10007 * 2 - 10007).to(dtype).div(10007).view(shape)


def filled(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with parameters from `numbers`."""
    model = model.to(dtype)
    with torch.no_grad():
        for k, p in enumerate(model.parameters()):
            p.copy_(0.8 * numbers(*p.shape, start=10 + k, dtype=dtype))
    return model


def network(dtype: torch.dtype, *middle: nn.Module) -> nn.Module:
    """11 parameters, and those of the layers in the middle."""
    return filled(nn.Sequential(nn.Linear(FEATURES, 2), *middle, nn.Tanh(), nn.Linear(2, 1)), dtype)


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Per-example losses [n] of one logit."""
    return F.binary_cross_entropy_with_logits(output.squeeze(-1), target, reduction="none")


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output.squeeze(-1) - target).square()


def examples(n: int, start: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = numbers(n, FEATURES, start=start, dtype=dtype)
    return x, (x[:, 0] + 0.3 * numbers(n, start=start + 1, dtype=dtype) > 0).to(dtype)


def workload(
    optimizer: ik.Optimizer, *middle: nn.Module, dtype: torch.dtype = torch.float64, **more: Any
) -> ik.Workload:
    settings = {
        "model": network(dtype, *middle), "loss": loss, "train": examples(N, 1, dtype),
        "test": examples(TEST, 3, dtype), "optimizer": optimizer,
        "epochs": EPOCHS, "batch_size": SIZE, "seed": 1,
    }  # fmt: skip
    return ik.Workload(**settings | more)


# what was recorded by record(): a workload of each ---------------------------------------------------------


def full_sgd() -> ik.Workload:
    return workload(ik.SGD(lr=0.5), name="full-sgd")


def every_k_momentum() -> ik.Workload:
    rule = ik.SGD(lr=0.2, momentum=0.9, weight_decay=0.01)
    return workload(rule, dtype=torch.float32, schedule=ik.Cosine(), l2=0.02)


def revolve_adam() -> ik.Workload:
    return workload(ik.Adam(lr=0.05, clip_norm=0.5), schedule=ik.InverseSqrt())


def rounded_sgd() -> ik.Workload:
    return workload(ik.SGD(lr=0.5), dtype=torch.float32)


def groups_window() -> ik.Workload:
    """Two parameter groups, batches that are dicts, ids that are text."""
    rule = ik.AdamW(lr=0.05, groups=(ik.Group(("*.bias",), {"lr": 0.02, "weight_decay": 0.0}),))
    train, test = ({"input": x, "labels": y} for x, y in (examples(N, 1, F64), examples(TEST, 3, F64)))
    return workload(rule, train=train, test=test, train_ids=[f"img/{k}é" for k in range(N)])


def batch_norm() -> ik.Workload:
    return workload(ik.SGD(lr=0.2, momentum=0.9), nn.BatchNorm1d(2))


def interrupted() -> ik.Workload:
    return workload(ik.Adam(lr=0.05), dtype=torch.float32)


def stopped() -> ik.Workload:
    """The seventh step has a learning rate after which the squared loss is infinite."""
    schedule = ik.Factors((1.0,) * 6 + (1e300,) * 3)
    return workload(ik.SGD(lr=0.1), loss=squared, schedule=schedule)


# what was taped: a loop of each, and what open() needs -----------------------------------------------------


def taped() -> dict[str, Any]:
    model = network(torch.float32, nn.Dropout(0.2))
    return _parts(model, torch.float32)


def taped_interrupted() -> dict[str, Any]:
    return _parts(network(torch.float64, nn.BatchNorm1d(2)), torch.float64)


def _parts(model: nn.Module, dtype: torch.dtype) -> dict[str, Any]:
    data, test = examples(N, 1, dtype), examples(TEST, 3, dtype)
    return {"model": model, "loss": loss, "data": TensorDataset(*data), "test": test}


def run_taped(store: Path | None) -> None:
    """Adam, dropout, shuffled batches of two, two of them a step."""
    torch.manual_seed(4)
    parts = taped()
    model = parts["model"].train()
    rule = torch.optim.Adam(model.parameters(), lr=0.05)
    loader = DataLoader(parts["data"], batch_size=2, shuffle=True, drop_last=True)
    settings = {"loss": loss, "data": parts["data"], "recorder": "every-k:k=3", "accumulate": 2}
    with ik.Tape(store, model, rule, **settings) as tape:
        for _ in range(4):
            for k, (_, (x, y)) in enumerate(tape.batches(loader)):
                if k == 4:  # the fifth batch of an epoch is one too many for steps of two
                    break
                (loss(model(x), y).mean() / 2).backward()
                if k % 2:
                    rule.step()
                    rule.zero_grad()


def run_taped_interrupted(store: Path | None, stop_after: int | None = None) -> Tensor:
    """SGD with momentum and a schedule, batch norm, clipping; goes on where a store is there. The last theta.

    `stop_after` steps of this call the loop is interrupted from the keyboard.
    """
    torch.manual_seed(5)
    parts = taped_interrupted()
    model = parts["model"].train()
    rule = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(rule, T_max=STEPS)
    loader = DataLoader(parts["data"], batch_size=SIZE, shuffle=True)
    settings = {"loss": loss, "data": parts["data"], "recorder": "every-k:k=2", "clip_norm": 0.5}
    done = 0
    with ik.Tape(store, model, rule, scheduler=schedule, resume=store is not None, **settings) as tape:
        for _ in range(EPOCHS):
            for _, (x, y) in tape.batches(loader):
                if done == stop_after:
                    raise KeyboardInterrupt
                rule.zero_grad()
                loss(model(x), y).mean().backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                rule.step()
                schedule.step()
                done += 1
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def run_collected(store: Path) -> None:
    """Projected gradients of a plain loop."""
    from influencekit_dvemb import Collector

    x, y = examples(N, 1, F64)
    model = network(F64)
    rule = torch.optim.SGD(model.parameters(), lr=0.5)
    with Collector(store, model, rule, examples=N, slots=SIZE, dim=2) as collect:
        for epoch in range(EPOCHS):
            for rows in torch.arange(N).split(SIZE):
                rule.zero_grad()
                loss(model(x[rows]), y[rows]).mean().backward()
                collect.step(rows, epoch)
                rule.step()


def query_gradient() -> Tensor:
    """The gradient [1, param] of no query in particular."""
    return numbers(1, 11, start=30)


# what is asked of all of them ------------------------------------------------------------------------------


def built(name: str) -> Any:
    """The workload of a folder of fixtures, or the arguments of open()."""
    return globals()[name.replace("-", "_")]()


def reopened(name: str, store: Path) -> ik.Trajectory:
    """The recorded run in a store, with what made it."""
    if name in COMMANDS:
        kind, *options = COMMANDS[name].split(":")
        given = {key: int(value) for key, value in (each.split("=") for each in options)}
        return ik.open(store, ik.make("workload", kind, setting="trained", **given))
    found = built(name)
    return ik.open(store, **found) if isinstance(found, dict) else ik.open(store, found)


def code(name: str) -> list[str]:
    """What the command line needs to open the store."""
    return [] if name in COMMANDS else ["--code", f"{__file__}:{name.replace('-', '_')}"]


def asked(name: str) -> dict[str, str]:
    """Windows and removal of the scores that are kept of a run: the whole run, or the recorded part of it."""
    return {"windows": ASKED[name], "removal": "window"} if name in ASKED else {"windows": "full"}


def scores(run: ik.Trajectory, name: str) -> dict[str, list[float]]:
    """Scores [train] of the mean test loss by dit and by loo."""
    return {
        kind: [float(x) for x in ik.estimate(run, "test-loss", kind, **asked(name)).influence.values.ravel()]
        for kind in ("dit", "loo")
    }


def bits() -> str:
    """A digest of what this machine's torch makes of a few plain steps: the same bits mean the same kernels.

    Only then is training here bitwise what it was where the fixtures were made. Plain torch alone is asked.
    """
    total = hashlib.sha256()
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(7)
        model = network(dtype, nn.BatchNorm1d(2), nn.Dropout(0.2))
        rule = torch.optim.Adam(model.parameters(), lr=0.05)
        for n in (2, 3, 4, 16):
            x, y = examples(n, n, dtype)
            loss(model(x), y).mean().backward()
            rule.step()
            total.update(torch.cat([p.detach().flatten() for p in model.parameters()]).numpy().tobytes())
        wide = numbers(8, 784, start=5, dtype=dtype)
        total.update((wide @ wide.T).exp().log1p().numpy().tobytes())
    return total.hexdigest()[:16]
