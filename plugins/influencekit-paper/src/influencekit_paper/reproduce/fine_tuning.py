"""Table VI's experiment: wrong labels found by `dit`, and by two rankings that know no influence."""

import tempfile
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import nn

import influencekit as ik
from influencekit.evaluation import detection as detect
from influencekit.extend import Step
from influencekit_paper.reproduce.runs import Found, scores
from influencekit_paper.reproduce.vit import problem

__all__ = ["fine_tuning", "frozen_losses"]

_STEPS: dict[str, Step] = {}
_ON_DISK = 16 << 30  # bytes of states above which only some are stored
_FOLDS, _RIDGE, _ROUNDS = 5, 1e-2, 200


def fine_tuning(
    sources: tuple[str, str], seed: int, device: str, *, flipped: float, examples: int, size: int, **_: str
) -> Found:
    """How many flipped labels are among as many of the lowest scores of the pool.

    `dit`: the whole run's effect on the mean test loss. `final-loss`: the largest loss at the end.
    `frozen`: the largest loss of a linear model on the features before fine-tuning, which has not seen the
    image (5 folds). `sources`: the data file, and the folder of weights.
    """
    work, wrong, pool = problem(*sources, seed, flipped=flipped, examples=examples, size=size)
    work = work.to(device)
    with tempfile.TemporaryDirectory() as folder:
        step = _STEPS["last"] = Step(work, like=_STEPS.get("last"))  # traced once a process
        run = ik.record(work, _recorder(work), Path(folder) / "run.zarr", step=step)
        rows = {name: scores(run, name).values[0] for name in ("dit", "final-loss")}
        accuracy = run.attrs["accuracy"]
    frozen, before = frozen_losses(work, seed)
    rows["frozen"] = -frozen
    return {
        "accuracy": accuracy,
        "frozen_accuracy": before,
        "examples": work.n_train,
        "pool": len(pool),
        "flipped": int(wrong.sum()),
        "parameters": work.n_params,
        "found": {name: _judged(row[pool], wrong[pool]) for name, row in rows.items()},
    }


def _recorder(work: ik.Workload) -> str:
    """Every state, on a temporary disk; or every k-th, k the square root of the steps, which costs one more
    training and k states of memory."""
    steps, state = work.plan.steps, 3 * work.theta0.nbytes
    return "full" if steps * state <= _ON_DISK else f"every-k:k={round(steps**0.5)}"


def frozen_losses(work: ik.Workload, seed: int) -> tuple[np.ndarray, float]:
    """Losses [train] of linear models on frozen features, each by a model that did not train on the image,
    and the test accuracy of the model of all images.

    Features are standardised; logistic regression with the penalty .01 |w|^2 / 2 a mean, by L-BFGS.
    """
    x, y = (torch.as_tensor(each) for each in work.train)
    with torch.no_grad():
        features = [_features(work, each) for each in (x, work.test[0])]  # type: ignore[index]
    mean, std = features[0].mean(0), features[0].std(0) + 1e-6
    train, test = ((each - mean) / std for each in features)
    part = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)) % _FOLDS).to(y.device)
    losses = torch.zeros(len(y), dtype=train.dtype, device=y.device)
    for fold in range(_FOLDS):
        here = part == fold
        logits = _linear(train[~here], y[~here])(train[here])
        losses[here] = nn.functional.cross_entropy(logits, y[here], reduction="none").detach()
    right = _linear(train, y)(test).argmax(1) == work.test[1]  # type: ignore[index]
    return losses.cpu().numpy(), float(right.double().mean())


def _features(work: ik.Workload, x: torch.Tensor) -> torch.Tensor:
    model = work.model
    return torch.cat([model.features(some) for some in x.split(32)])  # type: ignore[operator]


def _linear(x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    model = nn.Linear(x.shape[1], 2, device=x.device, dtype=x.dtype)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=_ROUNDS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y) + _RIDGE / 2 * model.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return model


def _judged(row: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    found = detect(xr.DataArray(row, dims="train"), mask)
    return {"found": float(found.found), "auc": float(found.auc)}
