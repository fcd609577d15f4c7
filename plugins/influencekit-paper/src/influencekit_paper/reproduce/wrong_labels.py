"""Table V's experiments: flipped labels among the most negative scores, and retraining in part."""

import numpy as np
import torch
import xarray as xr

import influencekit as ik
from influencekit.errors import InfluenceKitError
from influencekit.evaluation import detection as detect
from influencekit.evaluation import flipped as flip
from influencekit.extend import Weighting, retraining_effects
from influencekit.windows import REMOVALS, Window
from influencekit_paper.reproduce.baselines import gradient_norm, tracin
from influencekit_paper.reproduce.runs import QUERY, Found, agreement_of, epochs, recorded, scores

__all__ = ["detection", "part_of", "retraining"]


def detection(
    problem: ik.Workload, seed: int, *, flipped: float, every_epoch: bool = True, loo: bool = True
) -> Found:
    """Table V: how many of the flipped labels are among as many of the most negative scores.

    Of the epochs' windows, all or (every_epoch=False) the first, the middle and the last are scored.
    """
    wrong, mask = flip(problem, flipped, seed)
    run = recorded(wrong)
    every = epochs(run)
    chosen = list(range(len(every))) if every_epoch else [0, len(every) // 2, len(every) - 1]
    spans = [Window(every[e].start, every[e].stop, removal) for removal in REMOVALS for e in chosen]
    dit = scores(run, "dit", [Window(0, run.steps), *spans]).values
    rows = {"full": dit[0], "tracin": tracin(run, QUERY), "gradient-norm": gradient_norm(run)}
    failed = {}
    for name in ("if", "loo") if loo else ("if",):
        try:
            rows[name] = scores(run, name).values[0]
        except InfluenceKitError as error:  # conjugate gradients may not converge
            failed[name] = str(error)
    each = {
        removal: [_judged(dit[1 + k * len(chosen) + i], mask) for i in range(len(chosen))]
        for k, removal in enumerate(REMOVALS)
    }
    return {
        "accuracy": run.attrs["accuracy"],
        "flipped": int(mask.sum()),
        "found": {name: _judged(row, mask) for name, row in rows.items()},
        "epochs": chosen,
        "each": each,
        **({"failed": failed} if failed else {}),
    }


def retraining(problem: ik.Workload, seed: int, *, flipped: float, examples: int) -> Found:
    """Table V's leave-one-out where retraining without every example is too much: a part of them (0: all).

    Flipped and other examples are drawn in the proportion in which they are there, at least one flipped. Full
    DIT is judged on the same part, and compared with the truth there.
    """
    wrong, mask = flip(problem, flipped, seed)
    run = recorded(wrong)
    part = part_of(mask, examples, seed)
    left_out = [Weighting(torch.tensor([i])) for i in part]
    window = Window(0, run.steps)
    truth = retraining_effects(run, ik.make("query", QUERY), left_out, [window])[0, 0].cpu().numpy()
    dit = scores(run, "dit", [window]).values[0, part]
    return {
        "accuracy": run.attrs["accuracy"],
        "flipped": int(mask.sum()),
        "examples": len(part),
        "flipped_here": int(mask[part].sum()),
        "found": {"loo": _judged(truth, mask[part]), "full": _judged(dit, mask[part])},
        "agreement": agreement_of(dit[None], truth[None]),
    }


def part_of(mask: np.ndarray, examples: int, seed: int) -> np.ndarray:
    """Positions of `examples` of them (0: all), flipped ones in proportion."""
    n = len(mask)
    if not 0 < examples < n:
        return np.arange(n)
    generator = np.random.default_rng(seed)
    wrong = min(examples - 1, max(1, round(int(mask.sum()) * examples / n)))
    chosen = [
        generator.permutation(np.flatnonzero(here))[:count]
        for here, count in ((mask, wrong), (~mask, examples - wrong))
    ]
    return np.sort(np.concatenate(chosen))


def _judged(row: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    found = detect(xr.DataArray(row, dims="train"), mask)
    return {"found": float(found.found), "auc": float(found.auc)}
